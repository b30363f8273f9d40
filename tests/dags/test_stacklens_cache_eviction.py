"""The DAG that evicts, renews and forgets."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import CronTriggerTimetable

from enrichment.enrichers.declare import CacheSettings
from enrichment.enrichers.registry import REGISTRY
from tests.conftest import REPOSITORY
from tests.fixtures.params import run_params

DAG = DagBag(dag_folder=str(REPOSITORY / "dags" / "stacklens_cache_eviction.py")).dags["stacklens_cache_eviction"]


def test_caches_stand_side_by_side() -> None:
    """Each cache has its own tasks, which wait for no other cache; a report that needs no renewal."""
    edges = {task.task_id: task.downstream_task_ids for task in DAG.tasks}
    assert edges == {
        **{f"evict_{cache}": {f"renew_{cache}", "report"} for cache in REGISTRY.by_name},
        **{f"renew_{cache}": set() for cache in REGISTRY.by_name},
        "forget": {"report"},
        "report": set(),
    }


def test_runs_often_enough_to_renew_in_time() -> None:
    """Every quarter of an hour, which is less than the time before its expiry at which a key is renewed."""
    assert isinstance(DAG.timetable, CronTriggerTimetable)
    assert (DAG.timetable.expression, DAG.timetable.timezone) == ("*/15 * * * *", "UTC")
    assert CacheSettings().refresh_ahead_minutes > 15


@pytest.mark.parametrize(("given", "dry"), [({}, False), ({"dry_run": True}, True)], ids=["scheduled", "dry"])
def test_parameters_of_a_manual_run_are_taken(given: dict[str, Any], dry: bool) -> None:
    """A scheduled run evicts; a person may only count."""
    assert run_params(DAG, given) == {"dry_run": dry}


def test_parameters_of_a_manual_run_are_checked() -> None:
    """What makes no sense is refused before a run starts."""
    with pytest.raises(ValueError, match="dry_run"):
        run_params(DAG, {"dry_run": "yes"})
