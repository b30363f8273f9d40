"""How long a component that is being started is waited for: while it makes progress, and not for ever.

A busy machine makes every component slow, and a slow one is not dead. What writes to its log or uses the processor goes
on; what does neither is stuck.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from include.local.config import START_TIMEOUT
from include.local.errors import StackError, tail

QUIET_SECONDS = 60.0  # without a sign of life
WORK_SECONDS = 0.2  # of processor time: what an idle process does not use up in a minute, and a starting one does
SAY_EVERY_SECONDS = 30.0
SAID_CHARACTERS = 120


class Patience:
    """The waiting for one component. `say` is told now and then what is waited for, and what its log said last."""

    def __init__(
        self,
        name: str,
        log: Path,
        limit_seconds: float,
        say: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._log = log
        self._limit = limit_seconds
        self._say = say
        self._clock = clock
        self._began = self._moved_at = self._said_at = clock()
        self._written, self._worked = 0, 0.0

    def wait(self, pid: int) -> None:
        """Look at the component, whose process is `pid`. Raises `StackError` when it is not worth waiting longer."""
        now = self._clock()
        written, worked = self._log.stat().st_size if self._log.exists() else 0, processor_seconds(pid)
        if written != self._written or abs(worked - self._worked) >= WORK_SECONDS:
            self._written, self._worked, self._moved_at = written, worked, now
        waited, quiet = now - self._began, now - self._moved_at
        if waited > self._limit:
            raise StackError(
                f"{self._name} was not ready after {waited:.0f} s, though it was at work; {START_TIMEOUT}=... allows "
                f"more. Its log is {self._log}\n{tail(self._log)}"
            )
        if quiet > QUIET_SECONDS:
            raise StackError(
                f"{self._name} is not ready and has done nothing for {quiet:.0f} s; its log is {self._log}\n"
                f"{tail(self._log)}"
            )
        if now - self._said_at >= SAY_EVERY_SECONDS:
            self._said_at = now
            last = tail(self._log, 1).strip()[:SAID_CHARACTERS]
            self._say(f"still waiting for {self._name} ({waited:.0f} s); its log: {last}")


def processor_seconds(pid: int) -> float:
    """What a process and its children have used of the processor so far; 0 where there is none."""
    seconds = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                times = each.cpu_times()
                seconds += times.user + times.system
    return seconds
