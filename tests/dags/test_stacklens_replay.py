"""The DAG that replays: its graph, its windows, its form, and who waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.timetables.base import DataInterval, TimeRestriction
from pendulum import datetime as moment

from enrichment.batch import Batch, OffsetRange
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import ReplayRefused
from enrichment.messages import Reason
from enrichment.orchestration import replay
from enrichment.orchestration.timetable import ReplayTimetable
from enrichment.replay import turns
from enrichment.settings import ReplaySettings
from tests.conftest import REPOSITORY
from tests.fixtures.params import run_params

DAG = DagBag(dag_folder=str(REPOSITORY / "dags" / "stacklens_replay.py")).dags["stacklens_replay"]
BATCH = Batch("b", "in", "group", 0, (OffsetRange(0, 5, 9),))
NEXT = {"batch.geo", "batch.user", "batch.business", "batch.publish"}


def test_batches_go_through_the_tasks_of_live_draining() -> None:
    """plan, then for each batch its turn and the very task group of live draining, then the report."""
    edges = {task.task_id: {t.removeprefix("window.") for t in task.downstream_task_ids} for task in DAG.tasks}
    assert edges["plan"] >= {"turn"}
    assert edges["window.turn"] == {"batch.drain"}
    assert edges["window.batch.drain"] == NEXT
    assert edges["window.batch.publish"] == {"batch.clean", "report"}
    assert all(t.get_closest_mapped_task_group() is not None for t in DAG.tasks if t.task_id.startswith("window."))


def test_every_task_waits_for_the_pool() -> None:
    """All tasks of replays together get no more slots than the pool has; who waits for its turn holds none."""
    assert {task.pool for task in DAG.tasks} == {ReplaySettings().pool}
    turn: Any = DAG.get_task("window.turn")
    assert (turn.mode, turn.timeout) == ("reschedule", 12 * 3600)


@pytest.mark.parametrize("expression", ["every hour", "", "61 * * * *"])
def test_cron_expression_that_is_none_is_said_by_name(monkeypatch: pytest.MonkeyPatch, expression: str) -> None:
    """The import error of this DAG names the variable; all other DAGs are there."""
    monkeypatch.setattr(replay, "SETTINGS", ReplaySettings(window_cron=expression))
    bag = DagBag(dag_folder=str(REPOSITORY / "dags"))
    [error] = bag.import_errors.values()
    last = error.strip().splitlines()[-1]
    assert last.startswith(f"enrichment.errors.SettingsError: REPLAY_WINDOW_CRON={expression!r}: ")
    assert "croniter" not in error.split("SettingsError")[0]
    assert set(bag.dags) == {file.stem for file in (REPOSITORY / "dags").glob("*.py")} - {DAG.dag_id}


def test_scheduler_makes_no_run_and_a_backfill_makes_one_a_window() -> None:
    """Nothing is replayed by itself; a backfill gets windows that touch each other."""
    timetable = DAG.timetable
    assert isinstance(timetable, ReplayTimetable)
    last = DataInterval(moment(2024, 1, 15, 10), moment(2024, 1, 15, 11))
    asked = [
        timetable.next_dagrun_info(
            last_automated_data_interval=last,
            restriction=TimeRestriction(earliest=moment(2024, 1, 1), latest=None, catchup=catchup),
        )
        for catchup in (False, True)
    ]
    assert asked[0] is None
    assert asked[1] is not None
    assert asked[1].data_interval == DataInterval(moment(2024, 1, 15, 11), moment(2024, 1, 15, 12))


GOOD: list[dict[str, Any]] = [
    {},
    {"dry_run": False, "replay_id": "after-geo-2024_02", "output_topic": "elsewhere", "max_messages": 5},
    {"services": ["payment-service"], "levels": ["error", "warn"], "errors": ["geo-ip", "user-not-found"]},
]
BAD: list[dict[str, Any]] = [
    {"replay_id": ""},
    {"replay_id": "a/b"},
    {"errors": ["weather"]},
    {"services": "payment-service"},
    {"dry_run": "no"},
    {"max_messages": 0},
]


@pytest.mark.parametrize("given", GOOD)
def test_parameters_are_taken(given: dict[str, Any]) -> None:
    """What the form allows; unless it is told otherwise, a run only counts."""
    assert run_params(DAG, given)["dry_run"] is given.get("dry_run", True)


@pytest.mark.parametrize("given", BAD)
def test_parameters_are_checked(given: dict[str, Any]) -> None:
    """What makes no sense is refused before a run starts."""
    with pytest.raises(ValueError, match=next(iter(given))):
        run_params(DAG, given)


def test_every_reason_of_a_lookup_belongs_to_a_source() -> None:
    """The filter by source knows each word that a source leaves in the stored error list, and no two sources share
    one."""
    reasons = [reason for e in REGISTRY.enrichers for reason in e.reasons]
    assert len(reasons) == len(set(reasons))
    assert set(reasons).isdisjoint(map(str, Reason))
    offered = replay.REPLAY_PARAMS["errors"].schema["items"]["enum"]
    assert offered == [*REGISTRY.by_source, *map(str, Reason), *reasons]


@pytest.mark.parametrize(
    ("is_next", "before", "behind", "done"),
    [(True, "failed", None, True), (False, "running", None, False), (False, "running", "failed", False)],
    ids=["its turn", "not yet", "a failure behind it"],
)
def test_turn_waits_for_those_before_it(
    monkeypatch: pytest.MonkeyPatch, is_next: bool, before: str, behind: str | None, done: bool
) -> None:
    """A batch starts when the group has come to it, whatever else has failed; none waits for those behind it."""
    assert look(monkeypatch, is_next, [before], [behind])[0] is done


@pytest.mark.parametrize("state", ["failed", "upstream_failed"])
def test_turn_never_comes_after_a_failure(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """Where a batch before it has failed, nobody waits: the run ends and says what to do."""
    with pytest.raises(ReplayRefused, match="then clear this run"):
        look(monkeypatch, False, [state, "success", None])


def test_turn_looks_the_less_often_the_more_are_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for hundreds of batches does not start a task every few seconds, nor sleep for hours."""
    before = (["success"] * 10, ["success"] * 9 + ["running"], ["running"] * 10, ["running"] * 500)
    assert [look(monkeypatch, False, states)[1] for states in before] == [4, 4, 40, 240]


def test_turn_outlives_a_scheduler_that_is_late() -> None:
    """Airflow fails a try whose end it hears of after it has queued the next look: that must not end a replay."""
    turn: Any = DAG.get_task("window.turn")
    assert turn.retries >= 1000


def look(
    monkeypatch: pytest.MonkeyPatch, is_next: bool, before: Sequence[str | None], behind: Sequence[str | None] = ()
) -> tuple[bool, float]:
    """One look of a batch's sensor, and in how many seconds it looks again, the group and the states in which the
    `publish` of the batches before and behind it is being as given."""
    monkeypatch.setattr(replay, "resources", lambda: nullcontext(SimpleNamespace(clients=None, ledger=None)))
    monkeypatch.setattr(replay, "batch_of", lambda manifest: BATCH)
    monkeypatch.setattr(turns, "is_next", lambda clients, ledger, batch: is_next)
    turn = replay.Turn(task_id="turn", batch=BATCH.to_manifest())
    publishes = enumerate([*before, None, *behind])
    states = {f"window.batch.publish_{index}": state for index, state in publishes}
    ti = SimpleNamespace(map_index=len(before), get_task_states=lambda **which: {which["run_ids"][0]: states})
    return turn.poke({"ti": ti, "run_id": "run"}), turn.poke_interval


def context(**values: Any) -> dict[str, Any]:
    """What a task of a run sees."""
    return {"params": run_params(DAG, values.pop("params", {})), **values}


def test_window_is_the_data_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run replays its data interval, in milliseconds as Kafka counts them; one without is refused."""
    start, end = datetime(2024, 1, 15, 10, tzinfo=UTC), datetime(2024, 1, 15, 11, tzinfo=UTC)
    given = context(data_interval_start=start, data_interval_end=end, params={"errors": ["user-profile"]})
    monkeypatch.setattr(replay, "get_current_context", lambda: given)
    settings: Any = SimpleNamespace(replay=ReplaySettings())
    purpose = replay.purpose_of(settings)
    assert purpose.window is not None
    assert (purpose.window.start, purpose.window.end) == (1_705_312_800_000, 1_705_316_400_000)
    assert set(purpose.window.errors) == {"user-lookup-timeout", "user-service-error", "user-not-found"}
    assert (purpose.kind, purpose.headers) == ("replay", (("stacklens-replay-id", "replay-1"),))
    given = context()
    with pytest.raises(ReplayRefused, match="covers no window"):
        replay.purpose_of(settings)
