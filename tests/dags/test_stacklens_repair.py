"""The DAG that corrects partial messages, and the patience of held batches."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import AssetAlias, CronTriggerTimetable, RetryAction

from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import OutageHeld, RepairIncomplete, SettingsError
from enrichment.orchestration.common import RETRIES, RETRY_POLICY, RULES, PatientRetryPolicy
from enrichment.orchestration.repair import REPAIR_PARAMS
from tests.conftest import REPOSITORY
from tests.fixtures.params import run_params

DAG = DagBag(dag_folder=str(REPOSITORY / "dags" / "stacklens_repair.py")).dags["stacklens_repair"]


def test_graph_is_a_plan_and_a_pass_for_each_batch() -> None:
    """One batch that fails does not hold up the others; what a pass staged is removed whatever happens."""
    assert {task.task_id: task.downstream_task_ids for task in DAG.tasks} == {
        "plan": {"batch.correct", "batch.clean"}, "batch.correct": {"batch.clean"}, "batch.clean": set(),
    }  # fmt: skip
    assert DAG.get_task("batch.correct").get_closest_mapped_task_group() is not None
    assert DAG.get_task("batch.correct").outlets == [AssetAlias("stacklens-published")]
    assert DAG.get_task("batch.clean").is_teardown
    assert not DAG.get_task("batch.clean").on_failure_fail_dagrun


def test_runs_every_five_minutes() -> None:
    """Every few minutes, in UTC."""
    assert isinstance(DAG.timetable, CronTriggerTimetable)
    assert (DAG.timetable.expression, DAG.timetable.timezone) == ("*/5 * * * *", "UTC")


@pytest.mark.parametrize("given", [{}, {"batch_id": "dag/run/0", "source": "user-profile", "dry_run": True}])
def test_parameters_of_a_manual_run_are_taken(given: dict[str, Any]) -> None:
    """What the form allows is what the plan understands."""
    assert set(run_params(DAG, given)) == {"batch_id", "source", "dry_run"}


@pytest.mark.parametrize("given", [{"source": "moon"}, {"batch_id": ""}, {"dry_run": "yes"}])
def test_parameters_of_a_manual_run_are_checked(given: dict[str, Any]) -> None:
    """What makes no sense is refused before a run starts."""
    with pytest.raises(ValueError, match=next(iter(given))):
        run_params(DAG, given)


def test_form_offers_every_source() -> None:
    """The choices are the pipeline's sources."""
    assert [None, *REGISTRY.by_source] == REPAIR_PARAMS["source"].schema["enum"]


def test_incomplete_repair_is_not_tried_again() -> None:
    """What will never be corrected is said once, and at once."""
    assert RETRY_POLICY.evaluate(RepairIncomplete(), 1, 4).action is RetryAction.FAIL


@pytest.mark.parametrize(
    ("failure", "tries", "action"),
    [
        (OutageHeld(), RETRIES + 50, RetryAction.DEFAULT),
        (KeyError(), RETRIES, RetryAction.DEFAULT),
        (KeyError(), RETRIES + 1, RetryAction.FAIL),
        (SettingsError(), 1, RetryAction.FAIL),
    ],
    ids=["held", "something else", "something else for too long", "useless"],
)
def test_held_batches_are_tried_for_longer(failure: Exception, tries: int, action: RetryAction) -> None:
    """The many tries are for outages alone."""
    assert PatientRetryPolicy(RULES).evaluate(failure, tries, 120).action is action


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("publish", f"{RETRIES} ExceptionRetryPolicy {RETRIES}"), ("hold", f"120 PatientRetryPolicy {RETRIES}")],
)
def test_policy_decides_how_often_a_lookup_is_tried(policy: str, expected: str) -> None:
    """Only where batches are held do look-ups have tries for it, and no other task has."""
    program = (
        "from airflow.dag_processing.dagbag import DagBag\n"
        "dag = DagBag(dag_folder='dags/stacklens_enrichment.py').dags['stacklens_enrichment']\n"
        "user, drain = dag.get_task('batch.user'), dag.get_task('batch.drain')\n"
        "print(user.retries, type(user.retry_policy).__name__, drain.retries)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY,
        env={**os.environ, "ENRICHMENT_OUTAGE_POLICY": policy, "PYTHONPATH": "plugins"},
    )  # fmt: skip
    assert ran.stdout.splitlines()[-1] == expected
