"""The tasks of `stacklens_metadata_cleanup`: delete old runs of our DAGs from Airflow's database, and their logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronTriggerTimetable, Param, get_current_context, task

from enrichment.log_lines import log_pairs
from enrichment.orchestration.common import run_params, stoppable

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

# At a quiet hour, and at a minute that few other things begin at.
EVERY_NIGHT = CronTriggerTimetable("17 3 * * *", timezone="UTC")

CLEANUP_PARAMS = {
    "days": Param(
        None,
        type=["null", "number"],
        minimum=1,
        title="Days to keep",
        description_md="Runs younger than this stay. Empty: the setting `RETENTION_DAG_RUNS_DAYS`.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description_md="Count what would go and delete nothing. The counts are in the XComs of the tasks.",
    ),
}


@contextmanager
def metadata() -> Iterator[tuple[psycopg.Connection[Any], timedelta, bool]]:
    """Airflow's own database, how long runs are kept, and whether the run only counts."""
    from enrichment.databases import Limits, connect
    from enrichment.settings import load
    from enrichment.sources.airflow_connections import postgres_parameters

    settings, params = load(), run_params(get_current_context()["params"], CLEANUP_PARAMS)
    retention, waits = settings.retention, settings.postgres
    limits = Limits(waits.connect_timeout_sec, waits.maintenance_timeout_sec, waits.maintenance_lock_timeout_sec)
    with stoppable(), closing(connect(postgres_parameters(retention.metadata_conn_id), limits)) as connection:
        yield connection, timedelta(days=params["days"] or retention.dag_runs_days), params["dry_run"]


def sqlalchemy_url() -> str:
    """The URL of this database in the form that Airflow itself expects."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from enrichment.settings import load

    hook = PostgresHook(load().retention.metadata_conn_id, sqlalchemy_scheme="postgresql+psycopg2")
    return hook.sqlalchemy_url.render_as_string(hide_password=False)


@task(multiple_outputs=False)
def clean_runs() -> dict[str, Any]:
    """Delete old runs of our DAGs from Airflow's database, with their tasks, XComs, asset events and event log."""
    from enrichment.housekeeping.metadata import clean_runs as clean
    from enrichment.housekeeping.metadata import find_cutoffs

    with metadata() as (connection, keep, dry_run):
        cutoffs = find_cutoffs(connection, keep)
        rows = clean(connection, sqlalchemy_url(), cutoffs, dry_run=dry_run)
    for each in cutoffs:
        log.info("metadata.cutoff dag_id=%s cutoff=%s old_runs=%d", each.dag_id, each.cutoff.isoformat(), each.runs)
    log_pairs(log, "metadata.cleaned", {"dry_run": dry_run, **rows})
    return {"dry_run": dry_run, "runs": {each.dag_id: each.runs for each in cutoffs if each.runs}, "rows": rows}


@task(multiple_outputs=False)
def clean_logs() -> dict[str, Any]:
    """Remove the task logs of runs that are gone, from the log folder that this worker sees."""
    from datetime import UTC, datetime
    from pathlib import Path

    from airflow.sdk.configuration import conf
    from msgspec import to_builtins

    from enrichment.housekeeping.metadata import find_cutoffs, remove_logs

    folder = Path(conf.get("logging", "base_log_folder"))
    with metadata() as (connection, keep, dry_run):
        removed = remove_logs(
            folder, connection, find_cutoffs(connection, keep), keep=keep, now=datetime.now(UTC), dry_run=dry_run
        )  # fmt: skip
    log.info(
        "logs.removed dry_run=%s folder=%s runs=%d files=%d bytes=%d", dry_run, folder, *to_builtins(removed).values()
    )
    return {"dry_run": dry_run, **to_builtins(removed)}
