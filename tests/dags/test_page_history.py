"""The page's plots: their library out of its wheel, the routes of *History*, and who rolls minutes up."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from types import ModuleType, SimpleNamespace
from typing import Any, cast, get_args

import psycopg
import pytest
from airflow.sdk import Context
from airflow.sdk.execution_time.context import set_current_context
from fastapi.testclient import TestClient
from psycopg.conninfo import conninfo_to_dict

from enrichment.orchestration import rollup
from enrichment.orchestration.batches import roll_up_minutes
from enrichment.page import charts, content, history, reading
from enrichment.page.app import make_app
from enrichment.resources import Resources
from enrichment.rollup.history import RANGES
from enrichment.rollup.table import MINUTES_AT_ONCE, hour_of
from enrichment.settings import load

Connection = psycopg.Connection[Any]


@pytest.fixture
def client(postgres_uri: str, postgres_connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser of somebody who may read everything, of a page whose database is empty."""
    monkeypatch.setattr(reading, "requires_access_dag", lambda **_: lambda: None)
    with TestClient(make_app(lambda: opened(postgres_uri))) as client:
        yield client


def opened(uri: str) -> Resources:
    """Resources whose database is at an address."""
    return Resources(
        load(), kafka_config=dict, postgres_parameters=lambda: conninfo_to_dict(uri),
        http_endpoint=lambda *_: pytest.fail("asked"), staging_root=lambda: pytest.fail("asked"),
    )  # fmt: skip


def test_library_is_served_from_its_wheel(client: TestClient) -> None:
    """Its addresses hold its version, so that a browser keeps it until there is another."""
    addresses = client.get("/api/charts").json()
    assert [address.rsplit("/", 1) for address in addresses] == [[f"bokeh/{version('bokeh')}", n] for n in charts.FILES]
    for address in addresses:
        answer = client.get(f"/{address}")
        assert answer.content == (charts.folder() / address.rsplit("/", 1)[1]).read_bytes()
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        assert "javascript" in answer.headers["content-type"]
    assert client.get(f"/bokeh/{version('bokeh')}/bokeh-gl.min.js").status_code == 404


def test_ranges_are_those_that_can_be_read(client: TestClient) -> None:
    """No other one is made up."""
    assert get_args(history.RangeName) == tuple(RANGES)
    for name in RANGES:
        shown = client.get("/api/history", params={"range": name}).json()
        assert len(shown["history"]["at"]) == len(shown["history"]["messages_per_second"])
    answer = client.get("/api/history", params={"range": "90d"})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "range"])


def test_levels_are_those_of_the_settings(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are now, so that a plot can show what is wanted."""
    monkeypatch.setenv("SERVICE_LEVEL_MAX_LAG", "77")
    assert client.get("/api/history").json()["levels"] == {
        "hit-rate": 0.8, "error-rate": 0.05, "freshness": 120.0, "lag": 77.0,
    }  # fmt: skip


@pytest.mark.parametrize(("tab", "reading"), [(history, "read_history"), (content, "read_held")])
def test_no_garbage_collection_comes_into_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tab: ModuleType, reading: str
) -> None:
    """Of all that the API server has, it takes a quarter of a second; rollups leave no cycles."""
    read, seen = getattr(tab, reading), []

    def watched(*how: Any) -> Any:
        seen.append(gc.isenabled())
        return read(*how)

    monkeypatch.setattr(tab, reading, watched)
    assert client.get(f"/api/{tab.__name__.rpartition('.')[2]}").status_code == 200
    assert (seen, gc.isenabled()) == ([False], True)


def minutes_of(connection: Connection) -> int:
    """How many are rolled up."""
    [(count,)] = connection.execute("SELECT count(*) FROM enrichment_rollups WHERE period = 'minute'").fetchall()
    return count  # type: ignore[no-any-return]


def test_runs_roll_up_the_minutes_that_have_gone_by(postgres_uri: str, postgres_connection: Connection) -> None:
    """A few at most, each once."""
    with opened(postgres_uri) as r:
        roll_up_minutes(r)
        assert minutes_of(postgres_connection) == MINUTES_AT_ONCE
        roll_up_minutes(r)
        assert minutes_of(postgres_connection) <= MINUTES_AT_ONCE + 1  # the minute may have turned


@pytest.mark.parametrize(("hours_ago", "minutes"), [(1, 60), (47, 60), (49, 0)])
def test_hour_is_rolled_up_with_its_minutes_while_these_are_kept(
    postgres_uri: str, postgres_connection: Connection, monkeypatch: pytest.MonkeyPatch, hours_ago: int, minutes: int
) -> None:
    """So that those which no run has rolled up are there, and batches that were recorded late."""
    moment = datetime.now(UTC) - timedelta(hours=hours_ago)
    monkeypatch.setattr(rollup, "resources", lambda: opened(postgres_uri))
    with set_current_context(cast(Context, {"params": {"hour": moment.isoformat()}})):
        assert rollup.roll_up.function() == hour_of(moment).isoformat()
    assert minutes_of(postgres_connection) == minutes


def test_rolling_up_fails_no_run(postgres_connection: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """The batch is published: what went wrong is in the log."""

    def refuse() -> Connection:
        raise psycopg.OperationalError("too many connections")

    with caplog.at_level(logging.WARNING):
        roll_up_minutes(SimpleNamespace(postgres=postgres_connection, cache_connection=refuse))  # type: ignore[arg-type]
    assert "too many connections" in caplog.text
    assert minutes_of(postgres_connection) == 0
