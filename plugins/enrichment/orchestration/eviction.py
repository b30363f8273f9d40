"""The tasks of `stacklens_cache_eviction`: evict and renew each cache, delete what is past its retention, report."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param, get_current_context, task

from enrichment.enrichers.registry import REGISTRY
from enrichment.log_lines import log_pairs
from enrichment.orchestration.common import Manifest, resources, run_params

log = logging.getLogger(__name__)

# Less than CACHE_REFRESH_AHEAD_MINUTES: a key in use is seen before it expires.
EVERY_QUARTER = CronTriggerTimetable("*/15 * * * *", timezone="UTC")

EVICTION_PARAMS = {
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description_md="Count what would be evicted, renewed and forgotten, and change nothing. The counts are in the "
        "logs and XComs of the tasks.",
    ),
}


def is_dry() -> bool:
    """Whether the run only counts."""
    return bool(run_params(get_current_context()["params"], EVICTION_PARAMS)["dry_run"])


@task(multiple_outputs=False)
def evict(cache: str) -> dict[str, Any]:
    """Delete what has passed its hard expiry and, above the ceiling, what was not used for longest; then vacuum and
    analyse the table."""
    from msgspec import to_builtins

    from enrichment.housekeeping.caches import evict_cache

    dry_run = is_dry()
    with resources() as r:
        evicted: dict[str, Any] = to_builtins(evict_cache(r, REGISTRY.by_name[cache], dry_run=dry_run))
    log_pairs(log, "cache.evicted", evicted)
    return evicted


@task(multiple_outputs=False)
def renew(cache: str) -> dict[str, Any]:
    """Fetch the keys that are in use and about to expire again, through the cache's own source. Where that is down, the
    rows stay as they are."""
    from msgspec import to_builtins

    from enrichment.housekeeping.caches import renew_cache

    dry_run = is_dry()
    with resources() as r:
        renewed: dict[str, Any] = to_builtins(renew_cache(r, REGISTRY.by_name[cache], dry_run=dry_run))
    log_pairs(log, "cache.renewed", {"cache": cache, **renewed})
    return renewed


@task(multiple_outputs=False)
def forget() -> dict[str, Any]:
    """Delete batches, metrics, audit rows, rollups, breaches and details of replays past their retention."""
    from msgspec import to_builtins

    from enrichment.housekeeping.retention import forget as forget_old

    dry_run = is_dry()
    with resources() as r:
        retention = r.settings.retention
        days = {
            "enrichment_jobs": retention.jobs_days,
            "enrichment_metrics": retention.metrics_days,
            "enrichment_audit_log": retention.audit_days,
            "minute_rollups": retention.minute_rollups_days,
            "hourly_rollups": retention.hourly_rollups_days,
            "daily_rollups": retention.daily_rollups_days,
            "service_level_breaches": retention.daily_rollups_days,
            "counted_replays": retention.replays_days,
            "replay_details": retention.replays_days,
        }
        keep = {what: timedelta(days=number) for what, number in days.items()}
        chunk_rows = r.settings.cache.eviction_chunk_rows
        gone = forget_old(r.maintenance, keep, chunk_rows=chunk_rows, dry_run=dry_run)
        forgotten: dict[str, Any] = to_builtins(gone)
    log_pairs(log, "past.forgotten", forgotten)
    return forgotten


@task(multiple_outputs=False)
def report(evicted: Manifest, forgotten: Manifest) -> dict[str, Any]:
    """Say what was freed, what the caches hold, and how well they serve."""
    from enrichment.caches import eviction

    with resources() as r:
        held = eviction.report(r.maintenance)
    rows = sum(cache["found"] + cache["absent"] + cache["surplus"] for cache in evicted)
    freed = {
        "rows": rows,
        "row_bytes": sum(cache["row_bytes"] for cache in evicted),
        "disk_bytes": sum(cache["size_bytes_before"] - cache["size_bytes"] for cache in evicted),
    }
    log_pairs(log, "report.freed", {"dry_run": is_dry(), **freed})
    for kind, lines in held.items():
        for line in lines:
            log_pairs(log, f"report.{kind}", line)
    return {"dry_run": is_dry(), "freed": freed, "forgotten": forgotten, **held}
