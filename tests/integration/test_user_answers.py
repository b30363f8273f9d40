"""What the user service answers, or something else in its place, from HTTP to topic, table and repair."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import psycopg
import pytest

from enrichment.enrichers.user import USER
from enrichment.store.breakers import PostgresBreakerStorage
from tests.fixtures.partials import QUICK, publish_all, repair_all, states, value, versions
from tests.fixtures.pipeline import MakePipeline, Pipeline, message
from tests.fixtures.raw_server import http
from tests.fixtures.user_api import MakeServer
from tests.fixtures.user_service import UserService

PAGE = http(404, b"<html>404 Not Found</html>", "Content-Type: text/html")


def cached(pipeline: Pipeline, state: str) -> int:
    """How many users the table knows in this state."""
    with psycopg.connect(pipeline.dsn) as connection:
        [[count]] = connection.execute("SELECT count(*) FROM user_profile_cache WHERE state = %s", [state]).fetchall()
    return int(count)


def test_gateway_that_says_404_makes_nobody_unknown(
    make_pipeline: MakePipeline, make_raw_server: MakeServer, user_service: UserService
) -> None:
    """A gateway without its service answers each request with a page: an outage, even where users are required. No
    message is dead, nothing is cached, the breaker opens, and all is repaired once the service is back."""
    gateway = make_raw_server(lambda _: PAGE)
    pipeline = make_pipeline(**QUICK, ENRICHMENT_REQUIRED_SOURCES="user-profile", USER_SERVICE_BREAKER_RESET_SEC="0.1")
    pipeline.user_service_url = gateway.base_url
    pipeline.produce([message(n) for n in range(300)])
    [batch] = publish_all(pipeline, "gateway")
    report = pipeline.check()
    assert report.ok, report.summary()
    assert (report.partial, report.dead) == (300, 0)
    assert report.partial_errors["user-service-error"] == 300
    assert cached(pipeline, "absent") == 0
    assert states(pipeline) == [("user-profile", "open", 300, 0, 0)]
    with psycopg.connect(pipeline.dsn) as connection:
        breaker = PostgresBreakerStorage(lambda: connection, f"user-profile {gateway.base_url}")
        assert breaker.counter >= 1
    pipeline.user_service_url = user_service.base_url
    assert repair_all(pipeline, batch) == [True]
    assert {len(v) for v in versions(pipeline, batch).values()} == {2}


def test_stale_absence_is_marked_pending_and_repaired(quick: Pipeline, user_service: UserService) -> None:
    """A user who did not exist 23 hours ago may have signed up since: while nobody can be asked the message says so,
    marked, and is corrected afterwards."""
    quick.produce([message(n, user_id="user-new") for n in range(20)])
    publish_all(quick, "before")
    with psycopg.connect(quick.dsn) as connection:
        changed = connection.execute(
            "UPDATE user_profile_cache SET expires_at = now() - interval '23 h', fetched_at = now() - interval '24 h'"
        )
        assert changed.rowcount == 1
    user_service.set_fault(status=503)
    quick.produce([message(n, user_id="user-new") for n in range(20)])
    [batch] = publish_all(quick, "down")
    for [first] in versions(quick, batch).values():
        published = value(first)
        assert "user-not-found" in published["enrichment_errors"]
        assert published["enrichment_stale"] == ["user-profile"]
        assert "user-profile" not in published["enrichment_sources"]
    assert states(quick) == [("user-profile", "open", 20, 0, 0)]
    user_service.end_fault()
    assert repair_all(quick, batch) == [True]
    for _, corrected in versions(quick, batch).values():
        assert "user-not-found" in value(corrected)["enrichment_errors"]
        assert value(corrected)["enrichment_stale"] is None
    report = quick.check()
    assert report.ok, report.summary()


def test_profiles_of_another_address_are_not_served(
    quick: Pipeline, make_raw_server: MakeServer, user_service: UserService
) -> None:
    """Another base URL is another service: what the old one said is neither served nor, in an outage, stale; and rows
    of before there was a version are asked for again."""
    quick.produce([message(n) for n in range(20)])
    publish_all(quick, "one")
    before = user_service.stats()["requests"]
    with psycopg.connect(quick.dsn) as connection:
        connection.execute("UPDATE user_profile_cache SET version = '' WHERE user_id = 'user-1'")
    quick.produce([message(1)])
    publish_all(quick, "unversioned")
    assert user_service.stats()["requests"] == before + 1
    quick.user_service_url = make_raw_server(lambda _: http(503)).base_url
    quick.produce([message(n) for n in range(20)])
    [batch] = publish_all(quick, "other")
    errors = {tuple(value(v)["enrichment_errors"]) for [v] in versions(quick, batch).values()}
    assert all("user-service-error" in each for each in errors)


def test_answers_are_kept_as_they_come(make_pipeline: MakePipeline, make_raw_server: MakeServer) -> None:
    """A task that is stopped while it waits for the slowest request leaves its next try what it was told by then."""

    def answer(request: bytes) -> Iterator[bytes]:
        ids = json.loads(request[request.index(b'{"user_ids"') :])["user_ids"]
        while "user-1" in ids:
            yield b""
            time.sleep(0.1)
        yield http(200, json.dumps({"users": {i: {"user_id": i} for i in ids}, "not_found": []}).encode())

    pipeline = make_pipeline(**QUICK, USER_SERVICE_BATCH_SIZE="5", USER_SERVICE_TIMEOUT_SEC="3")
    pipeline.user_service_url = make_raw_server(answer).base_url
    with pipeline.resources() as r:
        lookup = r.enricher(USER)._lookup
        users = [f"user-{n}" for n in range(1, 41)]
        source = lookup._source  # type: ignore[attr-defined]
        seen = []

        def watched(keys: list[str]) -> Iterator[object]:
            for part in type(source).fetch_parts(source, keys):
                seen.append(cached(pipeline, "found"))
                yield part

        source.fetch_parts = watched
        states_ = [answer.entry.state.value for answer in lookup.answer_many(users)]
    assert states_ == ["failed"] * 5 + ["found"] * 35
    assert seen[-1] == 35


@pytest.mark.parametrize("pieces", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_service_that_never_answers_holds_up_no_batch(
    make_pipeline: MakePipeline, make_raw_server: MakeServer, pieces: bytes
) -> None:
    """Interim answers without an end, for each of four chunks: the breaker opens, for all tasks, and the batch is out
    in time."""

    def answer(_request: bytes) -> Iterator[bytes]:
        while True:
            yield pieces
            time.sleep(0.02)

    quick = {"USER_SERVICE_BATCH_SIZE": "5", "USER_SERVICE_TIMEOUT_SEC": "0.5", "USER_SERVICE_BREAKER_FAILURES": "3"}
    pipeline = make_pipeline(**QUICK | quick)
    pipeline.user_service_url = make_raw_server(answer).base_url
    pipeline.produce([message(n, user_id=f"user-{n}") for n in range(200)])
    started = time.monotonic()
    publish_all(pipeline, "endless")
    assert time.monotonic() - started < 20
    assert states(pipeline) == [("user-profile", "open", 200, 0, 0)]
    with psycopg.connect(pipeline.dsn) as connection:
        breaker = PostgresBreakerStorage(lambda: connection, f"user-profile {pipeline.user_service_url}")
        assert breaker.state == "open"
