"""A backfill of `stacklens_replay` through the real scheduler, asked for by the CLI and as the UI's form does."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import psycopg
import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from enrichment.conservation.check import check
from enrichment.conservation.committed import committed_ranges, log_ranges
from enrichment.conservation.report import Expected
from enrichment.settings import load
from tests.conftest import REPOSITORY
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)

DAG = "stacklens_replay"
HOUR = 3_600_000
START = 1_705_312_800_000  # 2024-01-15T10:00:00Z
DATES = {"from_date": "2024-01-15T10:00:00Z", "to_date": "2024-01-15T12:00:00Z"}
REPLAY = {"dry_run": False, "replay_id": "e2e", "max_messages": 150}


def produce(stream: Stream, count: int, start: int = START) -> None:
    """Messages of four hours, in no order, malformed ones and both edges of each hour among them."""
    generator = random.Random(7)
    producer = Producer({"bootstrap.servers": stream.stack.bootstrap_servers})
    times = [generator.randrange(start, start + 4 * HOUR) for _ in range(count)]
    edges = [start + hour * HOUR + off for hour in range(4) for off in (0, HOUR - 1)]
    for number, at in enumerate([*times, *edges]):
        value = b"no json" if number % 97 == 0 else message(number)
        producer.produce(load().kafka.input_topic, value, b"k%d" % number, number % 4, timestamp=at)
    assert producer.flush(30) == 0
    producer.close()


def runs(airflow: Airflow) -> list[dict[str, Any]]:
    """The backfills' runs of the DAG, in the order of their windows."""
    found = airflow.call("GET", f"/api/v2/dags/{DAG}/dagRuns", order_by="logical_date")["dag_runs"]
    assert {run["run_type"] for run in found} <= {"backfill", "manual"}  # the scheduler makes none by itself
    return [run for run in found if run["run_type"] == "backfill"]


def finish(airflow: Airflow) -> list[dict[str, Any]]:
    """The runs of the three windows, when all of them have ended."""

    def ended() -> list[dict[str, Any]] | None:
        found = runs(airflow)
        return found if len(found) == 3 and {run["state"] for run in found} <= {"success", "failed"} else None

    found = eventually(ended, "the end of the backfill")
    failed = [run["dag_run_id"] for run in found if run["state"] == "failed"]
    assert not failed, "\n".join(Airflow(airflow.stack, DAG).failures(run_id) for run_id in failed)
    return found


def report(airflow: Airflow, run: dict[str, Any]) -> dict[str, Any]:
    """What a run's `report` returned."""
    path = f"/api/v2/dags/{DAG}/dagRuns/{run['dag_run_id']}/taskInstances/report/xcomEntries/return_value"
    value: dict[str, Any] = airflow.call("GET", path)["value"]
    return value


def finish_backfills(airflow: Airflow) -> None:
    """Wait until Airflow has noticed that all backfills are over: it looks now and then, and takes one at a time."""

    def over() -> bool | None:
        found = airflow.call("GET", "/api/v2/backfills", dag_id=DAG)["backfills"]
        return all(backfill["completed_at"] for backfill in found) or None

    eventually(over, "the end of the backfills")


def backfill_by_cli(stream: Stream, *more: str) -> str:
    """`airflow backfill create`, in the environment of the stack."""
    command = ["backfill", "create", "--dag-id", DAG, "--from-date", DATES["from_date"], "--to-date", DATES["to_date"]]
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *command, *more],
        env=stream.stack.environment, cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_backfill_replays_each_window_once(airflow: Airflow, stream: Stream) -> None:
    """A dry run by the CLI counts; the same windows by the UI's form publish; once more, and nothing is doubled. The
    live group stays where it is, and the scheduler makes no run by itself."""
    settings = load()
    servers = stream.stack.bootstrap_servers
    produce(stream, 1500)
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    live = committed_ranges(servers, settings.kafka.input_topic, settings.kafka.consumer_group)
    assert runs(airflow) == []

    backfill_by_cli(stream, "--max-active-runs", "3")
    counted = [report(airflow, run) for run in finish(airflow)]
    assert [said["state"] for said in counted] == ["counted"] * 3
    assert [r.end for r in log_ranges(servers, settings.replay.output_topic)] == [0] * 4

    finish_backfills(airflow)
    form = {"dag_id": DAG, **DATES, "run_backwards": False, "max_active_runs": 3, "dag_run_conf": REPLAY,
            "reprocess_behavior": "completed", "run_on_latest_version": True}  # fmt: skip
    airflow.call("POST", "/api/v2/backfills", form)
    eventually(lambda: any(run["state"] != "success" for run in runs(airflow)) or None, "the backfill's start")
    replayed = [report(airflow, run) for run in finish(airflow)]
    assert [said["messages"] for said in replayed] == [said["messages"] for said in counted]
    assert all(said["state"] == "finished" and said["selected"] > 150 for said in replayed)
    for said in replayed:
        differences = said["differences"]
        assert differences["replayed"] == differences["same"] == said["selected"]
        assert said["counts"]["dead"] > 0
    expected = Expected("e2e", START, START + 3 * HOUR)
    topics = (settings.kafka.input_topic, settings.replay.output_topic, settings.replay.dlq_topic)
    once = check(servers, *topics, log_ranges(servers, topics[0]), replay=expected)
    assert once.ok, once.summary()
    assert once.read == sum(said["messages"] for said in replayed)
    with psycopg.connect(stream.stack.stacklens_dsn) as connection:
        stored = connection.execute(
            "SELECT state, selected FROM enrichment_replays WHERE replay_id = 'e2e' ORDER BY window_start"
        ).fetchall()
    assert stored == [("finished", said["selected"]) for said in replayed]

    finish_backfills(airflow)
    backfill_by_cli(
        stream, "--reprocess-behavior", "completed", "--dag-run-conf", '{"dry_run": false, "replay_id": "e2e"}'
    )
    eventually(lambda: any(run["state"] != "success" for run in runs(airflow)) or None, "the backfill's start")
    again = [report(airflow, run) for run in finish(airflow)]
    assert again == replayed
    twice = check(servers, *topics, log_ranges(servers, topics[0]), replay=expected)
    assert (twice.ok, twice.analytics, twice.dead) == (True, once.analytics, once.dead)
    assert committed_ranges(servers, settings.kafka.input_topic, settings.kafka.consumer_group) == live
    whole = stream.check()
    assert whole.ok, whole.summary()


def test_failed_batch_ends_the_run_which_goes_on_when_cleared(airflow: Airflow, stream: Stream) -> None:
    """A batch that fails holds up those behind it, and they say so; cleared, the run goes on where it stopped."""
    start, topic = START + 24 * HOUR, "replay-e2e"
    servers, settings = stream.stack.bootstrap_servers, load()
    admin = AdminClient({"bootstrap.servers": servers})
    produce(stream, 1000, start)
    make_topic(admin, topic)
    conf = REPLAY | {"replay_id": "cut", "max_messages": 100, "output_topic": topic}
    # By hand, a run takes the last whole window before its logical date.
    body = {"logical_date": "2024-01-16T11:20:00Z", "conf": conf}
    run_id = airflow.call("POST", f"/api/v2/dags/{DAG}/dagRuns", body)["dag_run_id"]
    run = f"/api/v2/dags/{DAG}/dagRuns/{run_id}"

    def states(task_id: str) -> dict[int, str]:
        found = airflow.call("GET", f"{run}/taskInstances", task_id=task_id)["task_instances"]
        return {task["map_index"]: task["state"] for task in found}

    eventually(lambda: states("plan")[-1] == "success" or None, "the plan")
    for gone in admin.delete_topics([topic], operation_timeout=30).values():
        gone.result()
    eventually(lambda: states("window.batch.publish").get(0) == "up_for_retry" or None, "a publish without a topic")
    airflow.call("PATCH", f"{run}/taskInstances/window.batch.publish/0", {"new_state": "failed"})
    ended = ("success", "failed")
    assert eventually(lambda: s if (s := airflow.call("GET", run)["state"]) in ended else None, "the end") == "failed"
    first, *rest = sorted(states("window.turn").items())
    assert (first, {state for _, state in rest}) == ((0, "success"), {"failed"})
    assert {at: s for at, s in states("window.batch.drain").items() if s != "upstream_failed"} == {0: "success"}

    make_topic(admin, topic)
    cleared = {"dry_run": False, "dag_run_id": run_id, "only_failed": False}
    airflow.call("POST", f"/api/v2/dags/{DAG}/clearTaskInstances", cleared)
    assert eventually(lambda: s if (s := airflow.call("GET", run)["state"]) in ended else None, "the end") == "success"
    report = check(
        servers, settings.kafka.input_topic, topic, settings.replay.dlq_topic,
        log_ranges(servers, settings.kafka.input_topic), replay=Expected("cut", start, start + HOUR),
    )  # fmt: skip
    assert report.ok, report.summary()
    assert report.read > 200


def make_topic(admin: AdminClient, name: str) -> None:
    """A topic that keeps messages of long ago; one that is being deleted is waited for."""

    def made() -> bool | None:
        wanted = NewTopic(name, num_partitions=4, config={"retention.ms": "-1"})
        try:
            admin.create_topics([wanted], operation_timeout=30)[name].result()
        except KafkaException:
            return None
        return True

    eventually(made, f"the topic {name}")
