"""Rollups and breaches in PostgreSQL: what is counted, run again, late, evicted, and at the same time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pendulum
import psycopg
import pytest
from psycopg.rows import dict_row

from enrichment.batch import Batch, OffsetRange, Purpose
from enrichment.caches.base import LookupCounts
from enrichment.rollup.rollup import Rollup
from enrichment.rollup.service_levels import Breach, Level
from enrichment.rollup.table import HOUR, MINUTE, MINUTES_AT_ONCE, Rollups, full_minutes, hour_of
from enrichment.store import metrics
from enrichment.store.histogram import Histogram
from enrichment.store.jobs import Ledger, Outcome

Connection = psycopg.Connection[Any]
TEN = datetime(2024, 1, 15, 10, tzinfo=UTC)
LOW_HITS, MUCH_LAG = Breach(Level.HIT_RATE, 0.5, 0.8), Breach(Level.LAG, 2000, 1000)


def claimed(connection: Connection, batch_id: str, lag: Mapping[int, int] | None = None, **values: Any) -> Ledger:
    """A claimed batch in the ledger, of a group of its own: no group publishes the same offsets twice."""
    ledger = Ledger(connection)
    batch = Batch(batch_id, "in", f"group of {batch_id}", 0, (OffsetRange(0, 0, 100),), **values)
    ledger.claim(batch, "dag", "run", "0", lag)
    return ledger


def publish(
    connection: Connection, batch_id: str, at: datetime = TEN, seconds: float = 2.0, enriched: int = 90,
    partial: int = 0, freshness: float = 3.0, **values: Any,
) -> None:  # fmt: skip
    """A batch that was published at a time, so long after its claim, with the metrics of two stages."""
    ledger = claimed(connection, batch_id, **values)
    messages = enriched + partial
    metrics.record(connection, batch_id, "drain", messages, 0.5)
    metrics.record(connection, batch_id, "publish", messages, 0.25, counts=freshly([freshness] * messages))
    ledger.published(
        batch_id,
        Outcome(
            read=messages, enriched=enriched, partial=partial, dead=0,
            cache_counts={"geo": LookupCounts(messages=messages, memory=messages - 10, misses=10)},
            errors_by_reason={"user-not-found": partial} if partial else {},
        ),
    )  # fmt: skip
    connection.execute(
        "UPDATE enrichment_jobs SET claimed_at = %(at)s - %(took)s, published_at = %(at)s"
        " WHERE batch_id = %(batch_id)s AND state = 'published'",
        {"at": at, "took": timedelta(seconds=seconds), "batch_id": batch_id},
    )


def freshly(seconds: list[float]) -> dict[str, Any]:
    """The counts of a publish stage, as the task records them."""
    return {"produced": True, "freshness": Histogram.of(seconds)}


def row(connection: Connection, period: str, starts_at: datetime) -> dict[str, Any]:
    """A rollup as a person sees it."""
    with connection.cursor(row_factory=dict_row) as cursor:
        [found] = cursor.execute(
            "SELECT * FROM enrichment_rollups WHERE period = %s AND starts_at = %s", (period, starts_at)
        ).fetchall()
    return found


def test_hour_has_the_figures_of_its_batches(postgres_connection: Connection) -> None:
    """Two batches of one hour, worked out by hand; those of the hours beside it are not in it."""
    publish(postgres_connection, "a", seconds=1, enriched=90, partial=10, freshness=2, lag={0: 5, 1: 2})
    publish(postgres_connection, "b", TEN + HOUR - timedelta(seconds=1), seconds=9, enriched=900, freshness=20)
    publish(postgres_connection, "before", TEN - timedelta(microseconds=1))
    publish(postgres_connection, "after", TEN + HOUR)
    Rollups(postgres_connection).roll_up(TEN)
    kept = row(postgres_connection, "hour", TEN)
    near = {name: pytest.approx(value, rel=0.01) for name, value in {
        "batch_p50_seconds": 1, "batch_p95_seconds": 9, "message_p50_seconds": 9, "message_p99_seconds": 9,
        "freshness_p50_seconds": 20, "freshness_p99_seconds": 20,
    }.items()}  # fmt: skip
    expected = {
        "hours": 1, "batches": 2, "batches_failed": 0, "metric_rows": 4, "messages": 1000, "messages_enriched": 990,
        "messages_partial": 10, "messages_dead": 0, "messages_per_second": pytest.approx(1000 / 3600),
        "hit_rate": 0.98, "hit_rates": {"geo": {"memory": 0.98, "postgres": 0.0, "all": 0.98}},
        "error_rate": 0.01, "error_rates": {"user-not-found": 0.01}, "dead_letter_rate": 0.0,
        "lag_max": 7, "lag": {"0": 5, "1": 2}, **near,
    }  # fmt: skip
    assert {name: kept[name] for name in expected} == expected
    assert kept["stages"]["drain"]["messages_per_second"] == 1000.0


@pytest.mark.parametrize(
    "other",
    [{"dry_run": True}, {"purpose": Purpose(kind="replay")}, {"purpose": Purpose(kind="redrive")}],
    ids=["dry run", "replay", "redrive"],
)
def test_only_the_live_stream_counts(postgres_connection: Connection, other: dict[str, Any]) -> None:
    """A dry run, a replay and a redrive say nothing about the live stream, however they end."""
    publish(postgres_connection, "other", **other)
    claimed(postgres_connection, "failing", **other).failed("failing", "why")
    rollups = Rollups(postgres_connection)
    assert rollups.roll_up(TEN) == Rollup(hours=1)
    assert rollups.roll_up(hour_of(datetime.now(UTC))) == Rollup(hours=1)


def test_hour_without_a_batch_is_a_row_of_zeros_and_nulls(postgres_connection: Connection) -> None:
    """It is kept all the same: a gap would mean that nobody looked."""
    assert Rollups(postgres_connection).roll_up(TEN) == Rollup(hours=1)
    kept = row(postgres_connection, "hour", TEN)
    assert (kept["batches"], kept["messages"], kept["messages_per_second"]) == (0, 0, 0.0)
    unknown = ("hit_rate", "error_rate", "dead_letter_rate", "lag_max", "message_p50_seconds", "freshness_p95_seconds")
    assert [kept[name] for name in unknown] == [None] * 6


def test_batch_that_fails_is_counted_when_it_fails(postgres_connection: Connection) -> None:
    """However often it fails in an hour it is one; that it is published later does not undo it."""
    ledger = claimed(postgres_connection, "b")
    ledger.failed("b", "first")
    ledger.failed("b", "second")
    ledger.published("b", Outcome(read=0, enriched=0, partial=0, dead=0))
    now = hour_of(datetime.now(UTC))
    rollups = Rollups(postgres_connection)
    # The hour may have turned in the middle of it.
    assert rollups.roll_up(now).batches_failed + rollups.roll_up(now - HOUR).batches_failed == 1


def test_running_again_changes_nothing(postgres_connection: Connection) -> None:
    """An hour and its day are the same after the second run, and no batch is in them twice."""
    publish(postgres_connection, "a")
    rollups = Rollups(postgres_connection)
    rollups.roll_up(TEN)
    before = [row(postgres_connection, *which) for which in (("hour", TEN), ("day", TEN.replace(hour=0)))]
    rollups.roll_up(TEN)
    after = [row(postgres_connection, *which) for which in (("hour", TEN), ("day", TEN.replace(hour=0)))]
    for rows in (before, after):
        for each in rows:
            del each["rolled_up_at"]
    assert after == before
    assert before[1]["batches"] == 1


def test_day_adds_up_its_hours(postgres_connection: Connection) -> None:
    """The day has the batches of the hours that were rolled up, whatever their order, and none of another day."""
    publish(postgres_connection, "slow", TEN + HOUR, seconds=100, enriched=40, partial=10)
    for number in range(3):
        publish(postgres_connection, f"quick {number}", TEN, seconds=1, enriched=50)
    publish(postgres_connection, "yesterday", TEN - timedelta(days=1))
    rollups = Rollups(postgres_connection)
    for hour in (TEN + HOUR, TEN, TEN - timedelta(days=1)):
        rollups.roll_up(hour)
    day = row(postgres_connection, "day", TEN.replace(hour=0))
    assert (day["hours"], day["batches"], day["messages"], day["error_rate"]) == (2, 4, 200, 0.05)
    assert day["messages_per_second"] == pytest.approx(200 / 7200)
    # Three of four batches took one second: an average of the two hours' medians would be fifty.
    assert day["batch_p50_seconds"] == pytest.approx(1, rel=0.01)
    assert day["batch_p99_seconds"] == pytest.approx(100, rel=0.01)


def test_late_row_is_picked_up_when_the_hour_runs_again(postgres_connection: Connection) -> None:
    """A batch of the hour that was recorded only after the rollup is in hour and day after a backfill."""
    rollups = Rollups(postgres_connection)
    publish(postgres_connection, "a")
    rollups.roll_up(TEN)
    publish(postgres_connection, "late", TEN + timedelta(minutes=59))
    assert rollups.roll_up(TEN).batches == 2
    assert row(postgres_connection, "day", TEN.replace(hour=0))["batches"] == 2


@pytest.mark.parametrize("table", ["enrichment_jobs", "enrichment_metrics"])
def test_rollup_stays_when_retention_has_taken_its_rows(postgres_connection: Connection, table: str) -> None:
    """A backfill over hours whose batches or metrics are gone does not put zeros over what was known."""
    rollups = Rollups(postgres_connection)
    publish(postgres_connection, "a")
    known = rollups.roll_up(TEN)
    postgres_connection.execute(f"DELETE FROM {table}".encode())
    assert rollups.roll_up(TEN) == known
    assert row(postgres_connection, "day", TEN.replace(hour=0))["batches"] == 1


def test_day_stays_whole_when_retention_has_taken_its_hours(postgres_connection: Connection) -> None:
    """Rolling up one of them again, even of a day without a batch, takes nothing from the day."""
    rollups = Rollups(postgres_connection)
    for hour in (TEN, TEN + HOUR):
        rollups.roll_up(hour)
    postgres_connection.execute("DELETE FROM enrichment_rollups WHERE period = 'hour'")
    rollups.roll_up(TEN)
    assert row(postgres_connection, "day", TEN.replace(hour=0))["hours"] == 2


def test_hours_at_once_make_one_right_day(postgres_uri: str, postgres_connection: Connection) -> None:
    """Runs of a backfill side by side: whichever adds up the day last has seen the other's hour."""
    hours = [TEN + n * HOUR for n in range(8)]
    for hour in hours:
        publish(postgres_connection, f"batch {hour}", hour)
    start = threading.Barrier(len(hours))

    def run(hour: datetime) -> None:
        with psycopg.connect(postgres_uri) as connection:
            start.wait()
            Rollups(connection).roll_up(hour)

    threads = [threading.Thread(target=run, args=(hour,)) for hour in hours]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    day = row(postgres_connection, "day", TEN.replace(hour=0))
    assert (day["hours"], day["batches"]) == (8, 8)


def breaches(connection: Connection) -> list[tuple[Any, ...]]:
    """All that are kept, and whether somebody was told."""
    return connection.execute(
        "SELECT level, observed, threshold, notified_at IS NOT NULL FROM service_level_breaches ORDER BY level"
    ).fetchall()


def test_breach_is_told_until_somebody_was(postgres_connection: Connection) -> None:
    """A notifier that failed is called again with the same breaches; one that was told is not, even if it got worse."""
    rollups = Rollups(postgres_connection)
    assert rollups.keep_breaches(TEN, [LOW_HITS, MUCH_LAG]) == [LOW_HITS, MUCH_LAG]
    assert rollups.keep_breaches(TEN, [LOW_HITS, MUCH_LAG]) == [LOW_HITS, MUCH_LAG]
    rollups.told(TEN, [LOW_HITS, MUCH_LAG])
    worse = Breach(Level.LAG, 3000, 1000)
    assert rollups.keep_breaches(TEN, [LOW_HITS, worse]) == []
    assert breaches(postgres_connection) == [("hit-rate", 0.5, 0.8, True), ("lag", 3000.0, 1000.0, True)]


def test_breach_is_forgotten_when_the_hour_is_mended(postgres_connection: Connection) -> None:
    """Late batches or another threshold: what no longer is a breach is not kept, and other hours keep theirs."""
    rollups = Rollups(postgres_connection)
    rollups.keep_breaches(TEN, [LOW_HITS, MUCH_LAG])
    rollups.keep_breaches(TEN + HOUR, [MUCH_LAG])
    rollups.keep_breaches(TEN, [])
    assert breaches(postgres_connection) == [("lag", 2000.0, 1000.0, False)]


def test_missing_hours_are_found(postgres_connection: Connection) -> None:
    """Hours between rolled ones that nobody rolled up, a week back at most, none from before the first one."""
    rollups = Rollups(postgres_connection)
    assert rollups.missing_hours(TEN) == []
    for hour in (TEN - timedelta(days=20), TEN - 4 * HOUR, TEN - HOUR):
        rollups.roll_up(hour)
    missing = rollups.missing_hours(TEN)
    assert missing[0] == TEN - timedelta(days=7)
    assert len(missing) == 7 * 24 - 2
    assert {TEN - 4 * HOUR, TEN - HOUR}.isdisjoint(missing)
    postgres_connection.execute("DELETE FROM enrichment_rollups WHERE starts_at < %s", (TEN - 5 * HOUR,))
    assert rollups.missing_hours(TEN) == [TEN - 3 * HOUR, TEN - 2 * HOUR]


def test_report_reads_the_views(postgres_connection: Connection) -> None:
    """The ledger by state and DAG, and each stage's last days."""
    publish(postgres_connection, "a", enriched=100)
    claimed(postgres_connection, "b")
    rollups = Rollups(postgres_connection)
    assert {(r["state"], r["dag_id"], r["batches"], r["messages_read"]) for r in rollups.job_stats()} == {
        ("claimed", "dag", 1, 0), ("published", "dag", 1, 100),
    }  # fmt: skip
    assert [(r["stage"], r["messages"], r["messages_per_second"]) for r in rollups.trend()] == [
        ("drain", 100, 200.0), ("publish", 100, 400.0),
    ]  # fmt: skip


def now_of(connection: Connection) -> datetime:
    """The database's time, by whose minutes batches are published."""
    [(now,)] = connection.execute("SELECT now()").fetchall()
    return now  # type: ignore[no-any-return]


def test_hour_of_airflows_moment_is_rolled_up(postgres_connection: Connection) -> None:
    """The bounds of a data interval are pendulum's, whose differences are no `timedelta`."""
    hour = hour_of(pendulum.datetime(2024, 1, 15, 11, 30, tz="Europe/Berlin"))
    assert (type(hour), hour) == (datetime, datetime(2024, 1, 15, 10, tzinfo=UTC))
    assert Rollups(postgres_connection).roll_up(hour).hours == 1


def test_minutes_have_the_batches_of_their_time(postgres_connection: Connection) -> None:
    """Each its own, with the rate of a minute, the largest batch and the memory of the stages; an hour has all of
    them."""
    publish(postgres_connection, "a", TEN, enriched=50)
    publish(postgres_connection, "b", TEN + 2 * MINUTE - timedelta(microseconds=1), enriched=60)
    metrics.record(postgres_connection, "b", "drain", 60, 0.5, peak_rss_bytes=7_000_000)
    rollups = Rollups(postgres_connection)
    rollups.roll_up_minutes([TEN, TEN + MINUTE, TEN + 2 * MINUTE])
    first, second, third = (row(postgres_connection, "minute", TEN + n * MINUTE) for n in range(3))
    assert (first["messages"], first["hours"], first["messages_per_second"]) == (50, 0, pytest.approx(50 / 60))
    assert (second["messages"], third["messages"], third["messages_per_second"]) == (60, 0, 0.0)
    kept = rollups.get("minute", TEN + MINUTE)
    assert kept is not None
    assert (kept.minutes, kept.largest_batch, kept.stages["drain"].peak_rss_bytes) == (1, 60, 7_000_000)
    hour = rollups.roll_up(TEN)
    assert (hour.largest_batch, hour.stages["drain"].peak_rss_bytes, hour.seconds) == (60, 7_000_000, 3600)


def test_minutes_are_due_once_they_are_over(postgres_connection: Connection) -> None:
    """The last few, none twice, and not the one that has just ended: batches of it may not be visible yet."""
    rollups = Rollups(postgres_connection)
    due = rollups.due_minutes()
    settled = now_of(postgres_connection) - timedelta(seconds=5)
    assert len(due) == MINUTES_AT_ONCE
    assert due[-1] + MINUTE <= settled < due[-1] + 3 * MINUTE
    rollups.roll_up_minutes(due[:-1])
    assert rollups.due_minutes()[:1] == due[-1:]
    rollups.roll_up_minutes(due)
    assert set(rollups.due_minutes()).isdisjoint(due)


def test_full_minutes_of_an_hour_have_ended() -> None:
    """An hour that is still going on has only those before the present one."""
    assert full_minutes(TEN, TEN + timedelta(minutes=2, seconds=30)) == [TEN, TEN + MINUTE]
    assert len(full_minutes(TEN, TEN + 5 * HOUR)) == 60
    assert full_minutes(TEN, TEN - HOUR) == []


def test_sums_of_earlier_versions_are_read(postgres_connection: Connection) -> None:
    """Rollups from before minutes, sizes and memory were known say nothing of these; adding to them does."""
    rollups = Rollups(postgres_connection)
    publish(postgres_connection, "a", enriched=70)
    rollups.roll_up(TEN)
    postgres_connection.execute(
        "UPDATE enrichment_rollups SET sums = sums - 'minutes' - 'largest_batch' #- '{stages,drain,peak_rss_bytes}'"
    )
    old = rollups.get("hour", TEN)
    assert old is not None
    assert (old.largest_batch, old.stages["drain"].peak_rss_bytes, old.messages) == (None, None, 70)
    assert (old + Rollup(largest_batch=3)).largest_batch == 3
