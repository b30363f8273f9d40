"""Processes that outlive their supervisor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from include.local import leftovers
from include.local.config import MARKER, ROOT

SAY_AND_SLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SAY_AND_SLEEP}"
# What Airflow does: a child in a process group of its own, whose environment is gone, and whose parent then ends.
ORPHAN = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SAY_AND_SLEEP!r}], env={{}}, process_group=0)"
)


@contextmanager
def started(program: str, *, marker: str, new_session: bool = False) -> Iterator[psutil.Process]:
    """The process that a program names by printing its id; it is ended whatever the test finds."""
    command = [sys.executable, "-c", program]
    environ = {**os.environ, MARKER: marker}
    group = None if new_session else 0
    with subprocess.Popen(
        command,
        env=environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=new_session,
        process_group=group,
    ) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        try:
            yield process
        finally:
            if process.is_running():
                process.kill()
            parent.kill()


@pytest.mark.parametrize("program", [SAY_AND_SLEEP, STUBBORN], ids=["obedient", "ignoring-sigterm"])
def test_end_when_a_child_is_in_its_own_group(tmp_path: Path, program: str) -> None:
    """A marked process is ended though it left its parent's process group, by force if it must be."""
    with started(program, marker=str(tmp_path)) as process:
        assert leftovers.find(tmp_path, tmp_path / "session") == [process]
        assert leftovers.end(tmp_path, tmp_path / "session", grace_seconds=0.5) == 1
        assert leftovers.find(tmp_path, tmp_path / "session") == []


def test_end_when_the_environment_was_overwritten(tmp_path: Path) -> None:
    """A process without marker and parent is found by the session that its supervisor opened."""
    session_file = tmp_path / "session"
    with started(ORPHAN, marker=str(tmp_path), new_session=True) as process:
        session_file.write_text(str(os.getsid(process.pid)))
        assert leftovers.end(tmp_path, session_file) == 1
        assert not session_file.exists()


def test_find_when_the_session_number_is_used_again(tmp_path: Path) -> None:
    """A session whose leader is not ours is left alone, though its number is the one that we remember."""
    session_file = tmp_path / "session"
    with started(SAY_AND_SLEEP, marker="another", new_session=True) as process:
        session_file.write_text(str(process.pid))
        assert leftovers.find(tmp_path, session_file) == []


def test_find_when_the_stack_is_another(tmp_path: Path) -> None:
    """Processes of another stack on the same machine are left alone."""
    with started(SAY_AND_SLEEP, marker=str(tmp_path / "other")):
        assert leftovers.find(tmp_path, tmp_path / "session") == []
