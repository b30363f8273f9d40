"""The DAG that cleans up after all others."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import CronTriggerTimetable

from enrichment.errors import SettingsError
from enrichment.housekeeping.metadata import PREFIX
from enrichment.settings import load
from tests.conftest import REPOSITORY
from tests.fixtures.params import run_params

DAG = DagBag(dag_folder=str(REPOSITORY / "dags" / "stacklens_metadata_cleanup.py")).dags["stacklens_metadata_cleanup"]


def test_logs_go_after_the_runs() -> None:
    """Which logs may go is known when the runs are gone."""
    assert {task.task_id: task.downstream_task_ids for task in DAG.tasks} == {
        "clean_runs": {"clean_logs"},
        "clean_logs": set(),
    }


def test_runs_every_night() -> None:
    """Once a day, in UTC."""
    assert isinstance(DAG.timetable, CronTriggerTimetable)
    assert (DAG.timetable.expression, DAG.timetable.timezone) == ("17 3 * * *", "UTC")


def test_every_dag_of_ours_is_cleaned() -> None:
    """The DAGs that it cleans are told by their ids: all of this repository's begin alike."""
    files = (REPOSITORY / "dags").glob("*.py")
    assert [file.name for file in files if not file.stem.startswith(PREFIX)] == []


def test_parameters_of_a_manual_run_are_taken() -> None:
    """A scheduled run deletes, by the setting; a person may ask for other days, or only count."""
    assert run_params(DAG, {}) == {"days": None, "dry_run": False}
    assert run_params(DAG, {"days": 1.5, "dry_run": True}) == {"days": 1.5, "dry_run": True}


@pytest.mark.parametrize("given", [{"days": 0.9}, {"days": 0}, {"days": "all"}, {"dry_run": "yes"}], ids=str)
def test_parameters_of_a_manual_run_are_checked(given: dict[str, Any]) -> None:
    """Less than a day, or nonsense, is refused before a run starts."""
    with pytest.raises(ValueError, match=next(iter(given))):
        run_params(DAG, given)


def test_retention_has_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can the setting be less than a day."""
    monkeypatch.setenv("RETENTION_DAG_RUNS_DAYS", "0.9")
    with pytest.raises(SettingsError, match="RETENTION_DAG_RUNS_DAYS"):
        load()
