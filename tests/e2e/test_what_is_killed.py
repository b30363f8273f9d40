"""`kill -9` of what runs the tasks, on the stack of `make run`: the stream goes on, exactly once.

How long it took is printed (`make test ARGS='-s tests/e2e/test_what_is_killed.py'`): within two minutes on a machine
that has nothing else to do, as `tests/local/test_recovery_options.py` works out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)

MESSAGES = 150_000  # enough that a task is still at it when it is found


def recovered(stream: Stream, what: str, killed_at: float) -> None:
    """Wait for the commit of the last message, and say how long after the kill it was."""
    eventually(lambda: stream.lag() == 0, f"the commit of what was under way when {what} was killed")
    print(f"\nkill -9 of {what}: {time.monotonic() - killed_at:.0f} s until all of the backlog was committed")


def assert_conserved(stream: Stream) -> None:
    """Every message that was ever sent has exactly one output."""
    report = stream.check()
    assert report.ok, report.summary()


@pytest.mark.parametrize("task", ["drain", "publish"])
def test_killed_worker_is_noticed(airflow: Airflow, stream: Stream, task: str) -> None:
    """A worker that is killed with its task says nothing more: the task is missed by its heartbeats and tried again."""
    stream.produce([message(n) for n in range(MESSAGES)])
    airflow.trigger()
    killed = airflow.running(f"batch.{task}")  # of this run, or of the scheduled one of this minute
    run_id = killed["dag_run_id"]
    runner, worker = airflow.processes(killed)
    worker.kill()
    runner.kill()
    recovered(stream, f"a worker in the middle of `{task}`", time.monotonic())
    assert airflow.finish(run_id) == "success"
    assert airflow.tasks(run_id)[f"batch.{task}"]["try_number"] == 2
    assert_conserved(stream)


def scheduler(directory: Path) -> psutil.Process:
    """The scheduler of a local stack, as supervisord started it."""
    supervisord = psutil.Process(int((directory / "supervisor" / "pid").read_text()))
    [found] = [child for child in supervisord.children() if "scheduler" in " ".join(child.cmdline())]
    return found


@pytest.mark.parametrize(
    ("what", "with_it"),
    [
        ("the scheduler", lambda _: []),
        ("the scheduler and all of its workers", lambda process: process.children(recursive=True)),
    ],
    ids=["alone", "with its workers"],
)
def test_killed_scheduler_is_replaced(
    airflow: Airflow, stream: Stream, what: str, with_it: Callable[[psutil.Process], list[psutil.Process]]
) -> None:
    """supervisord starts another one, which takes over what the first one had under way."""
    stream.produce([message(n) for n in range(MESSAGES)])
    airflow.trigger()
    run_id = airflow.running("batch.publish")["dag_run_id"]
    first = scheduler(stream.stack.directory)
    for process in [first, *with_it(first)]:
        process.kill()
    recovered(stream, what, time.monotonic())
    assert airflow.finish(run_id) == "success"
    assert scheduler(stream.stack.directory).pid != first.pid
    assert_conserved(stream)


def test_lock_of_a_killed_scheduler_goes(airflow: Airflow, stream: Stream) -> None:
    """A session that says nothing keeps a run locked, as the connection of a killed scheduler does in its workers."""
    stream.produce([message(n) for n in range(MESSAGES)])
    run_id = airflow.trigger()
    with psycopg.connect(airflow.metadata_database) as silent:
        silent.execute("SELECT id FROM dag_run WHERE run_id = %s FOR UPDATE", [run_id])
        assert airflow.finish(run_id) == "success"
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            silent.execute("SELECT 1")
    assert stream.lag() == 0
    assert_conserved(stream)
