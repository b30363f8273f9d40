"""Reading of topics for the page: two scans at a time in an API server, and none for a browser that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import BoundedSemaphore, Event
from typing import TypeVar

from fastapi import HTTPException, Request

Result = TypeVar("Result")

AT_ONCE = 2
PATIENCE_SECONDS = 4.0  # for another one to end, which takes two seconds or three
LOOK_SECONDS = 0.2
REFUSED = f"{AT_ONCE} people read topics at the moment, and more would slow the brokers: try again in a few seconds"


class Slots:
    """Runs what reads topics, `AT_ONCE` at a time."""

    def __init__(self, at_once: int = AT_ONCE, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._slots = BoundedSemaphore(at_once)
        self._patience = patience_seconds

    async def run(self, request: Request, work: Callable[[Callable[[], bool]], Result]) -> Result:
        """Run the work in a thread; it gets a function that tells whether nobody waits for its result any more.

        Raises what it raises, and `HTTPException` where all slots stay taken.
        """
        stopped = Event()
        running = asyncio.ensure_future(asyncio.to_thread(self._run, work, stopped))
        try:
            while not (await asyncio.wait({running}, timeout=LOOK_SECONDS))[0]:
                if await request.is_disconnected():
                    stopped.set()
            return running.result()
        finally:
            stopped.set()

    def _run(self, work: Callable[[Callable[[], bool]], Result], stopped: Event) -> Result:
        if not self._slots.acquire(timeout=self._patience):
            raise HTTPException(429, REFUSED)
        try:
            return work(stopped.is_set)
        finally:
            self._slots.release()
