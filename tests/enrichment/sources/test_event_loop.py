"""Coroutines beside a caller that is not async."""

from __future__ import annotations

import asyncio
import threading

import pytest

from enrichment.sources.event_loop import BackgroundLoop


async def nothing() -> None:
    """What is run last."""


def test_result_and_exception_come_back_from_another_thread() -> None:
    """The caller waits for a future as for any other, and the thread ends with `close`."""

    async def name() -> str:
        return threading.current_thread().name

    async def failing() -> None:
        raise ValueError("no")

    loop = BackgroundLoop("beside")
    assert loop.start(name()).result(5) == "beside"
    with pytest.raises(ValueError, match="no"):
        loop.start(failing()).result(5)
    loop.close(nothing())
    assert "beside" not in {thread.name for thread in threading.enumerate()}


def test_close_ends_what_still_runs_and_runs_the_last_thing() -> None:
    """Nobody waits for a request that hangs; what must be closed is closed after it."""
    done: list[str] = []

    async def hanging() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            done.append("hanging")

    async def last() -> None:
        done.append("last")

    loop = BackgroundLoop("beside")
    running, started = loop.start(hanging()), loop.start(nothing())
    started.result(5)
    loop.close(last())
    assert running.cancelled()
    assert done == ["hanging", "last"]


@pytest.mark.parametrize("used", [False, True])
def test_nothing_is_started_once_it_was_closed(used: bool) -> None:
    """A thread that is still at work when its task has ended gets no other loop."""
    loop = BackgroundLoop("beside")
    if used:
        loop.start(nothing()).result(5)
    loop.close(nothing())
    with pytest.raises(RuntimeError, match="was closed"):
        loop.start(nothing())
    assert "beside" not in {thread.name for thread in threading.enumerate()}


def test_nothing_is_started_for_a_caller_that_never_needs_it() -> None:
    """A task whose caches know all users has no thread; closing works all the same, and twice."""
    before = threading.active_count()
    loop = BackgroundLoop("beside")
    assert threading.active_count() == before
    loop.close(nothing())
    loop.close(nothing())
