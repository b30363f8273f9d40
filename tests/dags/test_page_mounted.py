"""The page in Airflow's API server: what other processes have of it, and what is ready before anybody looks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.app import lifespan
from fastapi import FastAPI
from fastapi.testclient import TestClient

from enrichment.errors import SettingsError
from enrichment.orchestration.plugin import EnrichmentPlugin
from enrichment.page import app as application
from enrichment.page import mounted as mounting
from enrichment.page import reading
from enrichment.page.mounted import mounted
from enrichment.page.scans import Scans
from enrichment.resources import Resources
from enrichment.settings import load
from tests.fixtures.scheduler import eventually

PLUGINS = Path(__file__).parents[2] / "plugins"


class Asked:
    """Connections that say what they were asked for, or cannot be read."""

    def __init__(self, failed: Exception | None = None) -> None:
        self.names: list[str] = []
        self._failed = failed

    def open(self) -> Resources:
        """Resources of them."""
        return Resources(
            load(), kafka_config=lambda: self._take("kafka"), postgres_parameters=lambda: self._take("postgres"),
            http_endpoint=lambda *_: pytest.fail("asked"), staging_root=lambda: pytest.fail("asked"),
        )  # fmt: skip

    def _take(self, name: str) -> dict[str, Any]:
        self.names.append(name)
        if self._failed is not None:
            raise self._failed
        return {}


def served(asked: Asked) -> FastAPI:
    """An application that has the page as Airflow's has."""
    whole = FastAPI(lifespan=lifespan)
    whole.mount("/stacklens", mounted(asked.open))
    return whole


@pytest.fixture(autouse=True)
def _everybody_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "requires_access_dag", lambda **_: lambda: None)


def test_page_is_ready_when_the_server_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its application is made, and what reads connections is imported: by a thread, before the first request."""
    made, asked = [], Asked()

    def make_app(*how: Any) -> FastAPI:
        made.append(threading.current_thread().name)
        return make(*how)

    make = application.make_app
    monkeypatch.setattr(application, "make_app", make_app)
    with TestClient(served(asked)) as client:
        eventually(lambda: asked.names == ["kafka", "postgres"], "what a first request needs")
        assert client.get("/stacklens/").status_code == 200
        assert client.get("/stacklens/api/charts").status_code == 200
    assert made == ["stacklens-page"]


def test_first_request_may_come_before_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server makes the application then, off its own thread, which tasks wait for."""
    monkeypatch.setattr(mounting.MountedPage, "prepare", lambda _: None)
    threads = []

    def make_app(*how: Any) -> FastAPI:
        threads.append(threading.current_thread().name)
        return make(*how)

    make = application.make_app
    monkeypatch.setattr(application, "make_app", make_app)
    with TestClient(served(Asked())) as client:
        assert [client.get("/stacklens/").status_code for _ in range(2)] == [200, 200]
    assert [name.startswith("asyncio_") for name in threads] == [True]


def test_server_starts_where_a_setting_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    """With a line in its log, and the page is there to say so."""
    asked = Asked(SettingsError("no connection `x`"))
    with caplog.at_level(logging.INFO), TestClient(served(asked)) as client:
        eventually(lambda: "page.not_prepared error=no connection `x`" in caplog.text, "its log")
        shown = client.get("/stacklens/api/now").json()
    assert shown["verdict"]["summary"] == "a setting is wrong: no connection `x`"


def test_process_that_reads_topics_ends_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is told to, and not only when the server has gone."""
    closed: list[Scans] = []

    def close(scans: Scans) -> None:
        closed.append(scans)

    monkeypatch.setattr(Scans, "close", close)
    with TestClient(served(Asked())) as client:
        client.get("/stacklens/")
    assert len(closed) == 1


LOADED = """
import sys, threading
from enrichment_plugin import EnrichmentPlugin
plugin = EnrichmentPlugin()
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("enrichment.")}
print(rooms & {"page", "inspection", "kafka", "resources"}, "fastapi" in sys.modules, threading.active_count())
"""
SERVED = """
import sys
import enrichment.page.app
modules = {"pandas", "enrichment.inspection.scan", "enrichment.dead_letters.reader", "enrichment.enrichers.base"}
print(modules & sys.modules.keys())
"""
READING = """
import sys
import enrichment.inspection.browsing, enrichment.inspection.preview, enrichment.inspection.serving
print({"airflow", "fastapi"} & sys.modules.keys())
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [(LOADED, "set() False 1"), (SERVED, "set()"), (READING, "set()")],
    ids=["a process with plugins", "the server", "the process that reads topics"],
)
def test_no_process_imports_what_it_does_not_need(program: str, said: str) -> None:
    """Scheduler, triggerer, DAG processor and tasks load plugins; what reads topics is in a process of its own."""
    asked = {**os.environ, "PYTHONPATH": str(PLUGINS)}
    ended = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == said


def test_airflow_asks_the_plugin_for_one_page() -> None:
    """However often."""
    plugin = EnrichmentPlugin()
    assert plugin.fastapi_apps is plugin.fastapi_apps
