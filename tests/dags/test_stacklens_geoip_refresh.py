"""The DAG that installs newer geo databases: its graph, its form, its account, and what its tasks say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import CronTriggerTimetable, RetryAction
from airflow.sdk.exceptions import AirflowSkipException

from enrichment.enrichers.geo.refresh.sources import Account
from enrichment.errors import DatabaseRefused, RefreshFailed
from enrichment.orchestration import geoip
from enrichment.orchestration.common import RETRY_POLICY
from tests.conftest import REPOSITORY
from tests.fixtures.geo import BUILT_AT, city, write_geo_database
from tests.fixtures.params import run_params

DAG = DagBag(dag_folder=str(REPOSITORY / "dags" / "stacklens_geoip_refresh.py")).dags["stacklens_geoip_refresh"]


def test_age_is_reported_however_the_refresh_ended() -> None:
    """The report is a teardown: it runs after failures too, and does not decide how a run ends."""
    assert {task.task_id: task.downstream_task_ids for task in DAG.tasks} == {
        "refresh": {"report_age"}, "report_age": set(),
    }  # fmt: skip
    report = DAG.get_task("report_age")
    assert (report.is_teardown, report.on_failure_fail_dagrun) == (True, False)


def test_runs_every_week() -> None:
    """Once a week, in UTC, after MaxMind's Tuesday."""
    assert isinstance(DAG.timetable, CronTriggerTimetable)
    assert (DAG.timetable.expression, DAG.timetable.timezone) == ("30 4 * * 3", "UTC")


def test_installed_databases_are_events() -> None:
    """Other DAGs can be scheduled by a new database."""
    assert {asset.name for asset in DAG.get_task("refresh").outlets} == {"stacklens-geo-database"}
    assert DAG.get_task("report_age").outlets == []


def test_bad_file_is_not_tried_again() -> None:
    """Another try would get the same file; a download may go better the next time."""
    assert RETRY_POLICY.evaluate(DatabaseRefused("countries"), 1, 4, None).action is RetryAction.FAIL
    assert RETRY_POLICY.evaluate(RefreshFailed("HTTP 500"), 1, 4, None).action is not RetryAction.FAIL


@pytest.mark.parametrize(
    "given", [{}, {"source": "maxmind"}, {"source": "/data/City.mmdb", "force": True, "dry_run": True}]
)
def test_parameters_of_a_manual_run_are_taken(given: dict[str, Any]) -> None:
    """Source, force and dry run; a scheduled run has none of them."""
    assert run_params(DAG, given) == {"source": None, "force": False, "dry_run": False} | given


@pytest.mark.parametrize("given", [{"source": 1}, {"force": "yes"}, {"dry_run": None}])
def test_parameters_of_a_manual_run_are_checked(given: dict[str, Any]) -> None:
    """What makes no sense is refused before a run starts."""
    with pytest.raises(ValueError, match=next(iter(given))):
        run_params(DAG, given)


@pytest.mark.parametrize(
    ("connection", "account"),
    [
        pytest.param({"login": "42", "password": "key"}, Account("42", "key"), id="maxmind"),
        pytest.param(
            {"login": "42", "password": "key", "host": "mirror", "port": 8443, "extra": {"proxy": "http://proxy:3128"}},
            Account("42", "key", "https://mirror:8443", "http://proxy:3128"),
            id="mirror",
        ),
        pytest.param({"host": "http://mirror"}, Account("", "", "http://mirror"), id="url"),
    ],
)
def test_account_is_the_connections(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any], account: Account
) -> None:
    """Login and password are account number and licence key; a host is another server."""
    monkeypatch.setenv("AIRFLOW_CONN_MAXMIND", json.dumps({"conn_type": "http", **connection}))
    assert geoip.maxmind_account("maxmind") == account


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `refresh` with parameters; `run.pushed` has its XComs, `run.event` what its asset event says."""
    monkeypatch.setenv("GEO_IP_INSTALL_PATH", str(tmp_path / "installed" / "City.mmdb"))
    monkeypatch.setenv("GEO_IP_KNOWN_ADDRESSES", "8.8.8.8=US")
    monkeypatch.delenv("GEO_IP_DATABASE_PATH", raising=False)
    pushed: dict[str, Any] = {}
    event = SimpleNamespace(extra=None)

    def run(**given: Any) -> dict[str, Any]:
        instance = SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))
        monkeypatch.setattr(geoip, "get_current_context", lambda: {"params": run_params(DAG, given), "ti": instance})
        done: dict[str, Any] = geoip.refresh.function(outlet_events={geoip.GEO_DATABASE: event})
        return done

    run.pushed, run.event = pushed, event  # type: ignore[attr-defined]
    return run


def test_refresh_is_skipped_when_no_source_is_set(run: Any) -> None:
    """A newcomer's weekly run is no failure, and says what to set."""
    with pytest.raises(AirflowSkipException, match="GEO_IP_UPDATE_SOURCE"):
        run()


def test_source_of_the_setting_is_taken_when_the_form_has_none(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduled run installs from the setting, and its event says what; the next one is skipped."""
    offered = write_geo_database(tmp_path / "new.mmdb", {"8.8.8.0/24": city("Newtown")})
    monkeypatch.setenv("GEO_IP_UPDATE_SOURCE", str(offered))
    done = run()
    assert done == run.event.extra == run.pushed["refreshed"]
    assert (done["outcome"], done["offered"]["built_at"]) == ("installed", BUILT_AT)
    assert geoip.report_age.function()["version"] == f"Test-City-{BUILT_AT}"
    run.event.extra = None
    with pytest.raises(AirflowSkipException, match="identical"):
        run()
    assert (run.pushed["refreshed"]["outcome"], run.event.extra) == ("identical", None)


def test_dry_run_has_no_event(run: Any, tmp_path: Path) -> None:
    """Nothing was installed, so no other DAG is told so; the XCom says what would have been."""
    offered = write_geo_database(tmp_path / "new.mmdb", {"8.8.8.0/24": city("Newtown")})
    with pytest.raises(AirflowSkipException, match="dry-run"):
        run(source=str(offered), dry_run=True)
    assert (run.pushed["refreshed"]["outcome"], run.event.extra) == ("dry-run", None)
    assert not (tmp_path / "installed" / "City.mmdb").exists()
