"""Roll up what the pipeline measured, hour by hour, and check the service levels of the live stream.

**Reads** the tables `enrichment_jobs`, `enrichment_metrics` and `enrichment_audit_log`, the day's other hours, and the
views `v_enrichment_job_stats` and `v_enrichment_performance_trend`. **Writes** `enrichment_rollups` (the hour of the
data interval, its minutes while these are kept, and the sum of its day) and `service_level_breaches`. Dry runs, replays
and redrives are not counted.

`roll_up` makes the rollup; `service_levels` compares it with the settings `SERVICE_LEVEL_*`; `report` says what ledger
and metrics hold, and which hours have no rollup.

**When it fails** Red `service_levels` alone: the hour missed a service level. Its log and `service_level_breaches` say
which and by how much; the notifier was called, if one is set, except in a backfill. There is nothing to clear, and the
next hours run. Anything else: the database was unreachable, a setting is wrong, or the notifier failed. Clear the run;
an hour may be rolled up any number of times.

**By hand** trigger it for any hour, or run a backfill over many: the rollup then includes batches recorded late.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from enrichment.orchestration import common, rollup


@dag(
    schedule=rollup.HOURLY,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=30),
    default_args=common.DEFAULT_ARGS,
    params=rollup.ROLLUP_PARAMS,
    description="Hourly and daily figures of the live stream, and its service levels",
    doc_md=__doc__,
    tags=["stacklens", "metrics"],
)
def stacklens_metrics_rollup() -> None:
    """See the module: its text is the DAG's documentation."""
    hour = rollup.roll_up()
    rollup.service_levels(hour)
    rollup.report(hour)


stacklens_metrics_rollup()
