"""Deletes the old runs of our DAGs from Airflow's own database, and their logs from its folder.

`airflow db clean` deletes, in a process of its own: tasks cannot reach Airflow's database, so its address comes from a
connection. What is safe to delete is decided here, DAG by DAG (include/sql/airflow_metadata).
"""

from __future__ import annotations

import ast
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from enrichment import sql
from enrichment.errors import MetadataNotCleaned
from enrichment.statements import Statements

log = logging.getLogger(__name__)

PREFIX = "stacklens_"
# What `airflow db clean` cleans; with dag_run go its tasks, XComs and what else hangs on a run.
TABLES = ("dag_run", "log")
# Told of DAGs, Airflow 3.3.2 looks there for a column that is not there (apache/airflow#69030); the rows go with their
# run, by ON DELETE CASCADE.
GOES_WITH_ITS_RUN = {"deadline"}
BATCH_ROWS = 1_000
CONNECT_SECONDS = "10"  # for the command to reach the database; all else ends with the task's own time


class Cutoff(msgspec.Struct, frozen=True):
    """The time before which the runs of a DAG may be deleted, and how many these are."""

    dag_id: str
    cutoff: datetime
    runs: int


class Logs(msgspec.Struct, frozen=True):
    """Task logs that were removed (dry: would be): folders of runs, files, bytes."""

    runs: int = 0
    files: int = 0
    bytes: int = 0


def find_cutoffs(connection: psycopg.Connection[Any], keep: timedelta) -> list[Cutoff]:
    """The cutoff of each of our DAGs. A run that has not ended, and the last run of each DAG, are never deleted."""
    return Statements(connection).rows("airflow_metadata/find_cutoffs", Cutoff, {"prefix": PREFIX, "keep": keep})


def clean_runs(
    connection: psycopg.Connection[Any], sqlalchemy_url: str, cutoffs: Iterable[Cutoff], *, dry_run: bool = False
) -> dict[str, int]:
    """Delete the runs before their cutoffs and all rows that belong to them; returns the rows by table (dry: that would
    be deleted).

    DAGs with the same cutoff, mostly all, share one call of `airflow db clean`; DAGs without old runs need none. Raises
    `MetadataNotCleaned` when it fails; what it deleted before stays deleted, and the next try goes on from there.
    """
    rows: dict[str, int] = {}
    due = sorted((c for c in cutoffs if c.runs), key=lambda c: (c.cutoff, c.dag_id))
    for cutoff, group in groupby(due, key=lambda c: c.cutoff):
        dag_ids = [c.dag_id for c in group]
        cleaned = db_clean(sqlalchemy_url, cutoff, dag_ids, dry_run=dry_run)
        cleaned["asset_event"] = _clean_asset_events(connection, cutoff, dag_ids, dry_run=dry_run)
        rows = {table: rows.get(table, 0) + cleaned.get(table, 0) for table in rows.keys() | cleaned.keys()}
    return rows


def db_clean(sqlalchemy_url: str, cutoff: datetime, dag_ids: Collection[str], *, dry_run: bool) -> dict[str, int]:
    """One call of `airflow db clean`; returns the rows by table that it found and, unless dry, deleted."""
    command = [
        sys.executable, "-m", "airflow", "db", "clean", "--clean-before-timestamp", cutoff.isoformat(),
        "--tables", ",".join(TABLES), "--dag-ids", ",".join(dag_ids), "--batch-size", str(BATCH_ROWS),
        "--skip-archive", "--error-on-cleanup-failure", "--yes", *(["--dry-run"] if dry_run else []),
    ]  # fmt: skip
    ran = subprocess.run(
        command, env=environment(os.environ, sqlalchemy_url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    if ran.returncode and not _failed_tables(ran.stdout) <= GOES_WITH_ITS_RUN:
        log.error("%s", ran.stdout)
        raise MetadataNotCleaned(f"`airflow db clean` ended with {ran.returncode}: {ran.stdout.strip()[-500:]}")
    return {
        table: int(found)
        for table, found in re.findall(r"^Checking table (\w+)\nFound (\d+) rows", ran.stdout, re.MULTILINE)
    }


def environment(environ: Mapping[str, str], sqlalchemy_url: str) -> dict[str, str]:
    """A task's environment as the command needs it: with Airflow's database, which is hidden from tasks, and as a
    process of Airflow itself."""
    hidden = {"AIRFLOW__CORE__SQL_ALCHEMY_CONN", "_AIRFLOW_PROCESS_CONTEXT"}
    inherited = {name: value for name, value in environ.items() if name not in hidden}
    waiting = {"PGCONNECT_TIMEOUT": inherited.get("PGCONNECT_TIMEOUT", CONNECT_SECONDS)}
    return {**inherited, **waiting, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": sqlalchemy_url}


def remove_logs(
    folder: Path,
    connection: psycopg.Connection[Any],
    cutoffs: Iterable[Cutoff],
    *,
    keep: timedelta,
    now: datetime,
    dry_run: bool = False,
) -> Logs:
    """Remove the task logs of runs that are gone (dry: would be) and that nothing has been written to for `keep`."""
    before, staying = (now - keep).timestamp(), _staying(connection, cutoffs if dry_run else ())
    removed = Logs()
    for run in _run_folders(folder):
        files = [file.stat() for file in run.rglob("*") if file.is_file()]
        newest = max((file.st_mtime for file in files), default=run.stat().st_mtime)
        if newest >= before or (_named(run.parent), _named(run)) in staying:
            continue
        removed = Logs(
            removed.runs + 1, removed.files + len(files), removed.bytes + sum(file.st_size for file in files)
        )
        if not dry_run:
            shutil.rmtree(run)
    return removed


def _clean_asset_events(
    connection: psycopg.Connection[Any], cutoff: datetime, dag_ids: list[str], *, dry_run: bool
) -> int:
    parameters = {"dag_ids": dag_ids, "cutoff": cutoff, "row_limit": BATCH_ROWS}
    statements = Statements(connection)
    if dry_run:
        return statements.rows("airflow_metadata/count_asset_events", dict[str, int], parameters)[0]["count"]
    deleted = 0
    while True:
        rows = statements.execute("airflow_metadata/delete_asset_events", parameters)
        deleted += rows
        if rows < BATCH_ROWS:
            return deleted


def _failed_tables(output: str) -> set[str]:
    """The tables that the command reports as not cleaned; a placeholder when it failed otherwise."""
    said = re.search(r"did not clean them: (\[.*?\])", output)
    return set(ast.literal_eval(said[1])) if said else {"?"}


def _staying(connection: psycopg.Connection[Any], going: Iterable[Cutoff]) -> set[tuple[str, str]]:
    """The existing runs, as DAG and run id, without those before the cutoffs."""
    cutoffs = {c.dag_id: c.cutoff for c in going}
    with connection.transaction():
        runs = connection.execute(sql.load("airflow_metadata/find_runs"), {"prefix": PREFIX}).fetchall()
    return {
        (dag_id, run_id)
        for dag_id, run_id, started in runs
        if started is None or dag_id not in cutoffs or started >= cutoffs[dag_id]
    }


def _run_folders(folder: Path) -> Iterator[Path]:
    """The log folders of runs by Airflow's default `log_filename_template`; none with another template."""
    for run in sorted(folder.glob(f"dag_id={PREFIX}*/run_id=*")):
        if run.is_dir() and not run.is_symlink():
            yield run


def _named(folder: Path) -> str:
    return folder.name.partition("=")[2]
