"""The DAG that sends dead letters in again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from enrichment.batch import RedriveFilter
from enrichment.dead_letters.reasons import default_reasons
from enrichment.errors import RunRefused
from enrichment.orchestration.redrive import wanted_of
from tests.conftest import REPOSITORY
from tests.fixtures.params import run_params

DAG_ID = "stacklens_dlq_redrive"
DAG = DagBag(dag_folder=str(REPOSITORY / "dags" / f"{DAG_ID}.py")).dags[DAG_ID]


def test_letters_go_through_the_tasks_of_live_draining() -> None:
    """One batch, through the very same task group."""
    assert {task.task_id for task in DAG.tasks} == {
        "claim", *(f"batch.{stage}" for stage in ("drain", "geo", "user", "business", "publish", "clean"))
    }  # fmt: skip
    assert DAG.get_task("claim").downstream_task_ids == {"batch.drain", "batch.clean"}


def test_nothing_is_sent_in_unless_somebody_says_so() -> None:
    """No schedule, and a run that is only triggered is a dry run."""
    assert DAG.schedule is None
    assert run_params(DAG, {})["dry_run"] is True


def test_form_explains_itself() -> None:
    """Every field has a title and says what it does."""
    for name in DAG.params:
        assert {"title", "description_md"} <= set(DAG.params.get_param(name).schema), name


def test_parameters_become_what_is_wanted() -> None:
    """The form's filters are those of the redrive; a time without a zone is UTC, and empty fields take all."""
    assert wanted_of(run_params(DAG, {}), "enriched", 1_000) == RedriveFilter("enriched", default_reasons(), 3, 1_000)
    given = {
        "reasons": ["missing-field"], "since": "2024-01-15T10:00:00", "until": "2024-01-15T12:00:00+01:00",
        "source_topic": "other", "source_partition": 2, "service": "payment", "max_attempts": 5,
    }  # fmt: skip
    assert wanted_of(run_params(DAG, given), "enriched", 1_000) == RedriveFilter(
        "other", ("missing-field",), 5, 1_000,
        since=datetime(2024, 1, 15, 10, tzinfo=UTC), until=datetime(2024, 1, 15, 11, tzinfo=UTC),
        source_partition=2, service="payment",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["since", "until"])
def test_time_that_there_is_not_is_refused_at_once(name: str) -> None:
    """The form's pattern lets a 13th month pass: the run then says which parameter is wrong, and is not tried again."""
    given = {**run_params(DAG, {}), "since": None, "until": None, name: "2024-13-15T10:00:00Z"}
    with pytest.raises(RunRefused, match=f"{name}='2024-13-15T10:00:00Z' is no time"):
        wanted_of(given, "enriched", 1_000)


@pytest.mark.parametrize(
    "given",
    [
        {"reasons": []},
        {"reasons": ["bad luck"]},
        {"reasons": "missing-field"},
        {"since": "yesterday"},
        {"source_partition": -1},
        {"max_letters": 0},
        {"max_attempts": 0},
        {"dry_run": "no"},
    ],
)
def test_parameters_are_checked(given: dict[str, Any]) -> None:
    """What makes no sense is refused before a run starts."""
    with pytest.raises(ValueError, match=next(iter(given))):
        run_params(DAG, given)
