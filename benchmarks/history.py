"""Makes the past of a busy installation: a batch every two seconds, with its metrics, rollups and breaches, by SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from enrichment.caches.base import LookupCounts
from enrichment.enrichers.declare import CountedColumns
from enrichment.enrichers.registry import REGISTRY
from enrichment.rollup.table import DAY, HOUR, MINUTE, Rollups, hour_of
from enrichment.settings import load
from enrichment.statements import jsonb
from enrichment.store.contents import DEAD_LETTERS, shown
from enrichment.store.histogram import Histogram

SECONDS = 2  # between batches
MESSAGES = 2_000  # in each
STAGES = ("drain", *REGISTRY.by_name, "publish")
MINUTES_KEPT = 2 * DAY

JOBS = """
INSERT INTO enrichment_jobs (
    batch_id, dag_id, run_id, lane, topic, group_id, ranges, state, attempts, settings_fingerprint, lag,
    messages_read, messages_enriched, messages_partial, messages_dead, value_bytes, cache_counts, errors_by_reason,
    durations, claimed_at, drained_at, published_at
)
SELECT
    'made/' || n, 'stacklens_enrichment', 'made/' || n, 0, %(topic)s, %(group_id)s,
    jsonb_build_array(jsonb_build_object('partition', n %% 4, 'start', first, 'end', first + 2000)),
    'published', 1, '000000000000', jsonb_build_object(n %% 4, n %% 500),
    2000, 1940, 50, 10, 646000, %(caches)s, %(errors)s, %(durations)s,
    at - interval '1.5 seconds', at - interval '1 second', at
FROM (
    SELECT
        n,
        (%(batches)s::bigint - n) * 2000 AS first,
        %(ends_at)s::timestamptz - n * %(seconds)s * interval '1 second' AS at
    FROM generate_series(1, %(batches)s::bigint) AS n
) AS times
"""
METRICS = """
INSERT INTO enrichment_metrics (batch_id, stage, messages, seconds, peak_rss_bytes, counts, recorded_at)
SELECT batch_id, stage, 2000, 0.05, 400000000, coalesce(%(counts)s::jsonb -> stage, '{}'), published_at
FROM enrichment_jobs
CROSS JOIN unnest(%(stages)s::text[]) AS stage
WHERE dag_id = 'stacklens_enrichment'
"""
# What one minute or hour came to is what all of them came to.
COPIES = """
INSERT INTO enrichment_rollups
SELECT (jsonb_populate_record(made, jsonb_build_object('starts_at', moment))).*
FROM enrichment_rollups AS made
CROSS JOIN generate_series(%(starts_at)s::timestamptz, made.starts_at, %(step)s) AS moment
WHERE period = %(period)s
ON CONFLICT (period, starts_at) DO NOTHING
"""
BREACHES = """
INSERT INTO service_level_breaches (starts_at, level, observed, threshold)
SELECT starts_at, 'hit-rate', 0.7, 0.8
FROM generate_series(%(starts_at)s::timestamptz, %(ends_at)s, '7 hours') AS starts_at
"""


def stage_counts() -> dict[str, dict[str, Any]]:
    """What the stages of each batch count: a hundred values of what is declared, a dozen dead letters."""
    rng = np.random.default_rng(7)
    found: dict[str, dict[str, Any]] = {
        enricher.name: {"contents": {c.name: contents_of(c, rng) for c in enricher.counted}}
        for enricher in REGISTRY.enrichers
    }
    letters = {shown(("invalid-json", f"kind {n}: unexpected <quoted> at row <n>, column <n>")): 1 for n in range(12)}
    freshness = Histogram.of(rng.lognormal(0.4, 0.5, MESSAGES))
    return found | {"publish": {"freshness": freshness, "contents": {DEAD_LETTERS: letters}}}


def contents_of(counted: CountedColumns, rng: np.random.Generator) -> dict[str, int]:
    """Codes of two letters, and combinations of few values."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    if len(counted.columns) == 1:
        return {a + b: int(rng.integers(1, 40)) for a in letters[::2] for b in letters[::3]}
    return {shown((f"unit-{n}", level)): 50 for n in range(10) for level in ("low", "medium", "high")}


def make_history(connection: psycopg.Connection[Any], batches: timedelta, rollups: timedelta) -> datetime:
    """Fill a database without any past: batches and metrics of so long, rollups of so long; returns when it ends, which
    is now. The role must be a superuser's: the audit of jobs is not made."""
    now = datetime.now(UTC)
    hour, minute = hour_of(now) - HOUR, now.replace(second=0, microsecond=0) - MINUTE
    counts = LookupCounts(messages=1_990, memory=1_700, postgres=200, misses=90)
    kafka = load().kafka
    values = {
        "topic": kafka.input_topic, "group_id": kafka.consumer_group,
        "caches": jsonb(dict.fromkeys(REGISTRY.by_name, counts)),
        "errors": jsonb(dict.fromkeys(list(REGISTRY.reasons)[:6], 8) | {"invalid-json": 10}),
        "durations": jsonb(dict.fromkeys(STAGES, 0.05)),
        "counts": jsonb(stage_counts()),
        "ends_at": now, "seconds": SECONDS, "stages": list(STAGES),
        "batches": batches // timedelta(seconds=SECONDS),
    }  # fmt: skip
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(JOBS.encode(), values)
        connection.execute(METRICS.encode(), values)
    connection.execute("ANALYZE")
    made = Rollups(connection)
    made.roll_up(hour)
    made.roll_up_minutes([minute])
    for period, first, step in [
        ("hour", hour_of(now - rollups), HOUR),
        ("minute", minute - min(rollups, MINUTES_KEPT), MINUTE),
    ]:
        connection.execute(COPIES.encode(), {"period": period, "starts_at": first, "step": step})
    connection.execute(BREACHES.encode(), {"starts_at": hour_of(now - rollups), "ends_at": hour})
    connection.execute("VACUUM ANALYZE")
    return now
