"""Every DAG parses, says what it is for, and is safe to leave alone."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization

from enrichment.errors import RunRefused

REPOSITORY = Path(__file__).parents[2]
DAG_FILES = sorted((REPOSITORY / "dags").glob("*.py"))
BAG = DagBag(dag_folder=str(REPOSITORY / "dags"))
DAGS = sorted(BAG.dags.items())
HEAVY = ("pandas", "numpy", "numba", "pyarrow", "confluent_kafka", "psycopg", "requests", "maxminddb")

each_dag = pytest.mark.parametrize("dag", [dag for _, dag in DAGS], ids=[dag_id for dag_id, _ in DAGS])


def test_every_file_imports() -> None:
    """No DAG file has an import error, and each defines the DAG of its name: file, function and id are one word."""
    assert BAG.import_errors == {}
    assert [dag_id for dag_id, _ in DAGS] == [file.stem for file in DAG_FILES]


@each_dag
def test_dag_says_what_it_is_for(dag: DAG) -> None:
    """A person in the UI finds an owner, tags, a description, and what it reads, writes and asks of them."""
    assert dag.description
    assert "stacklens" in dag.tags
    for heading in ("**Reads**", "**Writes**", "**When it fails**"):
        assert heading in (dag.doc_md or "")
    assert {task.owner for task in dag.tasks} == {"stacklens"}
    assert all(task.doc_md for task in dag.tasks)


@each_dag
def test_dag_never_piles_up(dag: DAG) -> None:
    """One run at a time, none for the past, none without an end."""
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert dag.dagrun_timeout is not None


@each_dag
def test_tasks_are_retried_with_backoff_and_end(dag: DAG) -> None:
    """Every task is tried again with growing pauses, fails at once where that is useless, and has a time limit."""
    tasks: list[Any] = dag.tasks
    for task in tasks:
        assert task.retries >= 1
        assert task.retry_exponential_backoff > 1
        assert task.max_retry_delay is not None
        assert task.retry_policy is not None
        assert timedelta(0) < task.execution_timeout <= timedelta(hours=1)


@each_dag
def test_what_a_task_returns_is_one_xcom(dag: DAG) -> None:
    """A manifest is read whole: Airflow would store each of its fields a second time, with a request for each."""
    tasks: list[Any] = dag.tasks
    assert [task.task_id for task in tasks if getattr(task, "multiple_outputs", False)] == []


@each_dag
def test_run_with_a_parameter_that_is_none_is_refused(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow takes whatever a trigger names: a `dryrun` is refused by the first task, before anything is opened."""
    known: dict[str, Any] = {name: dag.params[name] for name in dag.params}
    context = {"params": {**known, "dryrun": True}, "run_id": "r", "dag": dag}
    for module in ("eviction", "rollup", "metadata", "geoip", "live", "replay", "redrive", "repair"):
        monkeypatch.setattr(f"enrichment.orchestration.{module}.get_current_context", lambda: context, raising=False)
    first: list[Any] = [task for task in dag.roots if task.task_id not in ("report_age", "clean_logs")]
    assert first
    for task in first:
        with pytest.raises(RunRefused, match=f"does not have: dryrun.*takes {', '.join(known)}"):
            task.python_callable(*task.op_args, **task.op_kwargs)


@each_dag
def test_dag_survives_serialization(dag: DAG) -> None:
    """What the scheduler reads back from its database has the same tasks."""
    read_back = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert sorted(read_back.task_ids) == sorted(dag.task_ids)


@pytest.mark.parametrize("file", DAG_FILES, ids=[file.stem for file in DAG_FILES])
def test_importing_a_dag_touches_nothing(file: Path) -> None:
    """No network, no database and no heavy library when a DAG file is imported: it is, in every task."""
    program = (
        "import runpy, socket, sys\n"
        "import airflow.sdk\n"
        "before = set(sys.modules)\n"
        "def refuse(*args): raise AssertionError('a connection at import')\n"
        "socket.socket.connect = refuse\n"
        f"runpy.run_path({str(file)!r})\n"
        f"print(sorted(set({HEAVY!r}) & (set(sys.modules) - before)))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=REPOSITORY / "plugins"
    )
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["[]"]), ran.stderr
