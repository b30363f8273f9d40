"""The DAG that drains, enriches and publishes."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import Asset, AssetAlias, AssetAll, AssetOrTimeSchedule, CronTriggerTimetable

from enrichment.orchestration import live
from enrichment.orchestration.wake_up import BacklogTrigger
from enrichment.settings import load
from tests.conftest import REPOSITORY
from tests.fixtures.params import run_params

DAG = DagBag(dag_folder=str(REPOSITORY / "dags" / "stacklens_enrichment.py")).dags["stacklens_enrichment"]


def test_graph_shows_the_stages() -> None:
    """claim, then side by side in each batch: drain, geo and user, business, publish, clean."""
    edges = {task.task_id: task.downstream_task_ids for task in DAG.tasks}
    assert edges == {
        "claim": {"batch.drain", "batch.clean"},
        "batch.drain": {"batch.geo", "batch.user", "batch.business", "batch.publish"},
        "batch.geo": {"batch.business", "batch.publish"},
        "batch.user": {"batch.business", "batch.publish"},
        "batch.business": {"batch.publish"},
        "batch.publish": {"batch.clean"},
        "batch.clean": set(),
    }


def test_batches_are_mapped_and_labelled() -> None:
    """A run's batches stand side by side, each square with a label that a person can read."""
    in_batch = [task for task in DAG.tasks if task.task_id.startswith("batch.")]
    assert all(task.get_closest_mapped_task_group() is not None for task in in_batch)
    assert {task.map_index_template for task in in_batch} == {"{{ batch_label }}"}


def test_staged_files_are_cleaned_whatever_happens() -> None:
    """The clean-up is a teardown: it runs after failures too, and does not decide how a run ends."""
    clean = DAG.get_task("batch.clean")
    assert clean.is_teardown
    assert not clean.on_failure_fail_dagrun


def test_runs_every_minute_and_when_messages_wait() -> None:
    """Every minute, in UTC, and when something rings for the input topic."""
    assert isinstance(DAG.timetable, AssetOrTimeSchedule)
    by_time = DAG.timetable.timetable
    assert isinstance(by_time, CronTriggerTimetable)
    assert (by_time.expression, by_time.timezone) == ("* * * * *", "UTC")
    condition = DAG.timetable.asset_condition
    assert isinstance(condition, AssetAll)
    [asset] = condition.objects
    assert isinstance(asset, Asset)
    assert asset.name == "stacklens-enriched-backlog"
    assert [type(watcher.trigger) for watcher in asset.watchers] == [BacklogTrigger]


def test_nothing_else_names_what_is_watched() -> None:
    """Airflow keeps the watchers of one of the places that describe an asset, and drops those of the others."""
    named = [
        asset.name
        for dag in DagBag(dag_folder=str(REPOSITORY / "dags")).dags.values()
        for task in dag.tasks
        for asset in (*task.inlets, *task.outlets)
        if isinstance(asset, Asset)
    ]
    assert "stacklens-enriched" in named
    assert "stacklens-enriched-backlog" not in named


def test_topics_that_are_published_to_are_known_before() -> None:
    """An asset that Airflow makes with its first event is made twice by two tasks at once, and one of them fails."""
    known = {
        asset.name
        for dag in DagBag(dag_folder=str(REPOSITORY / "dags")).dags.values()
        for task in dag.tasks
        for asset in task.inlets
        if isinstance(asset, Asset)
    }
    kafka, replay = load().kafka, load().replay
    assert {kafka.output_topic, kafka.dlq_topic, replay.output_topic, replay.dlq_topic} <= known


@pytest.mark.parametrize(("value", "watched"), [("false", False), ("0", False), ("true", True), ("what?", True)])
def test_watch_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, value: str, watched: bool) -> None:
    """A value that nobody can read is no import error: the tasks say what is wrong with it."""
    monkeypatch.setenv("WAKE_UP_ENABLED", value)
    assert live.is_watched() == watched


def test_trigger_is_found_by_its_name() -> None:
    """The triggerer makes it from its path and arguments alone."""
    path, arguments = BacklogTrigger().serialize()
    assert type(resolve_name(path)(**arguments)) is BacklogTrigger


def test_asset_graph_shows_what_is_read_and_that_it_publishes() -> None:
    """To which topics is known when it has."""
    assert DAG.get_task("claim").inlets == [Asset("stacklens-enriched")]
    assert DAG.get_task("batch.publish").outlets == [AssetAlias("stacklens-published"), AssetAlias("stacklens-waiting")]


GOOD: list[dict[str, Any]] = [
    {},
    {"max_messages": 1},
    {"partitions": [0, 3]},
    {"partitions": []},
    {"dry_run": True, "max_messages": 500, "partitions": [1]},
]
BAD: list[dict[str, Any]] = [
    {"max_messages": 0},
    {"max_messages": "many"},
    {"partitions": [-1]},
    {"partitions": 3},
    {"dry_run": "yes"},
]


@pytest.mark.parametrize("given", GOOD)
def test_parameters_of_a_manual_run_are_taken(given: dict[str, Any]) -> None:
    """What the form allows is what the claim understands."""
    assert set(run_params(DAG, given)) == {"max_messages", "partitions", "dry_run"}


@pytest.mark.parametrize("given", BAD)
def test_parameters_of_a_manual_run_are_checked(given: dict[str, Any]) -> None:
    """What makes no sense is refused before a run starts."""
    with pytest.raises(ValueError, match=next(iter(given))):
        run_params(DAG, given)
