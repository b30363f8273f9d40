"""Find and end processes of the stack that outlived their supervisor.

Airflow runs each task in a process group of its own, so signals to its components do not reach it; and a process that
sets its title, as Airflow's do, overwrites its environment, so the marker in there is not enough. What they all keep,
even when their parents are gone, is the session that supervisord opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from include.local.config import MARKER, ROOT
from include.local.errors import StackError

ROUNDS = 3


def find(directory: Path, session_file: Path) -> list[psutil.Process]:
    """Processes that belong to the stack in `directory`, with their children; never ourselves or who started us."""
    session = _session(directory, session_file)
    found: set[psutil.Process] = set()
    for process in psutil.process_iter(["environ", "cwd", "status"]):
        is_dead = process.info["status"] == psutil.STATUS_ZOMBIE
        if not is_dead and (_is_marked(process, directory) or _is_in_session(process, session)):
            with suppress(psutil.NoSuchProcess):
                found |= {process, *process.children(recursive=True)}
    ourselves = psutil.Process()
    return sorted(found - {ourselves, *ourselves.parents()}, key=lambda process: process.pid)


def end(directory: Path, session_file: Path, grace_seconds: float = 3) -> int:
    """End them all: SIGTERM, then SIGKILL. Returns how many there were; raises `StackError` if one cannot be ended."""
    ended = 0
    for _ in range(ROUNDS):  # a process that is being ended can still have started another
        processes = find(directory, session_file)
        if not processes:
            session_file.unlink(missing_ok=True)
            return ended
        ended += len(processes)
        _signal(processes, psutil.Process.terminate)
        _, alive = psutil.wait_procs(processes, timeout=grace_seconds)
        _signal(alive, psutil.Process.kill)
        psutil.wait_procs(alive, timeout=grace_seconds)
    raise StackError(f"processes that could not be ended: {', '.join(str(p.pid) for p in processes)}")


def _signal(processes: list[psutil.Process], send: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            send(process)


def _session(directory: Path, session_file: Path) -> int | None:
    """The recorded session, unless its number has gone to a process that is not ours."""
    if not session_file.exists():
        return None
    session = int(session_file.read_text())
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(session)
        if leader.environ().get(MARKER) != str(directory):
            return None
    return session


def _is_marked(process: psutil.Process, directory: Path) -> bool:
    return bool((process.info["environ"] or {}).get(MARKER) == str(directory))


def _is_in_session(process: psutil.Process, session: int | None) -> bool:
    # The working directory guards against a session number that was used again after the machine was started anew.
    if session is None or process.info["cwd"] != str(ROOT):
        return False
    with suppress(ProcessLookupError):
        return os.getsid(process.pid) == session
    return False
