"""A real supervisord with small programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import psutil
import pytest

from include.local import leftovers
from include.local.config import MARKER, Config
from include.local.errors import ComponentDied, StackError
from include.local.supervision import AIRFLOW, SERVICES, Program, Supervisor

SLEEPER = Program("sleeper", SERVICES, (sys.executable, "-c", "import time; print('100%', flush=True); time.sleep(60)"))
MORTAL = Program("mortal", AIRFLOW, (sys.executable, "-c", "raise SystemExit('no disk left')"))


@pytest.fixture
def deep(config: Config) -> Config:
    """A stack in a folder that is too deep for a socket and has a `%` in its name."""
    return replace(config, directory=config.directory / ("100%" * 30))


@pytest.fixture
def supervisor(deep: Config) -> Iterator[Supervisor]:
    """A supervisord that knows both programs, stopped after the test."""
    found = Supervisor(deep)
    found.start([SLEEPER, MORTAL], {**os.environ, MARKER: str(deep.directory)})
    yield found
    found.stop()
    leftovers.end(deep.directory, found.session_file)


def test_launch_when_a_program_becomes_ready(supervisor: Supervisor, deep: Config) -> None:
    """A program is up when it is ready; its output is in its log; the stop ends it with supervisord."""
    log = deep.log("sleeper")
    supervisor.launch(SLEEPER, lambda: log.exists() and "100%" in log.read_text(), Event())
    pid = supervisor.states()["sleeper"].pid
    assert psutil.pid_exists(pid)
    supervisor.stop()
    assert not psutil.pid_exists(pid)
    assert supervisor.states() == {}
    assert leftovers.find(deep.directory, supervisor.session_file) == []


def test_launch_when_a_program_dies(supervisor: Supervisor, deep: Config) -> None:
    """A program that ends while it is waited for is named at once, with its log and what it said last."""
    with pytest.raises(ComponentDied, match="mortal died") as died:
        supervisor.launch(MORTAL, lambda: False, Event())
    assert str(deep.log("mortal")) in str(died.value)
    assert "no disk left" in str(died.value)


def test_launch_when_a_program_is_never_ready(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that runs, does nothing and does not become ready is given up, with its log."""
    monkeypatch.setattr("include.local.patience.QUIET_SECONDS", 1.0)
    with pytest.raises(StackError, match=r"sleeper is not ready and has done nothing for \d+ s"):
        supervisor.launch(SLEEPER, lambda: False, Event())


def test_launch_when_another_component_failed(supervisor: Supervisor) -> None:
    """Nobody waits on for a program when the start has failed elsewhere."""
    cancelled = Event()
    cancelled.set()
    with pytest.raises(StackError, match="another component failed"):
        supervisor.launch(SLEEPER, lambda: False, cancelled)


def test_start_when_logs_are_there(supervisor: Supervisor, deep: Config) -> None:
    """A log tells of one start: the one before is kept beside it."""
    supervisor.stop()
    Path(deep.log("sleeper")).write_text("from before")
    supervisor.start([SLEEPER, MORTAL], {**os.environ, MARKER: str(deep.directory)})
    assert Path(f"{deep.log('sleeper')}.old").read_text() == "from before"
