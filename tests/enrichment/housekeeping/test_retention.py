"""Retention: what goes of the pipeline's own past, and above all what stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from enrichment.housekeeping.retention import KEPT, Forgotten, forget

Connection = psycopg.Connection[Any]

KEEP = {what: timedelta(days=days) for what, days in zip(KEPT, (30, 90, 365, 2, 180, 1095, 1095, 90, 90), strict=True)}
OLD, YOUNG = 91, 89


@pytest.fixture
def connection(postgres_connection: Connection, postgres_uri: str) -> Iterator[Connection]:
    """A connection as tasks have it; a lock that it would wait for fails the test."""
    with psycopg.connect(postgres_uri, options="-c lock_timeout=1") as opened:
        yield opened


def job(admin: Connection, batch_id: str, days: float, state: str = "published", **values: Any) -> None:
    """A batch that was claimed that many days ago, over [0, 10) of partition 0 unless said otherwise."""
    claimed_at = datetime.now(UTC) - timedelta(days=days)
    row = {
        "batch_id": batch_id, "dag_id": "dag", "run_id": "run", "lane": 0, "topic": "in", "group_id": "live",
        "ranges": ranges((0, 0, 10)), "settings_fingerprint": "0", "state": state, "claimed_at": claimed_at,
        "published_at": claimed_at if state == "published" else None,
        "messages_read": 0, "messages_enriched": 0, "messages_partial": 0, "messages_dead": 0, **values,
    }  # fmt: skip
    places = ", ".join(f"%({name})s" for name in row)
    admin.execute(f"INSERT INTO enrichment_jobs ({', '.join(row)}) VALUES ({places})".encode(), row)


def jobs(admin: Connection) -> list[str]:
    """The batches that are left."""
    return [b for (b,) in admin.execute("SELECT batch_id FROM enrichment_jobs ORDER BY 1")]


def ranges(*spans: tuple[int, int, int]) -> str:
    """Ranges as the ledger has them."""
    return json.dumps([{"partition": p, "start": start, "end": end} for p, start, end in spans])


def run(connection: Connection, **options: Any) -> Forgotten:
    """With chunks of two rows."""
    return forget(connection, KEEP, **{"chunk_rows": 2, **options})


def test_old_batches_go_with_their_metrics(postgres_connection: Connection, connection: Connection) -> None:
    """Published batches and dry runs older than their retention go, their metrics with them; younger ones stay."""
    for number in range(5):
        job(postgres_connection, f"old-{number}", OLD)
    job(postgres_connection, "dry", OLD, "dry-run", dry_run=True)
    job(postgres_connection, "dry, never ended", OLD, "drained", dry_run=True)
    job(postgres_connection, "young", YOUNG)
    for batch_id in ("old-0", "young"):
        postgres_connection.execute("SELECT record_enrichment_metric(%s, 'geo', 1, 1)", [batch_id])
    forgotten = run(connection)
    assert jobs(postgres_connection) == ["young"]
    assert (forgotten.enrichment_jobs, forgotten.unpublished) == (7, 0)
    left = postgres_connection.execute("SELECT batch_id FROM enrichment_metrics").fetchall()
    assert left == [("young",)]


@pytest.mark.parametrize("state", ["claimed", "drained", "failed"])
def test_unpublished_batches_stay_until_their_group_is_past_them(
    postgres_connection: Connection, connection: Connection, state: str
) -> None:
    """What was never published stays, however old, unless its own group has published past every end of it."""
    job(postgres_connection, "a passed", OLD, state)
    job(postgres_connection, "b ahead", OLD, state, ranges=ranges((0, 10, 31)))
    job(postgres_connection, "c half ahead", OLD, state, ranges=ranges((0, 10, 20), (1, 0, 5)))
    job(postgres_connection, "d other group", OLD, state, group_id="replay-7")
    job(postgres_connection, "e other topic", OLD, state, topic="elsewhere")
    job(postgres_connection, "later", 1, ranges=ranges((0, 20, 30)))
    forgotten = run(connection)
    assert jobs(postgres_connection) == ["b ahead", "c half ahead", "d other group", "e other topic", "later"]
    assert (forgotten.enrichment_jobs, forgotten.unpublished) == (1, 4)


def test_batches_with_a_pending_repair_stay(postgres_connection: Connection, connection: Connection) -> None:
    """What stacklens_repair may still correct is needed: the batch stays until that has ended."""
    for batch_id, state in [("open", "open"), ("expected", "expected"), ("repaired", "repaired"), ("lost", "lost")]:
        job(postgres_connection, batch_id, OLD)
        postgres_connection.execute(
            "INSERT INTO enrichment_pending (batch_id, source, topic, messages, state)"
            " VALUES (%s, 'geo-ip', 'out', 1, %s)",
            [batch_id, state],
        )
    run(connection)
    assert jobs(postgres_connection) == ["expected", "open"]


def test_batches_that_somebody_writes_are_left_alone(
    postgres_connection: Connection, connection: Connection, postgres_uri: str
) -> None:
    """Retention waits for no task."""
    for batch_id in ("busy", "idle"):
        job(postgres_connection, batch_id, OLD)
    with psycopg.connect(postgres_uri) as writer:
        writer.execute("UPDATE enrichment_jobs SET updated_at = now() WHERE batch_id = 'busy'")
        run(connection)
        assert jobs(postgres_connection) == ["busy"]


def test_metrics_and_audit_go_by_their_own_retention(postgres_connection: Connection, connection: Connection) -> None:
    """Metrics go while their batch stays; changes outlive their batch, whose deletion is a change too."""
    for batch_id in ("x", "y", "z"):
        postgres_connection.execute(
            "INSERT INTO enrichment_audit_log (batch_id, action, changed_columns, changed_by, application_name,"
            " changed_at) OVERRIDING SYSTEM VALUE VALUES (%s, 'UPDATE', '{}', 'me', '', now() - interval '366 days')",
            [batch_id],
        )
    job(postgres_connection, "batch", 45)
    for stage, days in [("drain", 31), ("geo", 31), ("user", 31), ("publish", 29)]:
        postgres_connection.execute("SELECT record_enrichment_metric('batch', %s, 1, 1)", [stage])
        postgres_connection.execute(
            "UPDATE enrichment_metrics SET recorded_at = now() - %s * interval '1 day' WHERE stage = %s", [days, stage]
        )
    job(postgres_connection, "gone", OLD)
    forgotten = run(connection)
    assert jobs(postgres_connection) == ["batch"]
    assert forgotten.enrichment_metrics == 3
    stages = postgres_connection.execute("SELECT stage FROM enrichment_metrics").fetchall()
    assert stages == [("publish",)]
    actions = postgres_connection.execute(
        "SELECT batch_id, action FROM enrichment_audit_log ORDER BY audit_id"
    ).fetchall()
    assert actions == [("batch", "INSERT"), ("gone", "INSERT"), ("gone", "DELETE")]


def test_dry_run_counts_what_is_old_and_deletes_nothing(
    postgres_connection: Connection, connection: Connection
) -> None:
    """A dry run says what is old by table, unpublished batches apart."""
    job(postgres_connection, "old", OLD)
    job(postgres_connection, "old, failed", OLD, "failed", ranges=ranges((0, 10, 99)))
    job(postgres_connection, "young", YOUNG)
    assert run(connection, dry_run=True) == Forgotten(enrichment_jobs=2, unpublished=1, dry_run=True)
    assert jobs(postgres_connection) == ["old", "old, failed", "young"]


def midnight(days: float) -> datetime:
    """The beginning of the day (UTC) that many days ago."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days)


def rolled_up(admin: Connection, day: datetime, hours: int = 24, *, with_day: bool = True) -> None:
    """The first hours of a day, and the day with as many in it."""
    rows = [("hour", day + timedelta(hours=n), 1) for n in range(hours)] + [("day", day, hours)] * with_day
    for period, starts_at, number in rows:
        admin.execute(
            """INSERT INTO enrichment_rollups (period, starts_at, hours, batches, batches_failed, metric_rows, messages,
                   messages_enriched, messages_partial, messages_dead, value_bytes, messages_per_second, hit_rates,
                   error_rates, lag, stages, sums)
            VALUES (%s, %s, %s, 0, 0, 0, 0, 0, 0, 0, 0, 0, '{}', '{}', '{}', '{}', '{}')""",
            [period, starts_at, number],
        )


def rollups(admin: Connection) -> list[tuple[str, datetime, int]]:
    """How many rollups of each day are left, by period."""
    return admin.execute(
        "SELECT period, date_trunc('day', starts_at, 'UTC'), count(*) FROM enrichment_rollups"
        " GROUP BY 1, 2 ORDER BY 2, 1 DESC"
    ).fetchall()


def test_hours_go_as_whole_days_and_days_much_later(postgres_connection: Connection, connection: Connection) -> None:
    """Old hours go once their day has all of them in it, a day at a time; days stay for longer, and never go first."""
    ancient, old, edge, young = midnight(1100), midnight(190), midnight(180), midnight(179)
    for day in (ancient, old, edge, young):
        rolled_up(postgres_connection, day)
    dry = run(connection, dry_run=True)
    assert (dry.hourly_rollups, dry.daily_rollups) == (48, 1)
    forgotten = run(connection)
    assert (forgotten.hourly_rollups, forgotten.daily_rollups) == (48, 1)
    assert rollups(postgres_connection) == [
        ("day", old, 1), ("hour", edge, 24), ("day", edge, 1), ("hour", young, 24), ("day", young, 1),
    ]  # fmt: skip


def test_minutes_go_after_two_days(postgres_connection: Connection, connection: Connection) -> None:
    """By themselves: hours are not made of them."""
    for hours in (49, 47):
        postgres_connection.execute(
            """INSERT INTO enrichment_rollups (period, starts_at, hours, batches, batches_failed, metric_rows, messages,
                   messages_enriched, messages_partial, messages_dead, value_bytes, messages_per_second, hit_rates,
                   error_rates, lag, stages, sums)
            SELECT 'minute', date_trunc('hour', now()) - %s * interval '1 hour' + n * interval '1 minute',
                   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '{}', '{}', '{}', '{}', '{}'
            FROM generate_series(0, 2) AS n""",
            [hours],
        )
    assert run(connection, dry_run=True).minute_rollups == 3
    assert run(connection).minute_rollups == 3
    [(left,)] = postgres_connection.execute("SELECT count(*) FROM enrichment_rollups").fetchall()
    assert left == 3


def test_hours_whose_day_still_needs_them_stay(postgres_connection: Connection, connection: Connection) -> None:
    """A day that was never added up, or has hours to come by a backfill, would lose what it is added up from; once days
    go, too, nobody will add to it any more."""
    rolled_up(postgres_connection, midnight(1100), hours=23)
    rolled_up(postgres_connection, midnight(200), hours=24, with_day=False)
    rolled_up(postgres_connection, midnight(190), hours=23)
    run(connection)
    assert rollups(postgres_connection) == [
        ("hour", midnight(200), 24), ("hour", midnight(190), 23), ("day", midnight(190), 1),
    ]  # fmt: skip


def test_days_are_kept_while_hours_are_kept_for_longer(postgres_connection: Connection, connection: Connection) -> None:
    """Settings the other way round lose nothing: a day stays as long as its hours."""
    rolled_up(postgres_connection, midnight(20))
    keep = {**KEEP, "daily_rollups": timedelta(days=10)}
    forget(connection, keep, chunk_rows=5)
    assert rollups(postgres_connection) == [("hour", midnight(20), 24), ("day", midnight(20), 1)]


def test_breaches_go_by_the_retention_of_days(postgres_connection: Connection, connection: Connection) -> None:
    """A missed service level can be asked about as long as its day."""
    for days in (1094, 1096, 1097, 1098):
        postgres_connection.execute(
            "INSERT INTO service_level_breaches (starts_at, level, observed, threshold) VALUES (%s, 'lag', 2, 1)",
            [datetime.now(UTC) - timedelta(days=days)],
        )
    assert run(connection).service_level_breaches == 3
    assert len(postgres_connection.execute("SELECT 1 FROM service_level_breaches").fetchall()) == 1


def window(admin: Connection, replay_id: str, state: str, days: float) -> None:
    """A window of a replay that was counted, claimed or finished that many days ago."""
    moment = datetime.now(UTC) - timedelta(days=days)
    admin.execute(
        """INSERT INTO enrichment_replays (replay_id, topic, window_start, window_end, state, purpose, group_id,
               batches, marks, messages, selected, differences, dag_id, run_id, counted_at, claimed_at, finished_at)
        VALUES (%(id)s, 'in', '2024-01-15T10:00Z', '2024-01-15T11:00Z', %(state)s, '{}', 'live.replay.' || %(id)s,
               '[{}]', '{"out": []}', 1, 1, '{"same": 1}', 'dag', 'run', %(at)s,
               CASE WHEN %(state)s <> 'counted' THEN %(at)s::timestamptz END,
               CASE WHEN %(state)s = 'finished' THEN %(at)s::timestamptz END)""",
        {"id": replay_id, "state": state, "at": moment},
    )


def test_finished_windows_stay_known_without_their_details(
    postgres_connection: Connection, connection: Connection
) -> None:
    """Old dry runs go; a finished window loses what is large and is still known as published; an unfinished one stays
    whole."""
    for state in ("counted", "claimed", "finished"):
        window(postgres_connection, f"old-{state}", state, OLD)
        window(postgres_connection, f"young-{state}", state, YOUNG)
    dry = run(connection, dry_run=True)
    assert (dry.counted_replays, dry.replay_details) == (1, 1)
    forgotten = run(connection)
    assert (forgotten.counted_replays, forgotten.replay_details) == (1, 1)
    rows = postgres_connection.execute(
        "SELECT replay_id, batches <> '[]' AND marks <> '{}' AND differences <> '{}' FROM enrichment_replays ORDER BY 1"
    ).fetchall()
    assert rows == [
        ("old-claimed", True), ("old-finished", False),
        ("young-claimed", True), ("young-counted", True), ("young-finished", True),
    ]  # fmt: skip
    assert run(connection).replay_details == 0


def test_batches_of_an_unfinished_window_stay(postgres_connection: Connection, connection: Connection) -> None:
    """When Kafka has forgotten the window's group, only the ledger knows what of it is published."""
    for state in ("claimed", "finished"):
        window(postgres_connection, state, state, OLD)
        job(postgres_connection, f"{state}, published", OLD, group_id=f"live.replay.{state}")
        job(postgres_connection, f"{state}, drained", OLD, "drained", group_id=f"live.replay.{state}")
    run(connection)
    assert jobs(postgres_connection) == ["claimed, drained", "claimed, published"]
