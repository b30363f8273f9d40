"""The clean-up of Airflow's own database and logs: what goes, above all what stays, by the real `airflow db clean`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from enrichment.errors import MetadataNotCleaned
from enrichment.housekeeping.metadata import Cutoff, Logs, clean_runs, db_clean, environment, find_cutoffs, remove_logs
from tests.fixtures.postgres import MakeDatabase

pytestmark = pytest.mark.processes

Connection = psycopg.Connection[Any]

NOW = datetime.now(UTC)
WEEK = timedelta(days=7)
DAG = "stacklens_enrichment"
RUN = [
    """INSERT INTO dag_run (dag_id, run_id, run_type, run_after, state, start_date)
    VALUES (%(dag_id)s, %(run_id)s, %(run_type)s, %(started)s, %(state)s, %(started)s)""",
    """INSERT INTO task_instance (id, task_id, dag_id, run_id, map_index, try_number, pool, pool_slots, start_date)
    VALUES (gen_random_uuid(), 'claim', %(dag_id)s, %(run_id)s, -1, 1, 'default_pool', 1, %(task_started)s)""",
    """INSERT INTO xcom (dag_run_id, task_id, key, dag_id, run_id, map_index, timestamp)
    SELECT id, 'claim', 'return_value', dag_id, run_id, -1, %(task_started)s FROM dag_run
    WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s""",
    "INSERT INTO log (event, dag_id, run_id, dttm) VALUES ('trigger', %(dag_id)s, %(run_id)s, %(started)s)",
    """INSERT INTO asset (id, name, uri, "group", extra, created_at, updated_at)
    VALUES (1, 'a', 'a', '', '{}', now(), now()) ON CONFLICT DO NOTHING""",
    """INSERT INTO asset_event (asset_id, extra, timestamp, source_dag_id, source_run_id, source_map_index)
    VALUES (1, '{}', %(started)s, %(dag_id)s, %(run_id)s, -1)""",
]


@pytest.fixture(scope="module")
def url(make_empty_database: MakeDatabase, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Airflow's own database, migrated, as SQLAlchemy's URL."""
    info = conninfo_to_dict(make_empty_database())
    address = f"postgresql+psycopg2://{info['user']}:@/{info['dbname']}?host={info['host']}"
    home = {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env={**environment(os.environ, address), **home}, check=True, capture_output=True)
    return address


@pytest.fixture
def metadata(url: str) -> Iterator[Connection]:
    """A connection to it, with no runs in it."""
    with psycopg.connect(url.replace("+psycopg2", ""), autocommit=True) as connection:
        connection.execute("TRUNCATE dag_run, task_instance, xcom, log, asset, asset_event CASCADE")
        yield connection


def add_run(
    metadata: Connection, run_id: str, days: float, *, dag_id: str = DAG, state: str = "success",
    run_type: str = "scheduled", task_days: float | None = None,
) -> None:  # fmt: skip
    """A run that started that many days ago, with a task, an XCom, a row of the event log and an asset event."""
    started = NOW - timedelta(days=days)
    values = {
        "dag_id": dag_id, "run_id": run_id, "state": state, "run_type": run_type, "started": started,
        "task_started": started if task_days is None else NOW - timedelta(days=task_days),
    }  # fmt: skip
    for statement in RUN:
        metadata.execute(statement, values)


def left(metadata: Connection, table: str = "dag_run", column: str = "run_id") -> list[str]:
    """The runs that a table still knows."""
    return sorted(
        run for (run,) in metadata.execute(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL".encode())
    )


def fill(metadata: Connection) -> None:
    """Runs of every kind."""
    add_run(metadata, "old", 9)
    add_run(metadata, "old, by hand", 8, run_type="manual")
    add_run(metadata, "old, failed", 10, state="failed")
    add_run(metadata, "young", 6)
    add_run(metadata, "last of another", 30, dag_id="stacklens_other", run_type="manual")
    add_run(metadata, "before the last of another", 31, dag_id="stacklens_other")
    add_run(metadata, "not ours", 40, dag_id="billing")
    add_run(metadata, "not ours, last", 39, dag_id="billing")


def test_old_runs_go_with_all_that_hangs_on_them(metadata: Connection, url: str) -> None:
    """Older runs of our DAGs go with tasks, XComs, log rows and asset events; younger ones, the last one of each DAG
    and other people's DAGs stay whole; no archive is left. A dry run before it counts the same and deletes nothing."""
    fill(metadata)
    everything = left(metadata)
    cutoffs = find_cutoffs(metadata, WEEK)
    assert {c.dag_id: c.runs for c in cutoffs} == {DAG: 3, "stacklens_other": 1}
    dry = clean_runs(metadata, url, cutoffs, dry_run=True)
    assert left(metadata) == everything
    assert {name: dry[name] for name in ("dag_run", "task_instance", "xcom", "log", "asset_event")} == {
        "dag_run": 3, "task_instance": 4, "xcom": 4, "log": 4, "asset_event": 4,
    }  # fmt: skip
    done = clean_runs(metadata, url, cutoffs)
    staying = ["before the last of another", "last of another", "not ours", "not ours, last", "young"]
    # The last run that was not started by hand is one more that `airflow db clean` itself keeps: the row alone.
    assert left(metadata) == staying
    staying.remove("before the last of another")
    for table, column in [("task_instance", "run_id"), ("xcom", "run_id"), ("log", "run_id"),
                          ("asset_event", "source_run_id")]:  # fmt: skip
        assert left(metadata, table, column) == staying, table
    assert (done["dag_run"], done["asset_event"]) == (3, 4)
    archives = "SELECT tablename FROM pg_tables WHERE starts_with(tablename, '_airflow_deleted__')"
    assert metadata.execute(archives).fetchall() == []


@pytest.mark.parametrize("state", ["running", "queued"])
def test_what_has_not_ended_holds_everything_younger_back(metadata: Connection, state: str) -> None:
    """A run that has not ended stays with all its tasks, those that it began before it was cleared included."""
    add_run(metadata, "older", 20)
    add_run(metadata, "unfinished", 9, state=state, task_days=15)
    add_run(metadata, "between", 12)
    add_run(metadata, "young", 1)
    [found] = find_cutoffs(metadata, WEEK)
    assert (found.cutoff, found.runs) == (NOW - timedelta(days=15), 1)


def test_nothing_is_started_when_nothing_is_old(metadata: Connection) -> None:
    """Without old runs there is no `airflow db clean`: an address that leads nowhere does no harm."""
    add_run(metadata, "young", 1)
    assert clean_runs(metadata, "postgresql+psycopg2://nowhere.invalid/db", find_cutoffs(metadata, WEEK)) == {}


def test_failure_is_told_when_the_command_fails() -> None:
    """A database that cannot be reached fails the task with what the command said, and is not taken for a success."""
    with pytest.raises(MetadataNotCleaned, match="ended with 1"):
        db_clean("postgresql+psycopg2://x@127.0.0.1:1/db", NOW, [DAG], dry_run=False)


def log_file(folder: Path, run_id: str, days: float, dag_id: str = DAG) -> None:
    """A task's log of a run, 100 bytes, last written to that many days ago."""
    file = folder / f"dag_id={dag_id}" / f"run_id={run_id}" / "task_id=claim" / "attempt=1.log"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 100)
    written = (NOW - timedelta(days=days)).timestamp()
    os.utime(file, (written, written))


def test_logs_go_when_their_run_is_gone_and_they_are_old(metadata: Connection, tmp_path: Path) -> None:
    """Logs of runs that Airflow still has stay, so do those that were written to of late, and other people's."""
    add_run(metadata, "there", 9)
    add_run(metadata, "last", 1)
    for run_id, days in [("gone", 8), ("there", 9), ("last", 1), ("gone just now", 6)]:
        log_file(tmp_path, run_id, days)
    log_file(tmp_path, "not ours", 99, "billing")
    (tmp_path / "scheduler").mkdir()
    keep = {"keep": WEEK, "now": NOW}
    cutoffs = find_cutoffs(metadata, WEEK)
    # A dry run counts what goes once the runs before the cutoffs are gone.
    assert remove_logs(tmp_path, metadata, cutoffs, dry_run=True, **keep) == Logs(2, 2, 200)  # type: ignore[arg-type]
    assert remove_logs(tmp_path, metadata, cutoffs, **keep) == Logs(1, 1, 100)  # type: ignore[arg-type]
    assert sorted(run.name for run in tmp_path.glob("*/run_id=*")) == [
        "run_id=gone just now", "run_id=last", "run_id=not ours", "run_id=there",
    ]  # fmt: skip


def test_no_logs_are_removed_when_the_folder_has_another_shape(metadata: Connection, tmp_path: Path) -> None:
    """With another `log_filename_template`, or no folder at all, nothing is touched."""
    file = tmp_path / DAG / "gone" / "1.log"
    file.parent.mkdir(parents=True)
    file.write_text("x")
    os.utime(file, (0, 0))
    assert remove_logs(tmp_path, metadata, [], keep=WEEK, now=NOW) == Logs()
    assert remove_logs(tmp_path / "none", metadata, [], keep=WEEK, now=NOW) == Logs()
    assert file.exists()


def test_dags_with_the_same_cutoff_are_one_call(monkeypatch: pytest.MonkeyPatch, metadata: Connection) -> None:
    """A call takes seconds: DAGs that may be cleaned up to the same moment share one."""
    calls = []

    def clean(_url: str, cutoff: datetime, dag_ids: list[str], *, dry_run: bool) -> dict[str, int]:
        calls.append((cutoff, dag_ids))
        return {"dag_run": 1}

    monkeypatch.setattr("enrichment.housekeeping.metadata.db_clean", clean)
    early = NOW - timedelta(days=30)
    cutoffs = [Cutoff("b", NOW, 1), Cutoff("c", early, 2), Cutoff("a", NOW, 3), Cutoff("d", NOW, 0)]
    assert clean_runs(metadata, "", cutoffs) == {"dag_run": 2, "asset_event": 0}
    assert calls == [(early, ["c"]), (NOW, ["a", "b"])]
