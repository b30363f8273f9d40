"""What a run of the DAG costs beside its stages: each task's life from the trigger to its end, split into parts.

Runs that find nothing, 1,000 and 10,000 messages, caches warm, triggered by hand through the real scheduler. The tasks
carry clocks of their own (`benchmarks/probe`); the scheduler's moments are those in Airflow's metadata. The triggerer
does not watch meanwhile: a run that it starts would take the messages.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.scheduler import await_dag, await_start
from benchmarks.stand import whole_stack
from enrichment.settings import load
from include.local.airflow_api import AirflowApi
from include.local.config import ROOT
from include.local.errors import StackError
from include.local.generate import Options, messages
from include.local.play import DAG_ID
from include.local.records import produce
from include.local.stack import Stack
from include.local.steps import Steps

SIZES = (0, 1_000, 10_000)
RUN_SECONDS = 120
POLL_SECONDS = 0.05
# In the order of a task's life; seconds each.
PARTS = ("queue", "start", "parsing", "imports", "connections", "stage", "reporting", "end")

TASKS = """
SELECT task_id, pid, extract(epoch FROM scheduled_dttm)::float, extract(epoch FROM end_date)::float
FROM task_instance
WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s AND start_date IS NOT NULL AND pid IS NOT NULL
ORDER BY start_date
"""
RUN = """
SELECT state, extract(epoch FROM end_date)::float
FROM dag_run
WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s
"""


@dataclass(frozen=True)
class Hop:
    """One task of a run: the seconds of its parts. The first is from its scheduling until its process began."""

    task: str
    parts: Mapping[str, float]


@dataclass(frozen=True)
class TimedRun:
    """A run over `size` messages: seconds from its trigger until it had published, and until it was over."""

    size: int
    to_commit: float
    to_end: float
    hops: Sequence[Hop]


def measure_hops(environ: Mapping[str, str], repeat: int, steps: Steps, console: Console) -> list[TimedRun]:
    """Start the whole stack with clocks in its tasks, run the DAG `repeat` times at each size, stop the stack."""
    file = Path(environ["LOCAL_DIR"]).absolute() / "hops.jsonl"
    own = {"HOPS_FILE": str(file), "PYTHONPATH": str(ROOT / "benchmarks" / "probe"), "WAKE_UP_ENABLED": "false"}
    with whole_stack({**environ, **own}, steps) as (_, stack):
        airflow = AirflowApi(stack.airflow_url, stack.airflow_user, stack.airflow_password)
        await_dag(airflow)
        first = _run(stack, airflow, file, max(SIZES))
        slowest = max(first.hops, key=lambda hop: sum(hop.parts.values()))
        console.print(
            f"  the first run after set-up: {first.to_commit:.2f} s, its slowest task {slowest.task} "
            f"{sum(slowest.parts.values()):.2f} s", highlight=False,
        )  # fmt: skip
        for size in SIZES:
            _run(stack, airflow, file, size)
        runs = []
        for _ in range(repeat):
            for size in SIZES:
                runs.append(_run(stack, airflow, file, size))
                console.print(f"  {size:>6,} messages: {runs[-1].to_commit:.2f} s to commit", highlight=False)
    return [first, *runs]


def _run(stack: Stack, airflow: AirflowApi, file: Path, size: int) -> TimedRun:
    await_start()
    if size:
        produce(messages(Options(count=size)), stack.bootstrap_servers, load().kafka.input_topic)
    triggered = time.time()
    run_id = airflow.trigger(DAG_ID)
    database = stack.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    of_run = {"dag_id": DAG_ID, "run_id": run_id}
    with psycopg.connect(database, autocommit=True) as connection:
        while True:
            state, ended = connection.execute(RUN, of_run).fetchone() or ("", 0.0)
            if state in ("success", "failed"):
                break
            if time.time() - triggered > RUN_SECONDS:
                raise StackError(f"run {run_id} is {state} after {RUN_SECONDS} s; see {stack.airflow_url}")
            time.sleep(POLL_SECONDS)
        if state == "failed":
            raise StackError(f"run {run_id} failed; see {stack.airflow_url}/dags/{DAG_ID}/runs/{run_id}")
        tasks = connection.execute(TASKS, of_run).fetchall()
    noted = _noted(file)
    hops = [_hop(task, noted[task[1]]) for task in tasks if task[1] in noted]
    return TimedRun(size, _committed(tasks, noted) - triggered, ended - triggered, hops)


def _committed(tasks: Sequence[tuple[Any, ...]], noted: Mapping[int, Mapping[str, Any]]) -> float:
    """When the last stage had done its work: `publish`, or `claim` where nothing waited."""
    last = [t for t in tasks if t[0].endswith("publish")] or tasks
    return max(float(noted[t[1]]["moments"]["_execute_task.end"]) for t in last)


def _noted(file: Path) -> dict[int, dict[str, Any]]:
    lines = (json.loads(line) for line in file.read_text().splitlines())
    return {line["pid"]: line for line in lines}


def _hop(task: tuple[Any, ...], noted: Mapping[str, Any]) -> Hop:
    name, _, scheduled, ended = task
    at, spent = noted["moments"], noted["spent"]
    imports = {phase: spent.get(f"{phase}.imports", 0.0) for phase in ("startup", "work")}
    connections = sum(spent.get(f"{phase}.connections", 0.0) for phase in ("startup", "work"))
    parsing = at["parse.end"] - at["parse.begin"]
    parts = {
        "queue": at["forked"] - scheduled,
        "start": at["_execute_task.begin"] - at["forked"] - parsing,
        "parsing": parsing - imports["startup"],
        "imports": sum(imports.values()),
        "connections": connections,
        "stage": at["_execute_task.end"] - at["_execute_task.begin"] - imports["work"] - connections,
        "reporting": at["done"] - at["_execute_task.end"],
        "end": ended - at["done"],
    }
    return Hop(name.removeprefix("batch."), parts)


def hop_summary(runs: Sequence[TimedRun]) -> dict[str, Any]:
    """Medians by size: seconds to the commit and to the end, and of each task's parts. The first run stands alone."""
    first, *others = runs
    found: dict[str, Any] = {"first_run_slowest_task_s": round(max(sum(h.parts.values()) for h in first.hops), 2)}
    for size in SIZES:
        of_size = [run for run in others if run.size == size]
        names = dict.fromkeys(hop.task for run in of_size for hop in run.hops)
        found[str(size)] = {
            "to_commit_s": round(statistics.median(run.to_commit for run in of_size), 2),
            "to_end_s": round(statistics.median(run.to_end for run in of_size), 2),
            "tasks": {name: _medians(hop for run in of_size for hop in run.hops if hop.task == name) for name in names},
        }
    return found


def _medians(hops: Iterable[Hop]) -> dict[str, float]:
    found = list(hops)
    return {part: round(statistics.median(hop.parts[part] for hop in found), 3) for part in PARTS}


def hop_tables(found: Mapping[str, Any]) -> list[Table]:
    """A table for each size."""
    tables = []
    for size in SIZES:
        of_size = found[str(size)]
        title = f"{size:,} messages: {of_size['to_commit_s']} s to commit, {of_size['to_end_s']} s to the end"
        table = Table("seconds", *PARTS, "all", title=title)
        for name, parts in of_size["tasks"].items():
            table.add_row(name, *(f"{parts[part]:.3f}" for part in PARTS), f"{sum(parts.values()):.3f}")
        tables.append(table)
    return tables
