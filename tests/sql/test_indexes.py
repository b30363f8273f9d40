"""The indexes: each serves a statement of the product."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from enrichment import sql
from enrichment.enrichers.tables import cache_tables
from tests.fixtures.postgres import CACHES, TABLES

BY_NAME = {table.cache: table for table in cache_tables()}

KEYS = [f"key-{n}" for n in range(0, 3_000, 100)]
ASKED = {"keys": KEYS, "now": 0.0, "served_from": 0.0, "touched_before": 0.0, "version": ""}
STATISTICS = "SELECT cache, entries, expired, hit_rate FROM get_cache_statistics()"
FILTERS = ("kind", "lane", "topic", "partition", "offset", "state", "dag_id", "run_id", "since", "until")
NO_FILTER = dict.fromkeys((*FILTERS, "before_at", "before_id")) | {"scanned": 20_000}
QUERIES: dict[str, tuple[str | bytes, dict[str, Any]]] = {
    **{f"{name}_pkey": (table.statement("get_many"), ASKED) for name, table in TABLES.items()},
    **{
        f"{name}_expires_at_idx": (table.statement("count_due"), {"grace": timedelta(0)})
        for name, table in TABLES.items()
    },
    **{
        f"{name}_last_used_at_idx": (table.statement("evict_least_used"), {"row_limit": 10})
        for name, table in TABLES.items()
    },
    "business_risks_pkey": (
        BY_NAME["business"].statement("evict_orphans", "business_risks"),
        {"first": "key-5", "row_limit": 10},
    ),
    "enrichment_jobs_pkey": (sql.load("enrichment_jobs/get"), {"batch_id": "batch-7"}),
    "enrichment_jobs_run_idx": (sql.load("enrichment_jobs/find_run"), {"dag_id": "dag", "run_id": "run-7"}),
    "enrichment_jobs_published_at_idx": (
        sql.load("enrichment_rollups/find_batches"),
        {"starts_at": "2024-01-15T10:00Z", "ends_at": "2024-01-15T11:00Z", "contents": True},
    ),
    "enrichment_jobs_state_idx": ("SELECT batches FROM v_enrichment_job_stats WHERE state = 'failed'", {}),
    "enrichment_jobs_claimed_at_idx": (sql.load("enrichment_jobs/find_page"), {**NO_FILTER, "rows": 51}),
    "enrichment_metrics_pkey": (sql.load("enrichment_metrics/of_batch"), {"batch_id": "batch-7"}),
    "enrichment_metrics_recorded_at_idx": ("SELECT stage, seconds FROM v_enrichment_performance_trend", {}),
    "enrichment_audit_log_failed_idx": (
        sql.load("enrichment_rollups/count_failed"),
        {"starts_at": "2024-01-15T10:00Z", "ends_at": "2024-01-15T11:00Z"},
    ),
    "enrichment_rollups_pkey": (
        sql.load("enrichment_rollups/find_hours"),
        {"starts_at": "2024-01-15T00:00Z", "ends_at": "2024-01-16T00:00Z"},
    ),
    "service_level_breaches_pkey": (
        sql.load("service_level_breaches/find_untold"),
        {"starts_at": "2024-01-15T10:00Z"},
    ),
    "enrichment_replays_pkey": (
        sql.load("enrichment_replays/get"),
        {"replay_id": "replay-7", "topic": "in", "start": 1_705_312_800_000, "end": 1_705_316_400_000},
    ),
    "circuit_breakers_pkey": (sql.load("circuit_breakers/get"), {"name": "dependency-7"}),
    "enrichment_pending_due_idx": (sql.load("enrichment_pending/due"), {"batch_id": None, "source": None, "rows": 9}),
    "enrichment_pending_unrepaired_idx": (
        sql.load("enrichment_pending/find_page"),
        dict.fromkeys(("state", "source", "before_at", "before_id", "before_source")) | {"rows": 101},
    ),
    "enrichment_pending_pkey": (sql.load("enrichment_pending/of_batch"), {"batch_id": "batch-7"}),
    "enrichment_publications_pkey": (sql.load("enrichment_publications/list"), {"batch_id": "batch-7"}),
    "enrichment_positions_pkey": (sql.load("enrichment_positions/get"), {"topic": "in", "group_id": "group-7"}),
    "enrichment_group_moves_pkey": (sql.load("enrichment_group_moves/list"), {"topic": "in", "group_id": "group-7"}),
    "enrichment_lanes_pkey": (sql.load("enrichment_lanes/get"), {"group_id": "group-7"}),
    "enrichment_audit_log_batch_idx": (sql.load("enrichment_audit_log/latest"), {"batch_id": "batch-7", "rows": 9}),
}


@pytest.fixture(scope="module")
def filled(postgres_server: Callable[[], str]) -> str:
    """A database with a few thousand rows in each table: some cached entries expired, a few batches failed."""
    uri = postgres_server()
    with psycopg.connect(uri, autocommit=True) as connection:
        for table, key in CACHES.items():
            connection.execute(
                f"""INSERT INTO {table} ({key}, state, fetched_at, expires_at)
                SELECT 'key-' || n, 'found', now() - interval '1 day',
                       now() + CASE WHEN n % 100 = 0 THEN -1 ELSE 1 END * interval '1 hour'
                FROM generate_series(1, 3000) AS n""".encode()
            )
        connection.execute(
            """INSERT INTO business_risks (request_id, risk_score)
            SELECT 'key-' || n, 0 FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            """INSERT INTO enrichment_jobs (batch_id, dag_id, run_id, lane, topic, group_id, ranges,
                   settings_fingerprint,
                   state, claimed_at, published_at, messages_read, messages_enriched, messages_partial, messages_dead)
            SELECT 'batch-' || n, 'dag', 'run-' || n, 0, 'in', 'group', '[{"partition": 0, "start": 0, "end": 9}]', '0',
                   CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'published' END, now() - n * interval '10 minutes',
                   CASE WHEN n % 100 = 0 THEN NULL ELSE now() - n * interval '10 minutes' END, 1, 1, 0, 0
            FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            """INSERT INTO enrichment_metrics (batch_id, stage, messages, seconds, recorded_at)
            SELECT 'batch-' || n, 'geo', 1, 1, now() - n * interval '1 hour' FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            """INSERT INTO enrichment_rollups (period, starts_at, hours, batches, batches_failed, metric_rows, messages,
                   messages_enriched, messages_partial, messages_dead, value_bytes, messages_per_second, hit_rates,
                   error_rates, lag, stages, sums)
            SELECT 'hour', '2024-01-01T00:00Z'::timestamptz + n * interval '1 hour', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                   '{}', '{}', '{}', '{}', '{}'
            FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            """INSERT INTO service_level_breaches (starts_at, level, observed, threshold)
            SELECT '2024-01-01T00:00Z'::timestamptz + n * interval '1 hour', 'lag', 2, 1
            FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            """INSERT INTO enrichment_replays (replay_id, topic, window_start, window_end, state, purpose, group_id,
                   messages, selected, dag_id, run_id)
            SELECT 'replay-' || n, 'in', now() - n * interval '1 hour', now() - (n - 1) * interval '1 hour', 'counted',
                   '{}', 'group', 1, 1, 'dag', 'run'
            FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            """INSERT INTO enrichment_pending (batch_id, source, topic, messages, state)
            SELECT 'batch-' || n, 'geo-ip', 'out', 1, CASE WHEN n % 500 = 0 THEN 'open' ELSE 'repaired' END
            FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            """INSERT INTO enrichment_publications (batch_id, pass, ranges)
            SELECT 'batch-' || n, 0, '[]' FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            "INSERT INTO circuit_breakers (name) SELECT 'dependency-' || n FROM generate_series(1, 3000) AS n"
        )
        connection.execute(
            """INSERT INTO enrichment_positions (topic, group_id, partition, next_offset)
            SELECT 'in', 'group-' || n, 0, n FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            """INSERT INTO enrichment_group_moves (topic, group_id, partition, moved_to, skipped, reason)
            SELECT 'in', 'group-' || n, 0, n, 0, 'accepted' FROM generate_series(1, 3000) AS n"""
        )
        connection.execute(
            "INSERT INTO enrichment_lanes (group_id, lanes) SELECT 'group-' || n, 1 FROM generate_series(1, 3000) AS n"
        )
        connection.execute("VACUUM ANALYZE")
    return uri


@pytest.mark.parametrize("index", QUERIES)
def test_index_is_used_when_its_query_runs(filled: str, index: str) -> None:
    """Each index serves a query that the product runs, with the planner's default settings."""
    query, parameters = QUERIES[index]
    with psycopg.connect(filled) as connection:
        asked = query if isinstance(query, bytes) else query.encode()
        plan = connection.execute(b"EXPLAIN " + asked, parameters).fetchall()
    assert index in "\n".join(line for (line,) in plan)


def test_no_index_is_without_its_query(filled: str) -> None:
    """Ten indexes or more, and none that no query asks for, besides the keys that keep rows apart."""
    with psycopg.connect(filled) as connection:
        names = {name for (name,) in connection.execute("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")}
    assert names - set(QUERIES) == {
        "enrichment_audit_log_pkey", "enrichment_caches_pkey", "schema_versions_pkc",
    }  # fmt: skip
    assert len(QUERIES) >= 10
