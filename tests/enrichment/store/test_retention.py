"""Retention: what goes from ledger, metrics and audit log, and above all what stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from enrichment.store.retention import KEPT, Forgotten, forget

Connection = psycopg.Connection[Any]

KEEP = {table: timedelta(days=days) for table, days in zip(KEPT, (30, 90, 365), strict=True)}
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
    assert run(connection, dry_run=True) == Forgotten(0, 2, 0, unpublished=1, dry_run=True)
    assert jobs(postgres_connection) == ["old", "old, failed", "young"]
