"""Reading of topics for the page by a process of its own: two pieces of work at a time, none for a browser that has
gone, and what happens when it ends or its server does."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from fastapi import HTTPException, Request

from enrichment.errors import SettingsError
from enrichment.inspection.asked import Browse
from enrichment.page import scans as scanning
from enrichment.page.scans import Scans
from enrichment.resources import Resources
from enrichment.settings import load
from enrichment.sources.connections import HttpEndpoint
from tests.fixtures import inspection
from tests.fixtures.scheduler import eventually

ROOT = Path(__file__).parents[2]


class Browser:
    """A request of a browser that goes away when it is told to."""

    def __init__(self) -> None:
        self.is_gone = False

    async def is_disconnected(self) -> bool:
        """See `Request`."""
        return self.is_gone


@pytest.fixture
def kafka() -> dict[str, Any]:
    """What the Kafka connection holds."""
    return {}


@pytest.fixture
def scans(kafka: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Scans]:
    """With a process that does what the tests tell it."""
    monkeypatch.setattr(scanning, "INSPECTION", "tests.fixtures.inspection")
    found = Scans(lambda: opened(kafka), patience_seconds=0.05)
    yield found
    found.close()


def opened(kafka: dict[str, Any]) -> Resources:
    """Resources whose connections lead nowhere."""

    def kafka_config() -> dict[str, Any]:
        if isinstance(failed := kafka.get("fails"), Exception):
            raise failed
        return kafka

    return Resources(
        load(), kafka_config=kafka_config, postgres_parameters=lambda: {"host": "db"},
        http_endpoint=lambda conn_id, setting: HttpEndpoint(f"http://{conn_id}/{setting}"),
        staging_root=lambda: pytest.fail("asked"),
    )  # fmt: skip


async def run(scans: Scans, what: str, browser: Browser | None = None) -> bytes:
    """The JSON that comes of some work."""
    return await scans.run(Browse("in", None, None, None, what, is_newer=False), cast(Request, browser or Browser()))


def told(scans: Scans, what: str) -> Any:
    """What that says."""
    return json.loads(asyncio.run(run(scans, what)))


def refusal(scans: Scans, what: str) -> tuple[int, str]:
    """Status and words of what a browser gets instead."""
    with pytest.raises(HTTPException) as refused:
        asyncio.run(run(scans, what))
    return refused.value.status_code, refused.value.detail


def is_running(pid: int) -> bool:
    """Whether there is such a process still, and not only its exit code."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_topics_are_read_by_one_process_of_the_lowest_priority(scans: Scans) -> None:
    """Not by this one, which also serves the tasks."""
    first = told(scans, "tell")
    assert first["pid"] != os.getpid()
    assert (first["nice"], first["nice of its session"]) == (19, 19)
    assert told(scans, "tell") == first


def test_process_is_there_before_it_is_needed(scans: Scans) -> None:
    """Where somebody has said so."""
    scans.start()
    assert scans._process is not None
    assert told(scans, "tell")["pid"] == scans._process.pid


def test_third_scan_is_refused_in_words_and_the_next_one_is_not(scans: Scans, tmp_path: Path) -> None:
    """Once one of the two has ended."""
    end = tmp_path / "end"

    async def three() -> None:
        two = [asyncio.ensure_future(run(scans, f"wait {end}")) for _ in range(2)]
        await asyncio.to_thread(eventually, lambda: len([*tmp_path.glob("*-begun-*")]) == 2, "two scans")
        with pytest.raises(HTTPException) as refused:
            await run(scans, "tell")
        end.touch()
        assert (refused.value.status_code, "more than 2 at a time" in refused.value.detail) == (429, True)
        assert await asyncio.gather(*two) == [b'"finished"'] * 2

    asyncio.run(three())
    assert told(scans, "tell")["nice"] == 19


def test_scan_is_told_that_nobody_waits_for_it(scans: Scans, tmp_path: Path) -> None:
    """And ends by itself; the process is there for the next one, which is not told so."""
    browser, end = Browser(), tmp_path / "end"
    before = told(scans, "tell")

    async def leave() -> bytes:
        running = asyncio.ensure_future(run(scans, f"wait {end}", browser))
        await asyncio.to_thread(eventually, lambda: any(tmp_path.glob("*-begun-*")), "the scan")
        browser.is_gone = True
        return await running

    assert asyncio.run(leave()) == b'"stopped"'
    end.touch()
    assert told(scans, f"wait {end}") == "finished"
    assert told(scans, "tell") == before


def test_scan_is_stopped_with_its_request(scans: Scans, tmp_path: Path) -> None:
    """However that ends."""
    end = tmp_path / "end"

    async def cancel() -> None:
        running = asyncio.ensure_future(run(scans, f"wait {end}"))
        await asyncio.to_thread(eventually, lambda: any(tmp_path.glob("*-begun-*")), "the scan")
        running.cancel()

    asyncio.run(cancel())
    eventually((tmp_path / "end-stopped").exists, "the end of the scan")


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        ("not shown", (404, "no such thing")),
        ("kafka", (503, "Kafka: no route")),
        ("postgres", (503, "PostgreSQL: too many connections")),
        ("odd", (500, "Internal Server Error")),
    ],
)
def test_failures_are_told_as_they_would_be_of_the_server_itself(
    scans: Scans, how: str, answer: tuple[int, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """What is unforeseen is in the log, and only there; the process goes on."""
    before = told(scans, "tell")
    assert refusal(scans, f"fail {how}") == answer
    assert told(scans, "tell") == before
    assert ("ValueError: secret" in capfd.readouterr().err) == (how == "odd")


def test_process_that_dies_is_told_of_and_started_again(scans: Scans, caplog: pytest.LogCaptureFixture) -> None:
    """Only who had asked it has to ask again."""
    before = told(scans, "tell")
    with caplog.at_level(logging.WARNING):
        assert refusal(scans, "die") == (503, scanning.ENDED)
    assert "exit_code=-9" in caplog.text
    assert told(scans, "tell")["pid"] != before["pid"]


def test_process_that_was_killed_meanwhile_is_started_again(scans: Scans) -> None:
    """Without anybody noticing."""
    pid, process = told(scans, "tell")["pid"], scans._process
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: process is not None and process.exit_code is not None, "the end of the process")
    assert told(scans, "tell")["pid"] != pid


def test_process_ends_when_nobody_asks(scans: Scans, tmp_path: Path) -> None:
    """Not while it works, and there is another one for the next who does."""
    scans._idle, scans._patience = 0.2, 30.0
    end = tmp_path / "end"

    async def long() -> bytes:
        running = asyncio.ensure_future(run(scans, f"wait {end}"))
        await asyncio.sleep(1)
        end.touch()
        return await running

    assert asyncio.run(long()) == b'"finished"'
    pid = told(scans, "tell")["pid"]
    eventually(lambda: not is_running(pid), "the end of the process")
    assert told(scans, "tell")["pid"] != pid


SERVER = """
import asyncio, pathlib, sys, time
from tests.dags.test_page_scans import opened, run, scanning
scanning.INSPECTION = "tests.fixtures.inspection"
scans, folder = scanning.Scans(lambda: opened({})), pathlib.Path(sys.argv[1])
(folder / "new").write_bytes(asyncio.run(run(scans, "tell")))
(folder / "new").rename(folder / "told")
if sys.argv[2] == "True":
    asyncio.run(run(scans, f"wait {folder / 'end'}"))
time.sleep(60)
"""


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "at work"])
def test_process_ends_with_a_server_that_is_killed(tmp_path: Path, *, is_busy: bool) -> None:
    """It is not left behind."""
    asked = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    with subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path), str(is_busy)], env=asked) as server:
        eventually((tmp_path / "told").exists, "the process")
        pid = json.loads((tmp_path / "told").read_bytes())["pid"]
        eventually(lambda: not is_busy or any(tmp_path.glob("*-begun-*")), "its work")
        assert is_running(pid)
        server.kill()
    eventually(lambda: not is_running(pid), "the end of the process")


def test_connections_are_those_of_the_server(scans: Scans, kafka: dict[str, Any]) -> None:
    """The process knows no Airflow. A callback goes by its name."""
    assert told(scans, "use") == [{"host": "db"}, "http://a/b", None]
    kafka["oauth_cb"] = inspection.token
    assert told(scans, "use")[2] == ["token", 1.0]


def test_connection_that_cannot_be_used_is_told_of(scans: Scans, kafka: dict[str, Any]) -> None:
    """A setting, a callback without a name, and what nobody has foreseen: that is the server's own."""
    kafka["fails"] = SettingsError("Airflow knows no connection `x`")
    assert refusal(scans, "use") == (503, "Airflow knows no connection `x`")
    kafka.update(fails=None, oauth_cb=lambda _: None)
    status, said = refusal(scans, "use")
    assert (status, said.startswith("kafka_config of its connection cannot be handed to another process")) == (
        503,
        True,
    )
    kafka["fails"] = ZeroDivisionError("odd")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(scans, "use"))
    assert told(scans, "tell")["nice"] == 19
