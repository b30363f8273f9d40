"""What `make run` asks Airflow, against a stand-in of its REST API that answers as 3.3 does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Query

from include.local.airflow_api import AirflowApi, last_error
from include.local.errors import StackError
from tests.fixtures.user_service import UserServer

DAG = "stacklens_enrichment"
RUN = "scheduled__2024-01-15T10:00:00+00:00"
SINCE = datetime(2024, 1, 15, 10, tzinfo=UTC)


def authorized(authorization: str = Header("")) -> None:
    """Only with the token."""
    if authorization != "Bearer the-token":
        raise HTTPException(401)


def make_airflow(triggered: list[Any]) -> FastAPI:
    """Airflow with one DAG, whose last run failed in a mapped task."""
    app = FastAPI()
    secured = [Depends(authorized)]

    @app.post("/auth/token", status_code=201)
    def token(body: dict[str, str]) -> dict[str, str]:
        if body != {"username": "admin", "password": "right"}:
            raise HTTPException(401)
        return {"access_token": "the-token"}

    @app.get("/api/v2/dags", dependencies=secured)
    def dags() -> dict[str, Any]:
        return {"dags": [{"dag_id": f"{DAG}_other", "is_paused": True}, {"dag_id": DAG, "is_paused": False}]}

    @app.get("/api/v2/importErrors", dependencies=secured)
    def import_errors() -> dict[str, Any]:
        return {"import_errors": [{"filename": "a.py", "stack_trace": "Traceback\n  File\nKeyError: 'x'\n"}]}

    pools = [{"name": "default_pool", "slots": 128}]

    @app.get("/api/v2/pools", dependencies=secured)
    def list_pools() -> dict[str, Any]:
        return {"pools": pools}

    @app.post("/api/v2/pools", dependencies=secured)
    def make_pool(body: dict[str, Any]) -> dict[str, Any]:
        pools.append(body)
        triggered.append(body)
        return body

    @app.post("/api/v2/dags/{dag_id}/dagRuns", dependencies=secured)
    def trigger(dag_id: str, body: dict[str, Any]) -> dict[str, Any]:
        triggered.append((dag_id, body))
        return {"dag_run_id": RUN}

    @app.get("/api/v2/dags/{dag_id}/dagRuns/~/taskInstances", dependencies=secured)
    def tasks(dag_id: str, start_date_gte: datetime, state: Annotated[list[str], Query()]) -> dict[str, Any]:
        task = {"dag_id": dag_id, "dag_run_id": RUN, "try_number": 5}
        drain = {"task_id": "batch.drain", "map_index": 1, "state": "failed"}
        claim = {"task_id": "claim", "map_index": -1, "state": "up_for_retry"}
        found = [one for one in (drain, claim) if one["state"] in state and start_date_gte == SINCE]
        return {"task_instances": [task | one for one in found]}

    return app


@pytest.fixture
def triggered() -> list[Any]:
    """The runs that were asked for."""
    return []


@pytest.fixture
def airflow_url(triggered: list[Any]) -> Iterator[str]:
    """Where the stand-in is."""
    with closing(UserServer()) as server:
        server.app = make_airflow(triggered)
        yield server.base_url


@pytest.fixture
def airflow(airflow_url: str) -> AirflowApi:
    """A session with it."""
    return AirflowApi(airflow_url, "admin", "right")


def test_dag_is_known_by_its_whole_name(airflow: AirflowApi) -> None:
    """Another DAG whose name begins alike is not taken for it; one that Airflow does not know is None."""
    assert airflow.is_paused(DAG) is False
    assert airflow.is_paused(f"{DAG}_other") is True
    assert airflow.is_paused("unknown") is None


def test_import_errors_say_file_and_error(airflow: AirflowApi) -> None:
    """The file and the last line of the traceback."""
    assert airflow.import_errors() == ["a.py: KeyError: 'x'"]


def test_run_is_asked_for_without_a_logical_date(airflow: AirflowApi, triggered: list[Any]) -> None:
    """A run of its own, that stands in the way of no scheduled one."""
    assert airflow.trigger(DAG) == RUN
    assert triggered == [(DAG, {"logical_date": None})]


def test_failed_task_says_where_to_read_about_it(airflow: AirflowApi, airflow_url: str, tmp_path: Path) -> None:
    """Its place in the UI, its log of the last try, and the exception in that log."""
    task, _ = airflow.failed_tasks(DAG, SINCE, tmp_path)
    assert task.ui_url == (
        f"{airflow_url}/dags/{DAG}/runs/scheduled__2024-01-15T10%3A00%3A00%2B00%3A00/tasks/batch.drain/mapped/1"
    )
    assert (
        task.log
        == tmp_path / f"dag_id={DAG}" / f"run_id={RUN}" / "task_id=batch.drain" / "map_index=1" / "attempt=5.log"
    )
    assert f"task batch.drain[1] of run {RUN} failed: its log does not say why" in str(task)
    task.log.parent.mkdir(parents=True)
    error = {"error_detail": [{"exc_type": "OffsetsLost", "exc_value": "3 offsets"}]}
    task.log.write_text(f'{{"event": "start"}}\n{json.dumps(error)}\n{{"event": "end"}}\n')
    assert last_error(task.log) == "OffsetsLost: 3 offsets"
    assert f"task batch.drain[1] of run {RUN} failed: OffsetsLost: 3 offsets" in str(task)


def test_task_that_is_tried_again_is_told_from_one_that_is_not(airflow: AirflowApi, tmp_path: Path) -> None:
    """A task that waits for its next try is not lost yet."""
    failed, retrying = airflow.failed_tasks(DAG, SINCE, tmp_path)
    assert (failed.retrying, retrying.retrying) == (False, True)
    assert f"task claim of run {RUN} failed and is tried again" in str(retrying)
    assert retrying.ui_url.endswith("/tasks/claim")
    assert retrying.log == tmp_path / f"dag_id={DAG}" / f"run_id={RUN}" / "task_id=claim" / "attempt=5.log"


def test_pool_is_made_once(airflow: AirflowApi, triggered: list[Any]) -> None:
    """A pool that is there stays as somebody has set it."""
    airflow.ensure_pool("replays", 4, "a throttle")
    airflow.ensure_pool("replays", 9, "another")
    assert triggered == [{"name": "replays", "slots": 4, "description": "a throttle"}]


def test_wrong_answer_is_named(airflow_url: str) -> None:
    """A refused login, or no server, is one line that says what was asked."""
    with pytest.raises(StackError, match=r"POST /auth/token: 401"):
        AirflowApi(airflow_url, "admin", "wrong")
    with pytest.raises(StackError, match="POST /auth/token"):
        AirflowApi("http://127.0.0.1:1", "admin", "right")
