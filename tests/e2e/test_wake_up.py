"""A stack as users have it: what waits starts a run, with the triggerer and without it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from include.local.generate import Options, messages
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import DAG_ID, Airflow, Stream, eventually, running_stack

pytestmark = pytest.mark.timeout(600)

BATCH = 2_000


@pytest.fixture(scope="module")
def stream() -> Iterator[Stream]:
    """Its topics; a run takes a batch of a few thousand messages."""
    with running_stack(WAKE_UP_AFTER_SEC="0.5", KAFKA_BATCH_SIZE=str(BATCH)) as stack:
        yield Stream(stack)


@pytest.fixture(scope="module")
def airflow(stream: Stream) -> Airflow:
    """Its API, once the DAG has run and the first message has rung: the triggerer watches."""
    found = Airflow(stream.stack).of(DAG_ID)
    found.run()
    eventually(lambda: rung(found, stream) > 0, "the first ring", 240)
    return found


def await_second(first: int, last: int) -> None:
    """Wait until the schedule of the minute is not in the way."""
    while not first <= time.gmtime().tm_sec < last:
        time.sleep(0.1)


def runs(airflow: Airflow) -> dict[str, str]:
    """The types of all runs by their ids."""
    found = airflow.call("GET", f"/api/v2/dags/{DAG_ID}/dagRuns", limit=1000)["dag_runs"]
    return {run["dag_run_id"]: run["run_type"] for run in found}


def rung(airflow: Airflow, stream: Stream) -> int:
    """How many runs a message started that came between two runs of the schedule."""
    await_second(5, 25)
    before = runs(airflow)
    stream.produce([message(1)])
    eventually(lambda: stream.lag() == 0, "any run")
    found = runs(airflow)
    return [found[run] for run in found.keys() - before.keys()].count("asset_triggered")


def rung_events(airflow: Airflow) -> int:
    """How often anything has rung so far. Airflow's API answers with 500 while a run that was rung for is queued."""
    count = "SELECT count(*) FROM asset_event e JOIN asset a ON a.id = e.asset_id WHERE a.name = %s"
    with psycopg.connect(airflow.metadata_database) as database:
        [[number]] = database.execute(count, ["stacklens-enriched-backlog"]).fetchall()
    return int(number)


def processes(directory: Path, component: str) -> list[psutil.Process]:
    """A component of a local stack and all that it has started."""
    supervisord = psutil.Process(int((directory / "supervisor" / "pid").read_text()))
    [found] = [child for child in supervisord.children() if component in child.cmdline()]
    return [found, *found.children(recursive=True)]


def assert_conserved(stream: Stream) -> None:
    report = stream.check()
    assert report.ok, report.summary()


def test_message_that_waits_starts_a_run(airflow: Airflow, stream: Stream) -> None:
    """Within seconds, not at the next minute: a second run only where the triggerer had looked just before the first
    had published."""
    assert 1 <= rung(airflow, stream) <= 2
    assert_conserved(stream)


def test_triggerer_that_is_killed_watches_again(airflow: Airflow, stream: Stream) -> None:
    """supervisord starts another one, which takes the watch over; the schedule goes on meanwhile."""
    for process in processes(stream.stack.directory, "triggerer"):
        process.kill()
    stream.produce([message(2)])
    eventually(lambda: stream.lag() == 0, "a run by the schedule or by the new triggerer")
    eventually(lambda: rung(airflow, stream) > 0, "a ring of the new triggerer", 240)
    assert_conserved(stream)


def test_backlog_drains_without_pause_and_without_triggerer(airflow: Airflow, stream: Stream) -> None:
    """A run that leaves messages is followed by the next: a backlog of many batches takes no minute for each."""
    for process in processes(stream.stack.directory, "triggerer"):
        process.suspend()
    try:
        stream.produce([record.value for record in messages(Options(count=5 * BATCH, seed=5))])
        eventually(lambda: stream.lag() == 0, "the end of five batches", 150)
    finally:
        for process in processes(stream.stack.directory, "triggerer"):
            process.resume()
    assert_conserved(stream)


def test_paused_dag_misses_nothing(airflow: Airflow, stream: Stream) -> None:
    """What was rung for while it was paused is found by the schedule."""
    airflow.call("PATCH", f"/api/v2/dags/{DAG_ID}", {"is_paused": True})
    stream.produce([message(n) for n in range(10)])
    time.sleep(3)
    assert stream.lag() == 10
    airflow.call("PATCH", f"/api/v2/dags/{DAG_ID}", {"is_paused": False})
    eventually(lambda: stream.lag() == 0, "a run")
    assert_conserved(stream)


def test_failing_batch_does_not_spin(airflow: Airflow, stream: Stream) -> None:
    """As long as the group does not move, only the schedule and the retries try again."""
    staging = stream.stack.directory / "staging"
    away = staging.rename(staging.with_name("staging-away"))
    staging.touch()  # no folder: nothing can be staged
    try:
        before = rung_events(airflow)
        stream.produce([message(4)])
        eventually(lambda: rung_events(airflow) > before, "a ring")
        time.sleep(12)  # the triggerer looks twenty times
        assert rung_events(airflow) == before + 1
    finally:
        staging.unlink()
        away.rename(staging)
    eventually(lambda: stream.lag() == 0, "another try")
    assert_conserved(stream)
