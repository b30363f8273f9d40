"""Reading of topics for the page, by a process of its own: the API server's also answers the tasks. Two pieces of work
at a time, and none for a browser that has gone."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from pickle import PicklingError
from threading import Event, Lock, Thread

from fastapi import HTTPException, Request

import enrichment
from enrichment.errors import SettingsError
from enrichment.inspection.asked import Answered, Given, Question, Stop, Wanted, Work
from enrichment.resources import Resources

log = logging.getLogger(__name__)

INSPECTION = f"{enrichment.__name__}.inspection"
AT_ONCE = 2
PATIENCE_SECONDS = 4.0  # for another one to end, which takes two seconds or three
LOOK_SECONDS = 0.2
IDLE_SECONDS = 300.0
REFUSED = (
    f"topics are read for others at the moment, and more than {AT_ONCE} at a time would slow the brokers: try again in "
    "a few seconds"
)
ENDED = "the process that reads topics has ended in the middle of this, the API server's log may say why: try again"
# For little memory: no allocator that keeps what it had once, no threads of numpy's.
SMALL = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": "4194304", "OPENBLAS_NUM_THREADS": "1"}


class ReadingProcess:
    """`python -m enrichment.inspection`, and the ends of its sockets that are ours: one for each piece of work."""

    def __init__(self, at_once: int) -> None:
        pairs = [multiprocessing.Pipe() for _ in range(at_once)]
        theirs = [there.fileno() for _, there in pairs]
        modules = os.pathsep.join([str(Path(enrichment.__file__).resolve().parents[1]), *filter(None, sys.path)])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", INSPECTION, *map(str, theirs)],
            env={**os.environ, **SMALL, "PYTHONPATH": modules}, pass_fds=theirs,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for _, there in pairs:
            there.close()
        self.pid = self._process.pid
        self.free = [here for here, _ in pairs]
        self.busy = 0
        self.used_at = time.monotonic()

    @property
    def exit_code(self) -> int | None:
        """What it has ended with, below 0 for a signal; None while it runs."""
        return self._process.poll()

    def end(self) -> int:
        """End it, whatever it does, and return its exit code."""
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.wait()


class Scans:
    """Has topics read: `at_once` pieces of work at a time, by a process that is started when it is first needed, and
    again when it has ended; it is ended when nothing was asked of it for a while."""

    def __init__(
        self, open_resources: Callable[[], Resources], at_once: int = AT_ONCE,
        patience_seconds: float = PATIENCE_SECONDS, idle_seconds: float = IDLE_SECONDS,
    ) -> None:  # fmt: skip
        self._open_resources = open_resources
        self._at_once = at_once
        self._patience = patience_seconds
        self._idle = idle_seconds
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="scans")
        self._process: ReadingProcess | None = None

    async def run(self, work: Work, request: Request | None = None) -> bytes:
        """The JSON for a browser; the work is given up when it has gone.

        Raises `HTTPException` where there is nothing to show, something does not answer, others do not come to an end,
        or the process dies.
        """
        stopped, asked_at = Event(), time.monotonic()
        working = self._threads.submit(self._work, work, stopped)
        waiting = asyncio.wrap_future(working)
        try:
            while not (await asyncio.wait({waiting}, timeout=min(LOOK_SECONDS, self._patience)))[0]:
                if request is not None and await request.is_disconnected():
                    stopped.set()
                is_late = time.monotonic() - asked_at > self._patience
                if (stopped.is_set() or is_late) and working.cancel():  # it was still in the queue
                    raise HTTPException(429, REFUSED)
            answer = waiting.result()
        finally:
            stopped.set()
            working.cancel()
        if answer.status != 200:
            if answer.status == 503:
                log.warning("page.not_answered work=%s error=%s", type(work).__name__, answer.body.decode())
            raise HTTPException(answer.status, answer.body.decode(), {"Cache-Control": "no-store"})
        return answer.body

    def start(self) -> None:
        """Have the process ready, for somebody who is about to ask."""
        with self._lock:
            self._running().used_at = time.monotonic()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end()

    def _work(self, work: Work, stopped: Event) -> Answered:
        with self._open_resources() as r:
            process, connection = self._take()
            try:
                answer, failed = _converse(connection, Question(work, r.settings), r, stopped)
            except (EOFError, OSError):
                code = process.end()
                log.warning("page.scans_ended work=%s exit_code=%d", type(work).__name__, code)
                raise HTTPException(503, ENDED) from None
            finally:
                self._release(process, connection)
        if failed is not None:
            raise failed
        return answer

    def _take(self) -> tuple[ReadingProcess, Connection]:
        """A connection that nobody uses: there are as many as threads."""
        with self._lock:
            process = self._running()
            process.busy += 1
            return process, process.free.pop()

    def _running(self) -> ReadingProcess:
        if self._process is None or self._process.exit_code is not None:
            self._process = ReadingProcess(self._at_once)
            Thread(target=self._end_when_idle, args=(self._process,), daemon=True, name="scans-idle").start()
        return self._process

    def _release(self, process: ReadingProcess, connection: Connection) -> None:
        with self._lock:
            process.free.append(connection)
            process.busy -= 1
            process.used_at = time.monotonic()

    def _end_when_idle(self, process: ReadingProcess) -> None:
        left = self._idle
        while left > 0:
            time.sleep(left)
            with self._lock:
                left = self._idle if process.busy else process.used_at + self._idle - time.monotonic()
                if left <= 0 and self._process is process:
                    self._process = None
        process.end()


def _converse(
    connection: Connection, question: Question, r: Resources, stopped: Event
) -> tuple[Answered, Exception | None]:
    """Ask, give what is wanted meanwhile, and pass it on when nobody waits any more; returns the answer, and with what
    something unforeseen has failed here. Raises `EOFError` or `OSError` when the other side has gone."""
    failed: Exception | None = None
    is_told = False
    connection.send(question)
    while True:
        while not connection.poll(LOOK_SECONDS):
            if stopped.is_set() and not is_told:
                connection.send(Stop())
                is_told = True
        said = connection.recv()
        if isinstance(said, Answered):
            return said, failed
        try:
            given = _given(r, said)
        except Exception as unforeseen:  # noqa: BLE001  raised when the other side has ended its work
            given, failed = Given(None, str(unforeseen)), unforeseen
        try:
            connection.send(given)
        except (PicklingError, AttributeError, TypeError) as kept:
            connection.send(Given(None, f"{said.name} of its connection cannot be handed to another process: {kept}"))


def _given(r: Resources, wanted: Wanted) -> Given:
    try:
        return Given(getattr(r, wanted.name)(*wanted.arguments))
    except SettingsError as wrong:
        return Given(None, str(wrong))
