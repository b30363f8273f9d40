"""Keep the caches small and warm, and the pipeline's own past within its retention.

**Reads** and **Writes** the tables `geo_ip_cache`, `user_profile_cache` and `business_context_cache`, and deletes from
`business_risks`, `enrichment_jobs`, `enrichment_metrics`, `enrichment_audit_log`, `enrichment_rollups`,
`service_level_breaches` and `enrichment_replays`. It also reads the views `v_active_geo_cache`,
`v_user_profile_summary` and `v_business_risk_distribution`, and asks the sources of the caches.

For each cache, side by side: `evict` deletes the rows past their hard expiry (expiry plus `CACHE_STALE_GRACE_HOURS`),
then the least recently used rows above the ceiling `..._CACHE_MAX_ROWS`, in chunks of `CACHE_EVICTION_CHUNK_ROWS` that
wait for no other session, and the risks of requests whose context has gone; then it vacuums and analyses. `renew`
fetches the keys that are in use before they expire (`CACHE_REFRESH_KEYS`, 0: off). `forget` deletes batches, metrics,
audit rows, rollups and breaches past `RETENTION_...`, dry runs of replays, and the details of their finished windows.
Batches that are unpublished, wait for their repair, or belong to an unfinished window stay. `report` says what was
freed (`row_bytes`: room for new rows; `disk_bytes`: given back to the disk, mostly 0) and what the caches hold.

**When it fails** nothing is lost: expiry is judged when reading, eviction only frees space. The database is unreachable
or a setting is wrong; the next run goes on where this one ended. A source that is down is not a failure: `renew` counts
its keys as `failed`.

**By hand** trigger it at any time; a dry run only counts.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from enrichment.enrichers.registry import REGISTRY
from enrichment.orchestration import common, eviction


@dag(
    schedule=eviction.EVERY_QUARTER,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    default_args=common.DEFAULT_ARGS,
    params=eviction.EVICTION_PARAMS,
    description="Evict and renew cached entries; delete records past their retention",
    doc_md=__doc__,
    tags=["stacklens", "caches"],
)
def stacklens_cache_eviction() -> None:
    """See the module: its text is the DAG's documentation."""
    evicted = []
    for cache in REGISTRY.by_name:
        evicted.append(eviction.evict.override(task_id=f"evict_{cache}")(cache))
        evicted[-1] >> eviction.renew.override(task_id=f"renew_{cache}")(cache)
    eviction.report(evicted, eviction.forget())


stacklens_cache_eviction()
