"""What the messages of a range held: from metrics by way of rollups, and from the batches after these."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from enrichment.batch import Batch, OffsetRange
from enrichment.rollup.held import RANGES, Held, read_held
from enrichment.rollup.table import HOUR, MINUTE, Rollups, hour_of
from enrichment.store import metrics
from enrichment.store.contents import DEAD_LETTERS
from enrichment.store.jobs import Ledger, Outcome

Connection = psycopg.Connection[Any]
NOW = datetime(2024, 1, 15, 10, 30, 30, tzinfo=UTC)


def publish(connection: Connection, at: datetime, countries: dict[str, int], dead: int = 0) -> None:
    """A batch whose messages come from these countries; `dead` of them are no JSON."""
    batch_id, ledger = f"batch of {at.isoformat()}", Ledger(connection)
    ledger.claim(Batch(batch_id, "in", batch_id, 0, (OffsetRange(0, 0, 100),)), "dag", "run", "0")
    messages = sum(countries.values())
    metrics.record(connection, batch_id, "geo", messages, 0.5, counts={"contents": {"geo_country_code": countries}})
    letters = {DEAD_LETTERS: {"invalid-json\tat column <n>": dead}} if dead else {}
    metrics.record(connection, batch_id, "publish", messages, 0.5, counts={"contents": letters})
    errors = {"invalid-json": dead} if dead else {}
    ledger.published(
        batch_id, Outcome(read=messages + dead, enriched=messages, partial=0, dead=dead, errors_by_reason=errors)
    )
    connection.execute(
        "UPDATE enrichment_jobs SET claimed_at = %(at)s, published_at = %(at)s WHERE batch_id = %(id)s",
        {"at": at, "id": batch_id},
    )


def counts(held: Held, name: str) -> dict[tuple[str, ...], int]:
    """Messages by their values."""
    [found] = [counted for counted in held.counted if counted.name == name]
    return {tuple(count.values): count.messages for count in found.counts}


def test_week_has_the_counts_of_hours_minutes_and_batches(postgres_connection: Connection) -> None:
    """Each batch once, whether it is rolled up by the hour, by the minute or not yet."""
    rollups, this_hour = Rollups(postgres_connection), hour_of(NOW)
    publish(postgres_connection, this_hour - HOUR, {"DE": 50, "FR": 10}, dead=3)
    rollups.roll_up(this_hour - HOUR)
    publish(postgres_connection, this_hour + MINUTE, {"DE": 5})
    rollups.roll_up_minutes(this_hour - HOUR + n * MINUTE for n in range(90))
    publish(postgres_connection, NOW - timedelta(seconds=1), {"US": 7}, dead=2)
    held = read_held(postgres_connection, "7d", NOW)
    assert (held.messages, held.batches) == (77, 3)
    assert counts(held, "geo_country_code") == {("DE",): 55, ("FR",): 10, ("US",): 7}
    assert counts(held, "errors") == {("invalid-json",): 5}
    assert counts(held, DEAD_LETTERS) == {("invalid-json", "at column <n>"): 5}
    [countries] = [counted for counted in held.counted if counted.is_country]
    assert countries.lines["DE"][-2:] == [50 / 3600, 5 / (30.5 * 60)]
    assert countries.lines["DE"][0] is None


def test_day_is_the_sum_of_its_hours(postgres_connection: Connection) -> None:
    """As the table keeps it, for whoever asks by SQL; the sums, which plots are made of, do without."""
    hour = hour_of(NOW)
    for n in range(2):
        publish(postgres_connection, hour + n * HOUR, {"DE": 1, "FR": n + 1})
        Rollups(postgres_connection).roll_up(hour + n * HOUR)
    [(contents, sums)] = postgres_connection.execute(
        "SELECT contents, sums -> 'contents' FROM enrichment_rollups WHERE period = 'day'"
    ).fetchall()
    assert (contents, sums) == ({"geo_country_code": {"DE": 2, "FR": 3}}, {})


@pytest.mark.parametrize("name", RANGES)
def test_nothing_is_known_of_a_new_installation(postgres_connection: Connection, name: str) -> None:
    """Everything that is counted is there, without a value."""
    held = read_held(postgres_connection, name, NOW)
    assert (held.messages, held.batches) == (0, 0)
    assert [(counted.counts, counted.lines) for counted in held.counted] == [([], {})] * len(held.counted)
    assert 12 <= len(held.at) <= 750
