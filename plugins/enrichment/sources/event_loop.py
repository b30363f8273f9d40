"""An event loop in a thread of its own, for callers that are not async."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cached_property
from typing import Any, TypeVar

T = TypeVar("T")

CLOSING_SECONDS = 10


class BackgroundLoop:
    """Runs coroutines beside the caller, which can meanwhile do other work, such as write earlier answers.

    The thread begins with the first coroutine and ends with `close()`, or with the process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_closed = False

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name=self._name, daemon=True)
        self._thread.start()
        return loop

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine; cancelling the future ends it. Raises `RuntimeError` once the loop was closed."""
        if self._is_closed:
            coroutine.close()
            raise RuntimeError(f"the event loop {self._name} was closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what still runs, run `last`, and end the thread. Raises `TimeoutError` where that takes too long."""
        was_closed, self._is_closed = self._is_closed, True
        if was_closed:
            last.close()
            return
        if "_loop" not in self.__dict__:
            asyncio.run(last)
            return
        asyncio.run_coroutine_threadsafe(_end(last), self._loop).result(CLOSING_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSING_SECONDS)
        self._loop.close()


async def _end(last: Coroutine[Any, Any, None]) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last
