"""How soon Airflow notices what was killed: the same everywhere, and soon enough."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from include.local import airflow
from include.local.credentials import Credentials
from tests.fixtures import compose

ROOT = Path(__file__).parents[2]
HEARTBEAT, LOOK, ORPHANS = (
    "task_instance_heartbeat_timeout",
    "task_instance_heartbeat_timeout_detection_interval",
    "orphaned_tasks_check_interval",
)
QUEUED, LOOK_QUEUED = "task_queued_timeout", "task_queued_timeout_check_interval"
SCHEDULER_DEAD_SECONDS = 30  # Airflow's default of scheduler_health_check_threshold
BOUND_SECONDS = 120  # from a kill to the last commit of what was under way
REDONE_SECONDS = 45  # for another try to start, and to do the work again


def example() -> dict[str, str]:
    """The scheduler's options in airflow.cfg.example."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "airflow.cfg.example")
    return dict(parser["scheduler"])


def local() -> dict[str, str]:
    """Those of `make run`."""
    return _scheduler(airflow._settings(Credentials("", "", "", "")))


def composed(service: str) -> dict[str, str]:
    """Those of a service of docker-compose.yaml."""
    return _scheduler(compose.services(compose.filled_in())[service].environment)


def _scheduler(environment: dict[str, str]) -> dict[str, str]:
    prefix = "AIRFLOW__SCHEDULER__"
    return {name.removeprefix(prefix).lower(): v for name, v in environment.items() if name.startswith(prefix)}


def test_all_three_say_the_same() -> None:
    """The local stack, the compose file and the example have the same options for what both executors go by."""
    for service in ("airflow-scheduler", "airflow-worker"):
        for name in (HEARTBEAT, LOOK, ORPHANS):
            assert local()[name] == example()[name] == composed(service)[name], name


@pytest.mark.parametrize("options", [example(), local(), composed("airflow-scheduler")], ids=["cfg", "run", "compose"])
def test_what_was_killed_is_noticed_in_time(options: dict[str, str]) -> None:
    """A worker, or a scheduler with its workers: there is time left for the work within two minutes."""
    noticed = {
        "worker": float(options[HEARTBEAT]) + float(options[LOOK]),
        "scheduler": SCHEDULER_DEAD_SECONDS + float(options[ORPHANS]),
        "worker before the task": float(options.get(QUEUED, 0)) + float(options.get(LOOK_QUEUED, 0)),
    }
    assert {what: seconds for what, seconds in noticed.items() if seconds + REDONE_SECONDS > BOUND_SECONDS} == {}


def test_celery_does_not_forget_what_a_dead_worker_took() -> None:
    """With Celery a task may be lost between queue and start; only that option has it tried again."""
    assert composed("airflow-scheduler").keys() >= {QUEUED, LOOK_QUEUED}
    assert QUEUED not in local()
