"""The DAG that rolls metrics up: its graph, its hours, its form, and who is told of a breach."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseNotifier, CronDataIntervalTimetable, RetryAction
from msgspec import to_builtins

from enrichment.batch import Batch, OffsetRange
from enrichment.errors import ServiceLevelMissed, SettingsError
from enrichment.orchestration import rollup
from enrichment.orchestration.common import RETRY_POLICY
from enrichment.rollup.service_levels import Breach, Level
from enrichment.rollup.table import Rollups
from enrichment.rollup.worst import find_worst
from enrichment.settings import ServiceLevelSettings, load
from enrichment.store.histogram import Histogram
from enrichment.store.jobs import Ledger, Outcome
from enrichment.store.metrics import record
from tests.conftest import REPOSITORY
from tests.fixtures.notifier import told
from tests.fixtures.params import run_params

DAG = DagBag(dag_folder=str(REPOSITORY / "dags" / "stacklens_metrics_rollup.py")).dags["stacklens_metrics_rollup"]
TEN = datetime(2024, 1, 15, 10, tzinfo=UTC)


class BrokenNotifier(BaseNotifier):
    """A notifier whose service is down."""

    def notify(self, context: Any) -> None:
        """Fail."""
        raise ConnectionError("nobody listens")


def test_graph_is_rollup_then_levels_and_report() -> None:
    """The report does not wait for the check, and the check's failure is the run's."""
    assert {task.task_id: task.downstream_task_ids for task in DAG.tasks} == {
        "roll_up": {"service_levels", "report"}, "service_levels": set(), "report": set(),
    }  # fmt: skip


def test_hours_have_an_interval_and_can_be_backfilled() -> None:
    """Every run covers the hour before it, in UTC; a breach of one does not hold up the next."""
    assert isinstance(DAG.timetable, CronDataIntervalTimetable)
    assert (DAG.timetable.expression, DAG.timetable.timezone) == ("0 * * * *", "UTC")
    assert not any(task.depends_on_past for task in DAG.tasks)


def test_breach_is_not_tried_again() -> None:
    """What an hour missed it has missed: the task fails at its first try."""
    decided = RETRY_POLICY.evaluate(ServiceLevelMissed("late"), 1, 4, None)
    assert decided.action is RetryAction.FAIL


@pytest.mark.parametrize("given", [{}, {"hour": None}, {"hour": "2024-01-15T10:30:00Z"}])
def test_parameters_of_a_manual_run_are_taken(given: dict[str, Any]) -> None:
    """Any hour may be asked for."""
    assert run_params(DAG, given)["hour"] == given.get("hour")


@pytest.mark.parametrize("given", [{"hour": "ten"}, {"hour": 10}])
def test_parameters_of_a_manual_run_are_checked(given: dict[str, Any]) -> None:
    """What is no time is refused before a run starts."""
    with pytest.raises(ValueError, match="hour"):
        run_params(DAG, given)


@pytest.mark.parametrize(
    ("asked", "interval", "hour"),
    [
        (None, TEN, TEN),
        (None, TEN.replace(minute=20), TEN),
        ("2024-01-15T12:59:59+02:00", TEN.replace(hour=3), TEN),
        ("2024-01-15T10:30", TEN.replace(hour=3), TEN),
        (None, None, TEN),
    ],
    ids=["scheduled", "odd interval", "asked for", "asked for in UTC", "without a logical date"],
)
def test_hour_is_the_one_wanted(asked: str | None, interval: datetime | None, hour: datetime) -> None:
    """The form's hour first, then the data interval's; without either the last full one."""
    run = SimpleNamespace(run_after=TEN.replace(hour=11, minute=30))
    context = {"params": {"hour": asked}, "data_interval_start": interval, "dag_run": run}
    assert rollup.wanted_hour({name: value for name, value in context.items() if value is not None}) == hour


BREACHES = [Breach(Level.LAG, 2000, 1000)]
FILE_NOTIFIER = "tests.fixtures.notifier.FileNotifier"
HERE = "tests.dags.test_stacklens_metrics_rollup"


def settings(notifier: str, **kwargs: Any) -> ServiceLevelSettings:
    """Settings with a notifier."""
    return ServiceLevelSettings(notifier=notifier, notifier_kwargs=kwargs)


def test_notifier_of_the_settings_is_told(tmp_path: Path) -> None:
    """Any Airflow notifier: made with its arguments, templates filled in, hour and breaches in its context."""
    file = tmp_path / "told"
    chosen = settings(FILE_NOTIFIER, path=str(file), channel="ops {{ hour }}")
    rollup.notify(chosen, {"dag": DAG}, "ten", BREACHES)
    sentence = "2,000 messages left behind a claim, 1,000 at most wanted"
    assert told(file) == [{"channel": "ops ten", "hour": "ten", "breaches": [sentence]}]


@pytest.mark.parametrize(
    ("notifier", "kwargs"),
    [("nowhere.Notifier", {}), ("plain", {}), (f"{HERE}.Nobody", {}), (FILE_NOTIFIER, {"size": 1})],
    ids=["no module", "no path", "no class", "wrong arguments"],
)
def test_notifier_that_cannot_be_made_is_named(notifier: str, kwargs: dict[str, Any]) -> None:
    """A wrong setting is told as such, with its variable."""
    with pytest.raises(SettingsError, match="SERVICE_LEVEL_NOTIFIER"):
        rollup.notify(settings(notifier, **kwargs), {"dag": DAG}, "ten", BREACHES)


def test_notifier_that_fails_fails_the_task() -> None:
    """Its own error goes on: the task is tried again, and the breaches stay untold until then."""
    with pytest.raises(ConnectionError):
        rollup.notify(settings(f"{HERE}.BrokenNotifier"), {"dag": DAG}, "ten", BREACHES)


def checked(connection: psycopg.Connection[Any], run_type: str, chosen: ServiceLevelSettings) -> list[str]:
    """The levels that an hour's check finds missed. The hour left 2,000 messages behind, of 1,000 allowed."""
    context = {"dag": DAG, "dag_run": SimpleNamespace(run_type=run_type)}
    wanted = replace(load(), service_levels=chosen)
    return [breach.level for breach in rollup.check(Rollups(connection), wanted, context, TEN.isoformat())]


def test_breach_is_told_once(postgres_connection: psycopg.Connection[Any], tmp_path: Path) -> None:
    """A backfill keeps a breach and tells nobody; the first other run tells it, and no later one does."""
    file = tmp_path / "told"
    chosen = settings(FILE_NOTIFIER, path=str(file)).model_copy(update={"max_lag": 1000})
    with_lag(postgres_connection)
    assert checked(postgres_connection, "backfill", chosen) == [Level.LAG]
    assert told(file) == []
    for _ in range(2):
        assert checked(postgres_connection, "scheduled", chosen) == [Level.LAG]
    assert len(told(file)) == 1


def test_breach_is_told_again_when_the_notifier_failed(
    postgres_connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """The task's next try still has it to tell."""
    file = tmp_path / "told"
    with_lag(postgres_connection)
    broken = settings(f"{HERE}.BrokenNotifier").model_copy(update={"max_lag": 1000})
    with pytest.raises(ConnectionError):
        checked(postgres_connection, "scheduled", broken)
    mended = settings(FILE_NOTIFIER, path=str(file)).model_copy(update={"max_lag": 1000})
    checked(postgres_connection, "scheduled", mended)
    assert len(told(file)) == 1


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_breach_is_in_the_notes_of_its_run_and_of_the_worst_one(
    postgres_connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, run_type: str
) -> None:
    """Of many live runs only that which added most; none for a past hour, whose runs may be gone."""
    with_lag(postgres_connection)
    notes: dict[str, list[str]] = {}
    monkeypatch.setattr(rollup, "add_note", lambda _conn_id, _dag_id, run_id, texts: notes.setdefault(run_id, texts))
    r = SimpleNamespace(settings=load(), maintenance=postgres_connection)
    context = {"dag": DAG, "run_id": "rollup-run", "dag_run": SimpleNamespace(run_type=run_type)}
    rollup.note_breaches(r, context, TEN.isoformat(), BREACHES)  # type: ignore[arg-type]
    assert notes["rollup-run"][0].endswith("2,000 messages left behind a claim, 1,000 at most wanted")
    if run_type == "backfill":
        assert notes.keys() == {"rollup-run"}
    else:
        assert "left the most messages waiting, 2,000" in notes["run"][0]
        assert notes["rollup-run"][1] == "Most of it: dag run"


def enriched(**how: Any) -> Outcome:
    """Ten messages, all of them enriched."""
    return Outcome(read=10, enriched=10, partial=0, dead=0, **how)


def test_worst_batch_is_found_for_each_level(postgres_connection: psycopg.Connection[Any]) -> None:
    """By what the level is about; the keys that messages lack are no single batch's."""
    ledger = Ledger(postgres_connection)
    outcomes = {
        "errors": Outcome(read=10, enriched=0, partial=5, dead=5),
        "misses": enriched(cache_counts={"a": {"misses": 4}, "b": {"misses": 5}}),
        "late": enriched(cache_counts={"a": {"misses": 8}}),
        "lag": Outcome(read=10, enriched=9, partial=1, dead=0),
    }
    for name, outcome in outcomes.items():
        lag = {0: 5, 1: 6} if name == "lag" else {0: 10}
        ledger.claim(Batch(name, "in", "group", 0, (OffsetRange(0, 0, 10),)), "dag", f"run-{name}", "0", lag)
        ledger.published(name, outcome)
        freshness = {"freshness": to_builtins(Histogram.of([9.0 if name == "late" else 1.0]), str_keys=True)}
        record(postgres_connection, name, "publish", messages=10, seconds=1.0, counts=freshness)
    postgres_connection.execute("UPDATE enrichment_jobs SET claimed_at = %(at)s, published_at = %(at)s", {"at": TEN})
    levels = [Level.ERROR_RATE, Level.HIT_RATE, Level.FRESHNESS, Level.LAG, "keyless-a"]
    found = find_worst(postgres_connection, TEN, [Breach(level, 1.0, 0.5) for level in levels])
    assert [one.batch.run_id for one in found] == ["run-errors", "run-misses", "run-late", "run-lag"]


def with_lag(connection: psycopg.Connection[Any]) -> None:
    """A batch in the hour that left 2,000 messages behind, rolled up."""
    ledger = Ledger(connection)
    ledger.claim(Batch("b", "in", "group", 0, (OffsetRange(0, 0, 0),)), "dag", "run", "0", {0: 2000})
    ledger.published("b", Outcome(read=0, enriched=0, partial=0, dead=0))
    connection.execute("UPDATE enrichment_jobs SET claimed_at = %(at)s, published_at = %(at)s", {"at": TEN})
    Rollups(connection).roll_up(TEN)
