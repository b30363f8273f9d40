"""A user service that takes its time, or never ends an answer: what that may cost a request, a chunk and a task."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from enrichment.caches.base import State
from enrichment.errors import SourceUnavailable
from tests.fixtures.user_api import USERS, MakeApi, MakeServer, asked, honest, outcome, people

pytestmark = pytest.mark.processes


def for_ever(piece: bytes, start: bytes = b"", pause_seconds: float = 0.02) -> Callable[[bytes], Iterator[bytes]]:
    """An answer that never ends, however quick the client is to lose patience."""

    def answer(_request: bytes) -> Iterator[bytes]:
        yield start
        while True:
            yield piece
            time.sleep(pause_seconds)

    return answer


STATUS = b"HTTP/1.1 200 OK\r\n"
ENDLESS = {
    "status line": for_ever(b"x", b"HTTP/1.1 200 "),
    "headers": for_ever(b"x", STATUS + b"X-Header: "),
    "short headers": for_ever(b"a: b\r\n", STATUS),
    "continue": for_ever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "continue, fast": for_ever(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, pause_seconds=0),
    "early hints": for_ever(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "headers of early hints": for_ever(b"a: b\r\n", b"HTTP/1.1 103 Early Hints\r\n"),
    "body": for_ever(b" ", STATUS + b"Content-Length: 9999\r\n\r\n"),
    "body without a length": for_ever(b" ", STATUS + b"\r\n"),
    "chunks": for_ever(b"1\r\n \r\n", STATUS + b"Transfer-Encoding: chunked\r\n\r\n"),
    "chunk size": for_ever(b"0", STATUS + b"Transfer-Encoding: chunked\r\n\r\n"),
    "body of a 404": for_ever(b" ", b"HTTP/1.1 404 Not Found\r\nContent-Length: 9999\r\n\r\n"),
    "nothing": for_ever(b"", pause_seconds=0.1),
}


@pytest.mark.parametrize("users", [USERS, USERS[:1]], ids=["batch", "single"])
@pytest.mark.parametrize("endless", ENDLESS, ids=[name.replace(" ", "-") for name in ENDLESS])
def test_request_ends_in_time_and_opens_the_breaker_when_the_answer_never_ends(
    make_api: MakeApi, make_raw_server: MakeServer, endless: str, users: tuple[str, ...]
) -> None:
    """The timeout is that of the whole request, headers and interim answers included, and counts as a failure."""
    api = make_api(make_raw_server(ENDLESS[endless]).base_url, timeout_sec=0.3, breaker_failures=2)
    started = time.monotonic()
    entries = [outcome(api, users) for _ in range(10)]
    assert time.monotonic() - started < 3
    assert api._breaker.current_state == "open"
    assert {entry.state for each in entries for entry in each.values()} == {State.FAILED}


def test_breaker_opens_within_one_fetch_when_every_answer_drips(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """A chunk of many slices does not wait for each of them: after a few the service is left alone."""
    server = make_raw_server(ENDLESS["headers"])
    api = make_api(server.base_url, timeout_sec=0.3, batch_size=10, concurrency=2, breaker_failures=3)
    started = time.monotonic()
    outcome(api, tuple(people(1_000)))
    assert time.monotonic() - started < 3
    assert len(server.requests) <= 4


def test_task_has_a_time_for_the_api_altogether(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """A service that never fails often enough to be left alone, and never answers quickly either, cannot keep a task
    for ever: what is left of the time bounds each chunk, and then it is not asked any more."""

    def answer(request: bytes) -> Iterator[bytes]:
        time.sleep(0.1)
        yield honest(request)

    server = make_raw_server(answer)
    api = make_api(server.base_url, batch_size=1, concurrency=1, task_timeout_sec=0.5)
    started = time.monotonic()
    states = [{entry.state for entry in outcome(api, tuple(people(50))).values()} for _ in range(4)]
    assert time.monotonic() - started < 2
    assert states == [{State.FOUND, State.FAILED}] + [{State.FAILED}] * 3
    with pytest.raises(SourceUnavailable, match=r"user-lookup-timeout.*USER_SERVICE_TASK_TIMEOUT_SEC=0.5 is used up"):
        api.fetch_many(USERS)
    assert len(server.requests) <= 6


def test_parts_come_while_others_are_waited_for(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """What is answered is handed on at once, so that the next try has it, whatever ends this one."""

    def answer(request: bytes) -> Iterator[bytes]:
        if "user-1" in asked(request):
            time.sleep(1.5)
        yield honest(request)

    api = make_api(make_raw_server(answer).base_url, batch_size=2, concurrency=2)
    parts = [sorted(part) for part in api.fetch_parts(people(6))]
    assert parts[0] != ["user-1", "user-2"]
    assert parts[-1] == ["user-1", "user-2"]
    assert sorted(itertools.chain.from_iterable(parts)) == people(6)


def test_requests_end_when_nobody_waits_for_them(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """A task that is stopped within a fetch is not held up by it."""

    def answer(request: bytes) -> bytes | Iterator[bytes]:
        return honest(request) if "user-1" in asked(request) else ENDLESS["nothing"](request)

    api = make_api(make_raw_server(answer).base_url, timeout_sec=60, batch_size=1)
    parts = api.fetch_parts(USERS)
    assert list(next(iter(parts))) == ["user-1"]
    started = time.monotonic()
    api.close()
    assert time.monotonic() - started < 2
