"""The page's application, without Airflow around it: routes, one look for all, and what does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow import plugins_manager
from fastapi import HTTPException
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from enrichment.errors import SettingsError
from enrichment.health.now import Now, recent_of
from enrichment.orchestration.plugin import EnrichmentPlugin
from enrichment.page import now, reading
from enrichment.page.app import FILES, make_app
from enrichment.rollup.rollup import Rollup
from enrichment.settings import load

AT = datetime(2026, 1, 15, 10, tzinfo=UTC)
ROUTES = ["/", "/main.js", "/page.css", "/api/now"]


class Opened:
    """Resources that count how often a connection of theirs is opened and closed."""

    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.settings = load()
        self.kafka_config: dict[str, Any] = {}

    def open(self) -> Opened:
        return self

    def query_connection(self, timeout_sec: float) -> SimpleNamespace:
        assert timeout_sec <= 2
        self.opened += 1
        return SimpleNamespace(closed=False, info=SimpleNamespace(transaction_status=None), close=self.close)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def opened() -> Opened:
    """What the page opens."""
    return Opened()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the next looks see, or raise; the last one stays."""
    seen: list[Any] = [Now(AT, recent_of(Rollup(), load()))]

    def look(*_: Any) -> Now:
        found = seen.pop(0) if len(seen) > 1 else seen[0]
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    monkeypatch.setattr(now, "look", look)
    return seen


@pytest.fixture
def client(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A browser of somebody who may read everything."""
    monkeypatch.setattr(reading, "requires_access_dag", lambda **_: lambda: None)
    monkeypatch.setattr(now, "FRESH_SECONDS", 0.0)
    with TestClient(make_app(opened.open)) as client:  # type: ignore[arg-type]
        yield client


def test_every_route_asks_for_a_person_who_may_read_the_dag(monkeypatch: pytest.MonkeyPatch, looks: list[Any]) -> None:
    """Nobody else sees even the empty page."""
    asked = []

    def requires_access_dag(**how: Any) -> Any:
        def refuse() -> None:
            asked.append(how)
            raise HTTPException(403)

        return refuse

    monkeypatch.setattr(reading, "requires_access_dag", requires_access_dag)
    app = make_app(lambda: None)  # type: ignore[arg-type, return-value]
    found = [route for route in app.routes if isinstance(route, APIRoute)]
    routes = [route.path for route in found]
    for route in found:
        asked.clear()
        [method] = route.methods or {"GET"}
        assert TestClient(app).request(method, route.path).status_code == 403, route.path
        assert asked[0] == {"method": "GET", "param_dag_id": "stacklens_enrichment"}
    assert len(routes) == len(app.routes)
    assert {*ROUTES} <= {*routes}


def test_files_are_served(client: TestClient) -> None:
    """With what they load themselves, and nothing from elsewhere."""
    text = client.get("/").text
    assert 'src="main.js"' in text
    assert 'href="page.css"' in text
    for path in FILES.iterdir():
        shown = client.get("/" if path.name == "index.html" else f"/{path.name}")
        assert shown.content == path.read_bytes()
        assert b"http" not in path.read_bytes() or path.suffix == ".json"
    answer = client.get("/main.js")
    assert "javascript" in answer.headers["content-type"]
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")


def test_moment_is_shown_with_its_verdict(client: TestClient, looks: list[Any]) -> None:
    """As JSON that no cache keeps."""
    answer = client.get("/api/now")
    shown = answer.json()
    assert (shown["verdict"]["health"], shown["now"]["at"]) == ("healthy", "2026-01-15T10:00:00Z")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        (psycopg.OperationalError("no route to host"), "PostgreSQL does not answer: no route to host"),
        (SettingsError("no connection `x`"), "a setting is wrong: no connection `x`"),
    ],
    ids=["no database", "a wrong setting"],
)
def test_what_keeps_figures_from_being_read_is_the_verdict(
    client: TestClient, looks: list[Any], opened: Opened, failed: Exception, said: str
) -> None:
    """And the next look opens a new connection."""
    looks.insert(0, failed)
    shown = client.get("/api/now").json()
    assert (shown["verdict"]["health"], shown["now"]) == ("down", None)
    assert shown["verdict"]["summary"] == said
    assert opened.closed == 1
    assert client.get("/api/now").json()["verdict"]["health"] == "healthy"
    assert opened.opened == 2


def test_all_viewers_share_a_look(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many watch, the database is asked every two seconds; connections stay open."""
    ticks = iter([0.0, 1.0, 2.5, 2.5])
    monkeypatch.setattr(now, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    seen = iter([Now(AT, recent_of(Rollup(), load())) for _ in range(2)])
    monkeypatch.setattr(now, "look", lambda *_: next(seen))
    pipeline = now.Lookout(opened.open)  # type: ignore[arg-type]
    first, second, third = (pipeline.show() for _ in range(3))
    assert first is second
    assert first is not third
    assert (list(seen), opened.opened, opened.closed) == ([], 1, 0)


def test_airflow_takes_the_plugin() -> None:
    """The page is in its navigation and below a path that is not reserved, and a tab of runs and task instances."""
    views = EnrichmentPlugin.external_views
    [app] = EnrichmentPlugin().fastapi_apps
    assert {view["href"].partition("?")[0].rstrip("/") for view in views} == {app["url_prefix"].lstrip("/")}
    assert {view["destination"]: view["url_route"] for view in views} == {
        "nav": "stacklens", "dag_run": "stacklens-run", "task_instance": "stacklens-task",
    }  # fmt: skip
    taken, _ = plugins_manager._get_ui_plugins()
    assert all(view in taken for view in views)
