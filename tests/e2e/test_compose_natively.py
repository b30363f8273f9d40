"""docker-compose.yaml, started without Docker: all but Kafka UI, whose jar is on no package registry.

Each command and each health check runs as it stands in the file; `tests/fixtures/containers.py` has what differs.
"""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from enrichment.kafka.topics import PARTITIONS, topic_configs
from enrichment.settings import load
from include.local.airflow_api import AirflowApi
from include.local.config import HOST, ROOT
from include.local.stack import Stack
from tests.fixtures import compose, deployment
from tests.fixtures.containers import Deployment, Places
from tests.fixtures.folders import open_folder
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import DAG_ID, Airflow, Stream, eventually
from tests.fixtures.user_service import UserService

pytestmark = pytest.mark.timeout(600)

VARIABLES = compose.filled_in()
SERVICES = compose.services(VARIABLES)


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    """The ports and folders of this deployment."""
    with open_folder("compose") as folder:
        yield Places(folder, list(SERVICES))


@pytest.fixture(scope="module")
def running(places: Places) -> Iterator[Deployment]:
    """`docker compose up --wait`."""
    with deployment.up(SERVICES, places) as running:
        yield running


@pytest.fixture(scope="module")
def stack(running: Deployment, places: Places) -> Stack:
    """The deployment as those see it who use it from this machine, by its published ports."""
    return deployment.published(places, VARIABLES)


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> Airflow:
    """The API, logged in to with the password of `.env`."""
    return Airflow(stack).of(DAG_ID)


def test_all_but_kafka_ui_comes_up(running: Deployment, places: Places) -> None:
    """Every other service is healthy or has done its work; ports answer, volumes have folders to be mounted on."""
    assert SERVICES.keys() - running.containers.keys() == {"kafka-ui"}
    for name in running.containers:
        for published in SERVICES[name].ports:
            socket.create_connection((HOST, places.port(published.rpartition(":")[2]))).close()
        for mounted in SERVICES[name].volumes:
            assert Path(places.of(mounted.split(":")[1])).is_dir(), mounted


def test_topics_are_there(stack: Stack) -> None:
    """All of the pipeline's topics, and no others."""
    topics = AdminClient({"bootstrap.servers": stack.bootstrap_servers}).list_topics(timeout=20).topics
    settings = load()
    assert {
        name: len(topic.partitions) for name, topic in topics.items() if not name.startswith("__")
    } == dict.fromkeys(topic_configs(settings.kafka, settings.replay), PARTITIONS)


def test_airflow_has_every_dag_and_the_pool(airflow: Airflow, stack: Stack, places: Places) -> None:
    """All DAGs are read and run, replays have their pool, and the file with the login is for its owner alone."""
    api = AirflowApi(stack.airflow_url, stack.airflow_user, stack.airflow_password)
    names = [file.stem for file in (ROOT / "dags").glob("*.py")]
    eventually(lambda: all(api.is_paused(name) is False for name in names), f"the import of {names}")
    assert api.import_errors() == []
    assert airflow.call("GET", "/api/v2/pools/stacklens_replay")["slots"] == 4
    login = places.folder / "opt/airflow/passwords.json"
    assert stat.S_IMODE(login.stat().st_mode) == 0o600


def test_messages_are_enriched(airflow: Airflow, stack: Stack, places: Places) -> None:
    """A message comes out with what all three sources know, and the UI finds the tasks' logs in the volume."""
    stream = Stream(stack)
    stream.produce([message(1, source_ip="8.8.8.8", user_id="user-123", request_id="req-789")] * 8)
    run_id = airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    assert [(found["enrichment_sources"], found["enrichment_errors"]) for found in stream.outputs()] == [
        (["geo-ip", "user-profile", "business-context"], None)
    ] * 8
    log = airflow.call("GET", f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/claim/logs/1")["content"]
    assert places.of("/opt/airflow/logs/") in log[1]["event"]
    assert any("claim" in line.get("logger", "") or "claim" in line["event"] for line in log), log


def test_tasks_reach_airflows_database(airflow: Airflow) -> None:
    """The tasks that need it, those of the clean-up, are given it."""
    airflow.of("stacklens_metadata_cleanup").run()


def test_second_up_changes_nothing(running: Deployment, stack: Stack) -> None:
    """What runs once may run at every start: topics, schema and migrations stay as they are, and so do the data."""
    before = Stream(stack).outputs()
    running.up_again()
    assert Stream(stack).outputs() == before
    with psycopg.connect(stack.stacklens_dsn) as connection:
        published = connection.execute("SELECT sum(messages_read) FROM enrichment_jobs").fetchone()
    assert published == (len(before),)


def test_stop_lets_the_running_task_end(airflow: Airflow, stack: Stack, running: Deployment) -> None:
    """A worker ends after its tasks; stopped in reverse order, each ends by itself in time; nothing is left running."""
    UserService(stack.user_service_url, VARIABLES["USER_SERVICE_TOKEN"]).set_fault(latency_seconds=3)
    Stream(stack).produce([message(number, user_id=f"user-{number}") for number in range(8)])

    def looking_up() -> str | None:
        with psycopg.connect(stack.stacklens_dsn) as connection:
            found = connection.execute("SELECT run_id FROM enrichment_jobs WHERE state = 'drained'").fetchall()
        return str(found[0][0]) if found else None

    run_id = eventually(looking_up, "a batch that waits for the user service")
    running.stop("airflow-worker")
    assert airflow.tasks(run_id)["claim"]["state"] == "success"
    running.stop()
