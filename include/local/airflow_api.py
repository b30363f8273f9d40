"""Airflow's REST API, as far as `make run` needs it: start a run, and say what is wrong with the DAG or its runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from include.local.errors import StackError

TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task that failed, for good or (`retrying`) until its next try, and where to read about it."""

    task_id: str
    map_index: int
    run_id: str
    ui_url: str
    log: Path
    retrying: bool

    def __str__(self) -> str:
        which = self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"
        ended = "failed and is tried again" if self.retrying else "failed"
        said = f"task {which} of run {self.run_id} {ended}: {last_error(self.log)}"
        return f"{said}\n  in the UI: {self.ui_url}\n  its log:   {self.log}"


def last_error(log: Path) -> str:
    """The exception that ended a task, from its log (a JSON object a line)."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    for line in reversed(lines):
        if '"error_detail"' in line:
            raised = json.loads(line)["error_detail"][0]
            return f"{raised['exc_type']}: {raised['exc_value']}"
    return "its log does not say why"


class AirflowApi:
    """A session with the API server. Every method raises `StackError` when it does not answer as it should."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy between us and this machine
        token = self._call("POST", "/auth/token", json={"username": user, "password": password})["access_token"]
        self._session.headers["Authorization"] = f"Bearer {token}"

    def is_paused(self, dag_id: str) -> bool | None:
        """Whether the DAG is paused; None while Airflow does not know it."""
        found = self._call("GET", "/api/v2/dags", params={"dag_id_pattern": dag_id, "limit": 100})["dags"]
        return next((bool(dag["is_paused"]) for dag in found if dag["dag_id"] == dag_id), None)

    def import_errors(self) -> list[str]:
        """What keeps DAG files from being read."""
        found = self._call("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in found]

    def trigger(self, dag_id: str) -> str:
        """Have a run of the DAG beside the scheduled ones, which starts when no other one is active; returns its id."""
        run = self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None})
        return str(run["dag_run_id"])

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Have a pool of this name; one that is there stays as it is."""
        found = self._call("GET", "/api/v2/pools", params={"limit": 1000})["pools"]
        if name not in {pool["name"] for pool in found}:
            self._call("POST", "/api/v2/pools", json={"name": name, "slots": slots, "description": description})

    def failed_tasks(self, dag_id: str, since: datetime, logs: Path) -> list[FailedTask]:
        """The tasks that failed, for good or for now, and started after `since`; `logs` is Airflow's log folder."""
        query = {"state": ["failed", "up_for_retry"], "start_date_gte": since.isoformat(), "order_by": "start_date"}
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/~/taskInstances", params=query)["task_instances"]
        return [_failed_task(task, self._url, logs) for task in found]

    def _call(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        try:
            answer = self._session.request(method, self._url + path, timeout=TIMEOUT_SECONDS, **content)
            answer.raise_for_status()
            return dict(answer.json())
        except requests.RequestException as failed:
            raise StackError(f"Airflow's API did not answer {method} {path}: {failed}") from failed


def _failed_task(task: Mapping[str, Any], url: str, logs: Path) -> FailedTask:
    dag_id, run_id, task_id, index = task["dag_id"], task["dag_run_id"], task["task_id"], task["map_index"]
    mapped = f"/mapped/{index}" if index >= 0 else ""
    folder = logs / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
    if index >= 0:
        folder /= f"map_index={index}"
    return FailedTask(
        task_id=task_id,
        map_index=index,
        run_id=run_id,
        ui_url=f"{url}/dags/{dag_id}/runs/{quote(run_id)}/tasks/{task_id}{mapped}",
        log=folder / f"attempt={task['try_number']}.log",
        retrying=task["state"] == "up_for_retry",
    )
