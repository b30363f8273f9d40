"""The client of the user service, against a real HTTP server that can be made to fail and to lie."""

from __future__ import annotations

import logging
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from enrichment.caches.base import Entry, State
from tests.fixtures.raw_server import http
from tests.fixtures.user_api import ABSENT, ACME, FAILED, KNOWN, MakeApi, MakeServer, failure_of, people
from tests.fixtures.user_service import UserServer, UserService

LATE = Entry(State.FAILED, reason="user-lookup-timeout")


# What is answered


def test_profile_when_one_user_is_asked_for(user_service: UserService, make_api: MakeApi) -> None:
    """One user is found with the columns that the pipeline adds."""
    assert make_api(user_service.base_url).fetch_many(["user-123"]) == {"user-123": Entry(State.FOUND, ACME)}


@pytest.mark.parametrize("others", [(), ("user-123",)], ids=["alone", "in a batch"])
def test_absent_when_the_service_does_not_know_the_user(
    user_service: UserService, make_api: MakeApi, others: tuple[str, ...]
) -> None:
    """A user that does not exist is known not to exist, which is no failure."""
    assert make_api(user_service.base_url).fetch_many(["nobody", *others])["nobody"] == ABSENT


def test_every_user_is_answered_once_when_there_are_many(user_service: UserService, make_api: MakeApi) -> None:
    """More users than a request takes are asked for in slices, none twice."""
    api = make_api(user_service.base_url, batch_size=10, concurrency=3)
    users = [*people(36), "user-123"]
    entries = api.fetch_many(users)
    assert list(entries) == users
    assert entries["user-123"].value == ACME
    stats = user_service.stats()
    assert (stats["requests"], stats["users_served"] + stats["not_found"]) == (4, 37)


def test_nothing_is_asked_when_there_are_no_users(make_api: MakeApi) -> None:
    """No keys need no service."""
    assert make_api("http://127.0.0.1:1").fetch_many([]) == {}


@pytest.mark.parametrize("user_id", ["", ".", "..", "a/b", "a?b#c", "ünï", "a b%20c", "../stats"])
def test_odd_user_ids_are_absent(user_service: UserService, make_api: MakeApi, user_id: str) -> None:
    """An id with a meaning in an address asks for nothing else, alone or in a batch."""
    api = make_api(user_service.base_url)
    assert api.fetch_many([user_id]) == {user_id: ABSENT}
    assert api.fetch_many([user_id, "user-123"])[user_id] == ABSENT


@pytest.mark.parametrize("user_id", ["", ".", ".."])
def test_user_is_absent_when_no_address_could_name_it(
    make_api: MakeApi, make_raw_server: MakeServer, user_id: str
) -> None:
    """An id that would turn into the address of something else is not asked for by one; a batch names it."""
    server = make_raw_server(lambda _: http(200, b'{"users": {}, "not_found": ["%s"]}' % user_id.encode()))
    assert make_api(server.base_url, batch_size=1).fetch_many([user_id]) == {user_id: ABSENT}
    assert server.requests == []
    assert make_api(server.base_url).fetch_many([user_id]) == {user_id: ABSENT}
    assert len(server.requests) == 1


def test_requests_at_once_are_bounded(user_service: UserService, make_api: MakeApi) -> None:
    """The service never sees more requests at once than configured, but does see that many."""
    user_service.set_fault(latency_seconds=0.1)
    make_api(user_service.base_url, batch_size=5, concurrency=3).fetch_many(people(40))
    assert user_service.stats()["in_flight_max"] == 3


@pytest.mark.parametrize("status", [404, 405, 501])
def test_users_are_asked_one_by_one_when_there_is_no_batch_endpoint(
    make_api: MakeApi, make_raw_server: MakeServer, status: int
) -> None:
    """A service without the batch endpoint is found out once and then asked singly."""

    def answer(request: bytes) -> bytes:
        if request.startswith(b"POST"):
            return http(status, b"{}")
        user_id = request.split()[1].rsplit(b"/", 1)[1]
        return http(200 if user_id in (b"user-1", b"user-2") else 404, b'{"user_id":"%s"}' % user_id)

    server = make_raw_server(answer)
    api = make_api(server.base_url)
    for _ in range(2):
        entries = api.fetch_many(["user-1", "user-2", "user-3"])
        assert [entry.state for entry in entries.values()] == [State.FOUND, State.FOUND, State.ABSENT]
    assert sum(request.startswith(b"POST") for request in server.requests) == 1


# What goes wrong, and what is tried again


def test_timeout_is_named_when_the_service_is_slow(user_service: UserService, make_api: MakeApi) -> None:
    """A service that does not answer in time has timed out, which is not the same as an error."""
    user_service.set_fault(latency_seconds=2)
    failure = failure_of(make_api(user_service.base_url, timeout_sec=0.05), "user-123")
    assert failure.reason == "user-lookup-timeout"
    assert "/api/users/user-123" in failure.detail


def test_timeout_when_the_answer_only_trickles(user_service: UserService, make_api: MakeApi) -> None:
    """An answer whose bytes come one by one, each in time, still has to be whole within the timeout."""
    user_service.set_fault(answer="drip")
    assert failure_of(make_api(user_service.base_url, timeout_sec=0.2), *KNOWN).reason == "user-lookup-timeout"
    assert user_service.stats()["requests"] == 1


def test_late_users_are_timeouts_when_the_deadline_has_passed(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """However slow the service is, a fetch ends; what was answered until then is kept."""

    def answer(request: bytes) -> bytes:
        if request.startswith(b"POST"):
            return http(404)
        time.sleep(0.05)
        return http(200, b'{"user_id":"%s"}' % request.split()[1].rsplit(b"/", 1)[1])

    base_url = make_raw_server(answer).base_url
    api = make_api(base_url, concurrency=1, timeout_sec=0.3, retry_after_max_sec=0.01)
    entries = api.fetch_many(people(100))
    assert entries["user-1"].state == State.FOUND
    assert entries["user-100"] == LATE


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_request_is_tried_again_when_the_failure_may_pass(
    user_service: UserService, make_api: MakeApi, status: int
) -> None:
    """Some failures pass: the users are found at the third try, for which the pauses double, with jitter."""
    user_service.set_fault(status=status, times=2)
    pauses: list[float] = []
    api = make_api(user_service.base_url, retries=2, backoff_sec=0.2, sleep=pauses.append)
    assert set(api.fetch_many(KNOWN)) == set(KNOWN)
    assert user_service.stats()["requests"] == 3
    assert 0.1 <= pauses[0] <= 0.3
    assert 0.2 <= pauses[1] <= 0.6


def test_request_is_tried_again_when_the_body_breaks_off(user_service: UserService, make_api: MakeApi) -> None:
    """A connection that closes half way through an answer is a failure that may pass."""
    user_service.set_fault(answer="closed", times=1)
    assert make_api(user_service.base_url, retries=1).fetch_many(KNOWN)["user-123"].value == ACME


def test_retries_are_bounded(user_service: UserService, make_api: MakeApi) -> None:
    """A service that keeps failing is asked once and `retries` times more; the error names address and status."""
    user_service.set_fault(status=503)
    failure = failure_of(make_api(user_service.base_url, retries=3), *KNOWN)
    assert failure.reason == "user-service-error"
    assert f"{user_service.base_url}/api/users/batch answered 503" in failure.detail
    assert user_service.stats()["requests"] == 4


def test_retries_end_when_the_next_would_miss_the_deadline(user_service: UserService, make_api: MakeApi) -> None:
    """A pause that leads past the deadline is not begun."""
    user_service.set_fault(status=503)
    pauses: list[float] = []
    api = make_api(
        user_service.base_url, retries=9, backoff_sec=1000, timeout_sec=1, retry_after_max_sec=1, sleep=pauses.append
    )
    failure_of(api, *KNOWN)
    assert pauses == []


@pytest.mark.parametrize("status", [204, 301, 302, 401, 403, 410, 418, 511])
def test_request_is_not_tried_again_when_the_failure_will_stay(
    user_service: UserService, make_api: MakeApi, status: int
) -> None:
    """What the same request will be told again is not asked again."""
    user_service.set_fault(status=status)
    failure = failure_of(make_api(user_service.base_url, retries=3), *KNOWN)
    assert (failure.reason, user_service.stats()["requests"]) == ("user-service-error", 1)
    assert str(status) in failure.detail


def test_retry_after_is_honoured(user_service: UserService, make_api: MakeApi) -> None:
    """A service that names a time is left alone for that time."""
    user_service.set_fault(status=429, retry_after="7", times=1)
    pauses: list[float] = []
    make_api(user_service.base_url, retries=1, sleep=pauses.append).fetch_many(KNOWN)
    assert pauses == [7]


def test_retry_after_really_waits(user_service: UserService, make_api: MakeApi) -> None:
    """The pause is real time."""
    user_service.set_fault(status=429, retry_after="1", times=1)
    started = time.monotonic()
    make_api(user_service.base_url, retries=1, sleep=time.sleep).fetch_many(KNOWN)
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        pytest.param("3600", 2.0, id="too long"),
        pytest.param("Wed, 21 Oct 2099 07:28:00 GMT", 2.0, id="a date far away"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, id="a date gone by"),
        pytest.param("soon", 0.3, id="not a time"),
        pytest.param("9" * 5000, 0.3, id="not a number that is one"),
        pytest.param("-5", 0.3, id="negative"),
    ],
)
def test_retry_after_is_bounded_when_it_is_unreasonable(
    user_service: UserService, make_api: MakeApi, text: str, longest: float
) -> None:
    """An hour is not waited for, and a header that is none leaves the usual pause."""
    user_service.set_fault(status=503, retry_after=text, times=1)
    pauses: list[float] = []
    api = make_api(
        user_service.base_url, retries=1, backoff_sec=0.2, retry_after_max_sec=2, timeout_sec=5, sleep=pauses.append
    )
    assert api.fetch_many(["user-123"])["user-123"].value == ACME
    assert len(pauses) == 1
    assert pauses[0] <= longest
    assert pauses[0] == longest or longest == 0.3


def test_slice_that_fails_costs_its_own_users(
    user_service: UserService, make_api: MakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    """The other slices' users are found, and the log says why those are not."""
    user_service.set_fault(status=500, user_ids=["user-3"])
    api = make_api(user_service.base_url, batch_size=2, concurrency=1)
    with caplog.at_level(logging.WARNING):
        entries = api.fetch_many(people(6))
    assert {user_id for user_id, entry in entries.items() if entry == FAILED} == {"user-3", "user-4"}
    assert "answered 500" in caplog.text


def test_unreachable_service_is_unavailable(make_api: MakeApi) -> None:
    """A port that nobody listens on is a service error that says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        base_url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    failure = failure_of(make_api(base_url), *KNOWN)
    assert failure.reason == "user-service-error"
    assert "refused" in failure.detail


def test_connection_that_closes_without_an_answer_is_a_service_error(
    make_api: MakeApi, make_raw_server: MakeServer
) -> None:
    """Silence is tried again, then named."""
    server = make_raw_server(lambda _: b"")
    assert failure_of(make_api(server.base_url, retries=2), *KNOWN).reason == "user-service-error"
    assert len(server.requests) == 3


# The circuit breaker


def test_breaker_opens_and_closes_again(user_service: UserService, make_api: MakeApi) -> None:
    """After failures in a row the service is left alone; once it is well again, so is the pipeline."""
    user_service.set_fault(status=500)
    api = make_api(user_service.base_url, breaker_failures=2, breaker_reset_sec=0.2, retries=5)
    assert "answered 500" in failure_of(api, *KNOWN).detail
    assert user_service.stats()["requests"] == 2
    refused = failure_of(api, *KNOWN)
    assert (refused.reason, user_service.stats()["requests"]) == ("user-service-error", 2)
    assert "circuit breaker is open" in refused.detail

    user_service.end_fault()
    time.sleep(0.25)
    assert api.fetch_many(KNOWN)["user-123"].value == ACME


def test_failure_that_opens_the_breaker_is_named(user_service: UserService, make_api: MakeApi) -> None:
    """The request that opens the breaker tells what happened to it, not that the breaker is open."""
    user_service.set_fault(latency_seconds=0.5)
    api = make_api(user_service.base_url, breaker_failures=1, timeout_sec=0.05)
    assert failure_of(api, *KNOWN).reason == "user-lookup-timeout"


def test_breaker_does_not_count_what_we_ended_ourselves(user_service: UserService, make_api: MakeApi) -> None:
    """A task that is stopped says nothing against the service."""
    user_service.set_fault(latency_seconds=30)
    api = make_api(user_service.base_url, breaker_failures=1, timeout_sec=20)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(api.fetch_many, KNOWN)
        while user_service.stats()["requests"] == 0:
            time.sleep(0.01)
        api.close()
        assert asking.exception(20) is not None
    assert (api._breaker.fail_counter, api._breaker.current_state) == (0, "closed")


def test_breaker_opens_again_when_the_trial_fails(user_service: UserService, make_api: MakeApi) -> None:
    """When the time is over one failure is enough to leave the service alone again."""
    user_service.set_fault(status=500)
    api = make_api(user_service.base_url, breaker_failures=3, breaker_reset_sec=0.2, retries=5)
    failure_of(api, *KNOWN)
    time.sleep(0.25)
    failure_of(api, *KNOWN)
    failure_of(api, *KNOWN)
    assert user_service.stats()["requests"] == 4


def test_breaker_counts_across_slices(user_service: UserService, make_api: MakeApi) -> None:
    """Many slices against a service that is down cost no more requests than open the breaker, and those under way."""
    user_service.set_fault(status=500)
    failure_of(make_api(user_service.base_url, batch_size=2, concurrency=2, breaker_failures=5), *people(100))
    assert 5 <= user_service.stats()["requests"] <= 6


@pytest.mark.parametrize("fault", [{"status": 429}, {"latency_seconds": 0.0}], ids=["throttled", "absent"])
def test_breaker_stays_closed_when_the_service_is_alive(
    user_service: UserService, make_api: MakeApi, fault: dict[str, Any]
) -> None:
    """A service that asks for a pause, or does not know a user, is not down."""
    user_service.set_fault(**fault, times=4)
    api = make_api(user_service.base_url, breaker_failures=2, retries=4)
    assert api.fetch_many(["nobody"]) == {"nobody": ABSENT}
    assert api.fetch_many(["nobody", "no one"]) == {"nobody": ABSENT, "no one": ABSENT}


# Answers that are malformed or lie


@pytest.mark.parametrize("answer", ["not-json", "wrong-shape", "truncated", "huge"])
@pytest.mark.parametrize("users", [KNOWN, KNOWN[:1]], ids=["batch", "single"])
def test_malformed_answer_is_a_service_error(
    user_service: UserService, make_api: MakeApi, answer: str, users: tuple[str, ...]
) -> None:
    """An answer that is none is named as the service's error."""
    user_service.set_fault(answer=answer)
    api = make_api(user_service.base_url)
    if answer == "wrong-shape" and len(users) == 1:
        assert api.fetch_many(users) == {users[0]: FAILED}  # JSON, but no profile
    else:
        assert failure_of(api, *users).reason == "user-service-error"


@pytest.mark.parametrize("answer", ["wrong-types", "huge-numbers", "empty-profiles", "other-profiles", "missing-users"])
def test_profile_that_lies_costs_one_user(user_service: UserService, make_api: MakeApi, answer: str) -> None:
    """A profile that cannot be true fails its own user; the others are found."""
    user_service.set_fault(answer=answer, user_ids=["user-456"])
    api = make_api(user_service.base_url)
    entries = api.fetch_many(KNOWN)
    assert [entries[user_id].state for user_id in KNOWN] == [State.FOUND, State.FAILED, State.FOUND]
    assert entries["user-456"] == FAILED
    assert api.fetch_many(["user-456"]) == {"user-456": FAILED}


def test_users_never_asked_for_are_ignored(user_service: UserService, make_api: MakeApi) -> None:
    """What nobody asked for gets into no cache."""
    user_service.set_fault(answer="unasked-users")
    assert set(make_api(user_service.base_url).fetch_many(KNOWN)) == set(KNOWN)


def test_connections_are_kept(user_server: UserServer, user_service: UserService, make_api: MakeApi) -> None:
    """Requests, also for users that do not exist, share a connection."""
    app, ports = user_server.app, set()

    async def seen(scope: Scope, receive: Receive, send: Send) -> None:
        ports.add(scope["client"][1])
        await app(scope, receive, send)

    user_server.app = seen  # type: ignore[assignment]
    api = make_api(user_service.base_url)
    for user_id in ("user-123", "nobody", "user-456", "no one"):
        api.fetch_many([user_id])
    assert len(ports) == 1


def test_version_is_that_of_the_service(make_api: MakeApi) -> None:
    """Another address is another service, whose answers are not taken for this one's; a token makes no difference."""
    version = make_api("http://host:80/").version
    assert re.fullmatch("[0-9a-f]{12}", version)
    assert make_api("http://HOST", "token").version == version
    assert len({version, *(make_api(url).version for url in ("https://host", "http://host:81", "http://host/v2"))}) == 4
