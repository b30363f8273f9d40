"""Delete old runs of these DAGs from Airflow's own database, and their task logs: micro-batches make many.

**Reads** and **Writes** Airflow's metadata database through the connection `airflow_metadata`, and the log folder.

Every night `clean_runs` calls `airflow db clean` to delete runs of the DAGs whose id begins with `stacklens_` that
started more than `RETENTION_DAG_RUNS_DAYS` (never under a day) ago: their task instances and earlier tries, XComs,
deadlines and rows of the event log; it deletes their asset events itself. No archive tables are left. `clean_logs` then
removes task logs of deleted runs, if nothing was written to them for as long. A run that has not ended, and the last
run of each DAG, stay with all their rows; so do other DAGs, connections, variables, backfills and the versions of DAGs.

**When it fails** nothing else is affected: the next run goes on where this one ended. The connection `airflow_metadata`
is missing or its user may not create and drop tables, which `airflow db clean` does; its output is in the log. A killed
clean-up leaves tables `_airflow_deleted__...`: remove them with `airflow db drop-archived`.

**By hand** trigger it with fewer days (one at least), or as a dry run that only counts.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from enrichment.orchestration import common, metadata


@dag(
    schedule=metadata.EVERY_NIGHT,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    default_args={**common.DEFAULT_ARGS, "retries": 2, "execution_timeout": timedelta(minutes=45)},
    params=metadata.CLEANUP_PARAMS,
    description="Delete old runs of these DAGs from Airflow's database, and their logs",
    doc_md=__doc__,
    tags=["stacklens", "housekeeping"],
)
def stacklens_metadata_cleanup() -> None:
    """See the module: its text is the DAG's documentation."""
    metadata.clean_runs() >> metadata.clean_logs()


stacklens_metadata_cleanup()
