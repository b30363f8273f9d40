"""The history of a range: what each of its steps is made of, and that it is made of little."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from enrichment.batch import Batch, OffsetRange
from enrichment.caches.base import LookupCounts
from enrichment.rollup.history import OTHERS, RANGES, REASONS, read_history
from enrichment.rollup.service_levels import Breach, Level
from enrichment.rollup.table import HOUR, MINUTE, Rollups, hour_of
from enrichment.store import metrics
from enrichment.store.histogram import Histogram
from enrichment.store.jobs import Ledger, Outcome

Connection = psycopg.Connection[Any]
NOW = datetime(2024, 1, 15, 10, 30, 30, tzinfo=UTC)


def publish(connection: Connection, at: datetime, messages: int = 60, errors: dict[str, int] | None = None) -> None:
    """A batch that was published at a time, two seconds after its claim; its messages were three seconds old."""
    batch_id, ledger = f"batch of {at.isoformat()}", Ledger(connection)
    batch = Batch(batch_id, "in", batch_id, 0, (OffsetRange(0, 0, 100),))
    ledger.claim(batch, "dag", "run", "0", {0: 7})
    metrics.record(connection, batch_id, "drain", messages, 0.5, 100_000_000)
    counts = {"freshness": Histogram.of([3.0] * messages)}
    metrics.record(connection, batch_id, "publish", messages, 0.5, 200_000_000, counts)
    looked_up = LookupCounts(messages=messages, memory=messages - 6, misses=6)
    outcome = Outcome(
        read=messages, enriched=messages, partial=0, dead=0, errors_by_reason=errors or {},
        cache_counts={"geo": looked_up},
    )  # fmt: skip
    ledger.published(batch_id, outcome)
    connection.execute(
        "UPDATE enrichment_jobs SET claimed_at = %(at)s - interval '2 seconds', published_at = %(at)s"
        " WHERE batch_id = %(id)s",
        {"at": at, "id": batch_id},
    )


def milliseconds(moment: datetime) -> int:
    """As the answer has times."""
    return round(1000 * moment.timestamp())


def test_nothing_is_known_of_a_new_installation(postgres_connection: Connection) -> None:
    """But that nothing was published in the last hour; no figure is made up."""
    history = read_history(postgres_connection, "24h", NOW)
    assert (history.messages, history.batches, history.breaches) == (0, 0, [])
    assert history.messages_per_second[:-5] == [None] * (len(history.at) - 5)
    assert history.messages_per_second[-5:] == [0.0] * 5
    assert (history.freshness["p50"], history.hit_rates, history.error_rates) == ([None] * len(history.at), {}, {})


def test_hour_is_made_of_minutes_and_of_batches_after_them(postgres_connection: Connection) -> None:
    """A batch that is rolled up counts once; the last minute's rate is that of its seconds so far."""
    rolled, since = NOW - timedelta(minutes=10, seconds=15), NOW - timedelta(seconds=10)
    publish(postgres_connection, rolled)
    Rollups(postgres_connection).roll_up_minutes([rolled.replace(second=0)])
    publish(postgres_connection, rolled + MINUTE, messages=30)
    publish(postgres_connection, since)
    history = read_history(postgres_connection, "1h", NOW)
    per_second = dict(zip(history.at, history.messages_per_second, strict=True))
    assert (len(history.at), history.messages, history.batches) == (60, 150, 3)
    assert per_second[milliseconds(rolled.replace(second=0))] == 1.0
    assert per_second[milliseconds(rolled.replace(second=0) + MINUTE)] == 0.5
    assert history.messages_per_second[-1] == 2.0
    assert per_second[milliseconds(rolled.replace(second=0) - MINUTE)] is None  # nobody has rolled it up
    assert history.freshness["p99"][-1] == pytest.approx(3, rel=0.01)
    assert history.latency["p50"][-1] == pytest.approx(2, rel=0.01)
    assert history.hit_rates["geo"][-1] == 0.9
    assert (history.lag[-1], history.mean_batch[-1], history.largest_batch[-1]) == (7, 60, 60)
    assert {stage: column[-1] for stage, column in history.peak_rss_bytes.items()} == {
        "drain": 100_000_000, "publish": 200_000_000,
    }  # fmt: skip


def test_day_adds_up_quarters_of_an_hour(postgres_connection: Connection) -> None:
    """Percentiles are those of all messages of a quarter, and its rate is that of the minutes that are known."""
    quarter = NOW.replace(hour=3, minute=15, second=0)
    for n in range(3):
        publish(postgres_connection, quarter + n * MINUTE)
    Rollups(postgres_connection).roll_up_minutes(quarter + n * MINUTE for n in range(3))
    history = read_history(postgres_connection, "24h", NOW)
    at = history.at.index(milliseconds(quarter))
    assert (history.step_seconds, len(history.at)) == (900, 96)
    assert (history.messages_per_second[at], history.largest_batch[at], history.messages) == (1.0, 60, 180)


def test_weeks_are_made_of_hours_and_of_what_came_after(postgres_connection: Connection) -> None:
    """Of the present hour there are only minutes, and batches after these."""
    rollups, this_hour = Rollups(postgres_connection), hour_of(NOW)
    publish(postgres_connection, this_hour - 5 * 24 * HOUR)
    publish(postgres_connection, this_hour - HOUR)
    for hour in (this_hour - 5 * 24 * HOUR, this_hour - HOUR):
        rollups.roll_up(hour)
    publish(postgres_connection, this_hour + MINUTE)
    rollups.roll_up_minutes(this_hour - HOUR + n * MINUTE for n in range(90))
    publish(postgres_connection, NOW - timedelta(seconds=1), messages=61)
    history = read_history(postgres_connection, "7d", NOW)
    assert (len(history.at), history.messages, history.batches) == (168, 241, 4)
    assert history.messages_per_second[-2] == pytest.approx(60 / 3600)
    assert history.messages_per_second[-1] == pytest.approx(121 / (30.5 * 60))


def test_rare_reasons_share_a_line(postgres_connection: Connection) -> None:
    """A plot with any number of reasons can be read; together they are all errors."""
    errors = {f"reason-{n:02d}": 20 - n for n in range(12)}
    publish(postgres_connection, NOW - timedelta(seconds=5), messages=400, errors=errors)
    history = read_history(postgres_connection, "1h", NOW)
    assert list(history.error_rates) == [*list(errors)[:REASONS], OTHERS]
    assert sum(column[-1] or 0 for column in history.error_rates.values()) == pytest.approx(sum(errors.values()) / 400)


def test_breaches_are_those_of_the_range(postgres_connection: Connection) -> None:
    """The latest first, in words."""
    rollups = Rollups(postgres_connection)
    for hours in (3, 5, 30):
        rollups.keep_breaches(hour_of(NOW) - hours * HOUR, [Breach(Level.LAG, 2_000, 1_000)])
    history = read_history(postgres_connection, "24h", NOW)
    assert [breach.starts_at for breach in history.breaches] == [hour_of(NOW) - hours * HOUR for hours in (3, 5)]
    assert history.breaches[0].text == "2,000 messages left behind a claim, 1,000 at most wanted"
    assert not history.more_breaches


@pytest.mark.parametrize("name", RANGES)
def test_range_has_few_points(postgres_connection: Connection, name: str) -> None:
    """As many as a screen is wide, and the last one is of now."""
    history = read_history(postgres_connection, name, NOW)
    assert 60 <= len(history.at) <= 750
    assert history.at[-1] <= milliseconds(NOW) < history.at[-1] + 1000 * history.step_seconds
