"""Two Celery workers that share no disk: frames on S3, one of them killed, in the deployment of docker-compose.yaml."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from include.local.stack import Stack
from tests.fixtures import compose, deployment
from tests.fixtures.containers import Container, Deployment, Places
from tests.fixtures.folders import open_folder
from tests.fixtures.object_store import S3Server
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import DAG_ID, Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(900)

FIRST, SECOND = "airflow-worker", "airflow-worker-2"


@pytest.fixture(scope="module")
def bucket(object_store: S3Server) -> str:
    """Where frames are staged."""
    return object_store.make_bucket()


@pytest.fixture(scope="module")
def variables(object_store: S3Server, bucket: str) -> dict[str, str]:
    """A `.env` that has staging on S3, and tasks for every batch, which the workers share."""
    staging = {"ENRICHMENT_STAGING_URL": f"s3://staging@{bucket}/frames"}
    connection = {"AIRFLOW_CONN_STAGING": object_store.connection()}
    return compose.filled_in() | staging | connection | {"KAFKA_AT_ONCE_MESSAGES": "0", "WAKE_UP_ENABLED": "false"}


@pytest.fixture(scope="module")
def places(variables: dict[str, str]) -> Iterator[Places]:
    """The ports and folders of this deployment."""
    with open_folder("workers") as folder:
        yield Places(folder, list(compose.services(variables)))


@pytest.fixture(scope="module")
def running(variables: dict[str, str], places: Places) -> Iterator[Deployment]:
    """The deployment, with another worker as another machine would have it."""
    services = compose.services(variables)
    first = services[FIRST]
    second = replace(
        first,
        name=SECOND,
        command=[*first.command, "--celery-hostname", "celery@second"],
        environment={**first.environment, "HOSTNAME": "second"},
    )
    with deployment.up({**services, SECOND: second}, places) as up:
        yield up


@pytest.fixture(scope="module")
def stack(running: Deployment, places: Places, variables: dict[str, str]) -> Stack:
    """How it is reached."""
    return deployment.published(places, variables)


@pytest.fixture(scope="module")
def airflow(stack: Stack) -> Airflow:
    """The API."""
    return Airflow(stack).of(DAG_ID)


def staged_on_disk(places: Places) -> list[Path]:
    """What lies in the folder that is used without S3."""
    return list(Path(places.of("/opt/airflow/staging")).iterdir())


def test_frames_are_handed_over_by_the_bucket(
    airflow: Airflow, stack: Stack, places: Places, object_store: S3Server, bucket: str
) -> None:
    """All messages come out enriched, nothing was staged on a disk, and nothing is left in the bucket."""
    stream = Stream(stack)
    stream.produce([message(n) for n in range(5_000)])
    run_id = airflow.trigger()
    eventually(lambda: object_store.keys(bucket) or None, "the first staged file")
    assert airflow.finish(run_id) == "success"
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    report = stream.check()
    assert report.ok, report.summary()
    eventually(lambda: not object_store.keys(bucket), "the clean-up")
    assert staged_on_disk(places) == []


def test_killed_worker_is_replaced_by_the_other(
    airflow: Airflow, stack: Stack, running: Deployment, object_store: S3Server, bucket: str
) -> None:
    """`kill -9` of a worker in the middle of `publish`: the other one publishes what the first had prepared."""
    stream = Stream(stack)
    stream.produce([message(n) for n in range(150_000)])
    airflow.trigger()
    killed = airflow.running("batch.publish")  # of this run, or of the scheduled one of this minute
    run_id = killed["dag_run_id"]
    runner, _ = airflow.processes(killed)
    worker_of(runner.pid, running).kill()
    killed_at = time.monotonic()
    eventually(lambda: stream.lag() == 0, "the commit of what was under way when its worker was killed")
    print(f"\nkill -9 of a Celery worker: {time.monotonic() - killed_at:.0f} s until all of the backlog was committed")
    assert airflow.finish(run_id) == "success"
    assert airflow.tasks(run_id)["batch.publish"]["try_number"] == 2
    report = stream.check()
    assert report.ok, report.summary()
    eventually(lambda: not object_store.keys(bucket), "the clean-up")


def worker_of(pid: int, running: Deployment) -> Container:
    """The worker among whose processes that one is."""
    [found] = [
        container
        for name in (FIRST, SECOND)
        for container in [running.containers[name]]
        if pid in {process.pid for process in container.family()}
    ]
    return found
