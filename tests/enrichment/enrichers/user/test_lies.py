"""What answers in the place of the user service, what the service itself spoils, and how little each may cost."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Callable

import pytest

from enrichment.caches.base import State
from tests.fixtures.raw_server import http
from tests.fixtures.user_api import (
    ABSENT,
    FAILED,
    JSON,
    USERS,
    MakeApi,
    MakeServer,
    asked,
    honest,
    outcome,
    people,
    profile,
)
from tests.fixtures.user_service import UserService

pytestmark = pytest.mark.processes

HTML = "Content-Type: text/html; charset=utf-8"
PAGE = b"<!DOCTYPE html><html><body>user-1 user-2 user-3</body></html>"


# In the place of the service


def raw(head: str, body: bytes = b"") -> bytes:
    """An answer with nothing added."""
    return head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body


PAGES = {
    f"{status} {kind}": http(status, body, *headers)
    for status in (200, 202, 203, 400, 403, 404, 405, 410, 500, 501, 502, 503, 511, 530)
    for kind, body, headers in (
        ("page", PAGE, (HTML,)),
        ("page said to be JSON", PAGE, (JSON,)),
        ("nothing", b"", ()),
        ("empty object", b"{}", (JSON,)),
        ("message", b'{"message":"no Route matched with those values"}', (JSON,)),
        ("detail", b'{"detail":"Not Found"}', (JSON,)),
        ("path", b'{"status":404,"error":"Not Found","path":"/api/users/user-1"}', (JSON,)),
    )
}
ODD = {
    "204": raw("HTTP/1.1 204 No Content"),
    "304": raw("HTTP/1.1 304 Not Modified"),
    **{
        f"{status} to a login page": http(status, PAGE, HTML, "Location: https://login.example.com/?next=/api/users")
        for status in (300, 301, 302, 303, 307, 308)
    },
    "200 null": http(200, b"null", JSON),
    "200 true": http(200, b"true", JSON),
    "200 number": http(200, b"0", JSON),
    "200 text": http(200, b'"user-1"', JSON),
    "200 list": http(200, b'["user-1","user-2","user-3"]', JSON),
    "200 list of objects": http(200, b'[{"user_id":"user-9"}]', JSON),
    "200 error": http(200, b'{"error":"user-not-found"}', JSON),
    "200 GraphQL": http(200, b'{"data":null,"errors":[{"message":"not found"}]}', JSON),
    "200 health": http(200, b'{"status":"ok","population":1000000}', JSON),
    "200 no users": http(200, b'{"users":{}}', JSON),
    "200 no users, empty list": http(200, b'{"users":{},"not_found":[]}', JSON),
    "200 users null": http(200, b'{"users":null,"not_found":["user-1","user-2","user-3"]}', JSON),
    "200 users a list": http(200, b'{"users":[],"not_found":["user-1","user-2","user-3"]}', JSON),
    "200 only a list of the missing": http(200, b'{"not_found":["user-1","user-2","user-3"]}', JSON),
    "200 the missing as text": http(200, b'{"users":{},"not_found":"user-1 user-2 user-3"}', JSON),
    "200 the missing as object": http(200, b'{"users":{},"not_found":{"user-1":1,"user-2":1,"user-3":1}}', JSON),
    "200 other users missing": http(200, b'{"users":{},"not_found":["USER-1","user-1 ","user-9"]}', JSON),
    "200 other users": http(200, b'{"users":{"user-9":{"user_id":"user-9"}}}', JSON),
    "200 profile of another": http(200, b'{"user_id":"user-9","company":"Acme"}', JSON),
    "200 cut off": http(200, b'{"users":{"user-1":{"user_id":"us', JSON),
    "200 two documents": http(200, b'{"users":{}}{"users":{}}', JSON),
    "200 JSON lines": http(200, b'{"user_id":"user-1"}\n{"user_id":"user-2"}\n', JSON),
    "200 guarded": http(200, b')]}\',\n{"users":{},"not_found":["user-1"]}', JSON),
    "200 JSONP": http(200, b'callback({"users":{},"not_found":["user-1"]})', "Content-Type: text/javascript"),
    "200 XML": http(200, b'<?xml version="1.0"?><users/>', "Content-Type: application/xml"),
    "200 YAML": http(200, b"users: {}\nnot_found: [user-1]\n", "Content-Type: application/yaml"),
    "200 single quotes": http(200, b"{'users': {}, 'not_found': ['user-1']}", JSON),
    "200 deep": http(200, b"[" * 100_000, JSON),
    "200 deep object": http(200, b'{"users":' * 50_000, JSON),
    "200 bytes": http(200, bytes(range(256)) * 4, "Content-Type: application/octet-stream"),
    "200 NULs": http(200, b"\0" * 1000, JSON),
    "200 gzip that is none": http(200, b'{"users":{}}', JSON, "Content-Encoding: gzip"),
    "200 gzip cut off": http(200, gzip.compress(b'{"users":{}}' * 99)[:30], JSON, "Content-Encoding: gzip"),
    "200 gzip bomb": http(200, gzip.compress(b" " * 64 * 1024**2), JSON, "Content-Encoding: gzip"),
    "200 deflate bomb": http(200, zlib.compress(b"{" * 64 * 1024**2), JSON, "Content-Encoding: deflate"),
    "200 brotli": http(200, b"\x0b\x02\x80{}\x03", JSON, "Content-Encoding: br"),
    "200 gzip twice": http(
        200, gzip.compress(gzip.compress(b'{"users":{}}')), JSON, "Content-Encoding: gzip, gzip"
    ),
    "200 shorter than said": raw("HTTP/1.1 200 OK\nContent-Length: 100\nConnection: close", b'{"users":{}}'),
    "200 chunked, broken": raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"zz\r\n{}\r\n0\r\n\r\n"),
    "200 chunked, cut off": raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nConnection: close", b"5\r\n{}"),
    "200 two lengths": raw("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3", b"{}"),
    "200 negative length": raw("HTTP/1.1 200 OK\nContent-Length: -1", b"{}"),
    "404 cut off": http(404, b'{"user_id":"user', JSON),
    "404 another user": http(404, b'{"detail":"no such user","user_id":"user-9"}', JSON),
    "404 a list": http(404, b'[{"user_id":"user-1"}]', JSON),
    "404 text with the id": http(404, b'{"detail":"user-1 not found"}', JSON),
    "404 gzip that is none": http(404, b'{"user_id":"user-1"}', JSON, "Content-Encoding: gzip"),
    "404 huge": http(404, b'{"padding":"' + b"x" * 32 * 1024**2 + b'","user_id":"user-1"}', JSON),
    "404 problem": http(404, b'{"title":"Not Found","status":404}', "Content-Type: application/problem+json"),
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/0.9": PAGE,
    "HTTP/2": b"\0\0\x12\x04\0\0\0\0\0" + bytes(18),
    "TLS alert": b"\x15\x03\x01\0\x02\x02\x46",
    "status of letters": b"HTTP/1.1 OK fine\r\n\r\n{}",
    "status 99": raw("HTTP/1.1 099 Early\nContent-Length: 2", b"{}"),
    "status 999": raw("HTTP/1.1 999 Denied\nContent-Length: 2", b"{}"),
    "header of 1 MB": raw("HTTP/1.1 200 OK\nX-Padding: " + "x" * 1024**2 + "\nContent-Length: 2", b"{}"),
    "100,000 headers": raw("HTTP/1.1 200 OK" + "\nX-Padding: x" * 100_000 + "\nContent-Length: 2", b"{}"),
    "switching protocols": raw("HTTP/1.1 101 Switching Protocols\nUpgrade: h2c\nConnection: Upgrade", b"{}"),
    "silence": b"",
}  # fmt: skip
LIES = PAGES | ODD


@pytest.mark.parametrize("users", [USERS, USERS[:1]], ids=["batch", "single"])
@pytest.mark.parametrize("lie", LIES, ids=[name.replace(" ", "-") for name in LIES])
def test_nobody_is_found_or_absent_when_something_else_answers(
    make_api: MakeApi, make_raw_server: MakeServer, lie: str, users: tuple[str, ...]
) -> None:
    """Whatever stands in the service's place, its answers are failures, never a word about a user; after some of them
    the breaker leaves it alone."""
    server = make_raw_server(lambda _: LIES[lie])
    api = make_api(server.base_url, breaker_failures=3, timeout_sec=5, concurrency=1)
    for _ in range(20):
        entries = outcome(api, users)
        assert {entry.state for entry in entries.values()} == {State.FAILED}
        assert {entry.reason for entry in entries.values()} <= {"user-service-error", "user-lookup-timeout"}
        if api._breaker.current_state == "open":
            break
    assert api._breaker.current_state == "open"
    assert len(server.requests) <= 20


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(http(404, PAGE, HTML), id="page"),
        pytest.param(http(405, PAGE, HTML), id="page of another status"),
        pytest.param(http(404, b'{"message":"no Route matched with those values"}', JSON), id="JSON"),
        pytest.param(http(404, b""), id="nothing"),
    ],
)
def test_one_404_of_the_batch_endpoint_costs_no_user(
    make_api: MakeApi, make_raw_server: MakeServer, page: bytes
) -> None:
    """A gateway that says 404 for a moment makes nobody unknown, in whichever way the users are asked for then."""
    answers = itertools.chain([page], itertools.repeat(None))
    server = make_raw_server(lambda request: next(answers) or honest(request))
    entries = make_api(server.base_url, retries=2).fetch_many([*USERS, "nobody"])
    assert [entry.state for entry in entries.values()] == [State.FOUND] * 3 + [State.ABSENT]


def test_page_of_the_batch_endpoint_is_no_reason_to_ask_singly(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """Only JSON says that there is no such endpoint: after a page the service is asked in batches as before."""
    pages = iter([http(404, PAGE, HTML)])
    server = make_raw_server(lambda request: next(pages, None) or honest(request))
    api = make_api(server.base_url)
    assert outcome(api) == dict.fromkeys(USERS, FAILED)
    assert {entry.state for entry in outcome(api).values()} == {State.FOUND}
    assert [request[:4] for request in server.requests] == [b"POST", b"POST"]


def test_gateway_without_routes_is_an_outage(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """404 in JSON for the batch, then a single answer in proof that is none either: nothing is switched or believed."""
    server = make_raw_server(lambda _: http(404, b'{"message":"no Route matched with those values"}', JSON))
    api = make_api(server.base_url, breaker_failures=2)
    assert outcome(api) == outcome(api) == dict.fromkeys(USERS, FAILED)
    assert [request[:4] for request in server.requests] == [b"POST", b"GET ", b"POST", b"GET "]
    assert api._breaker.current_state == "open"


# One user who spoils it for all


SPOILERS = {
    "half a surrogate pair": profile("user-200", '"Ac\\ud800me"'),
    "half a pair, in upper case": profile("user-200", '"Ac\\uDFFFme"'),
    "NaN": profile("user-200", age="NaN"),
    "infinity": profile("user-200", age="-Infinity"),
    "NaN elsewhere": profile("user-200")[:-1] + ',"score":NaN}',
    "9 MB of text": profile("user-200", '"' + "x" * 9 * 1024**2 + '"'),
    "text too long by one": profile("user-200", '"' + "x" * 1_001 + '"'),
    "NUL": profile("user-200", '"A\\u0000B"'),
    "not UTF-8": profile("user-200", '"Timi\udcbaoara"'),
    "quote in a text": profile("user-200", '"Ac"me"'),
    "no value": profile("user-200", ""),
    "comma at the end": profile("user-200")[:-1] + ",}",
    "not closed": profile("user-200")[:-1],
    "deep": profile("user-200", "[" * 20_000 + "]" * 20_000),
    "deep elsewhere": profile("user-200")[:-1] + ',"bio":' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}",
    "an age of 10,000 digits": profile("user-200", age="9" * 10_000),
    "1e400": profile("user-200", age="1e400"),
    "half a day": profile("user-200", age="0.5"),
    "age as text": profile("user-200", age='"365"'),
    "another user": profile("user-201"),
    "a list": "[]",
    "null": "null",
    "text": '"user-200"',
    "id as number": '{"user_id":200}',
    "id twice, another one last": '{"user_id":"user-200","user_id":"user-9"}',
    "empty": "{}",
    "error": '{"error":"shard unavailable"}',
}


@pytest.mark.parametrize("spoiler", SPOILERS, ids=[name.replace(" ", "-") for name in SPOILERS])
def test_profile_that_is_invalid_fails_only_its_own_user(
    make_api: MakeApi, make_raw_server: MakeServer, spoiler: str
) -> None:
    """One profile in 400 cannot be read: 399 users are found, with few requests, and the breaker stays closed."""
    server = make_raw_server(lambda request: honest(request, {"user-200": SPOILERS[spoiler]}))
    api = make_api(server.base_url, breaker_failures=3, timeout_sec=10)
    entries = api.fetch_many(people(400))
    assert entries.pop("user-200") == FAILED
    assert {entry.state for entry in entries.values()} == {State.FOUND}
    assert len(server.requests) <= 19  # 1 + 2 * log2(400)
    assert api._breaker.current_state == "closed"


def test_several_invalid_profiles_in_slices_side_by_side_fail_alone(
    make_api: MakeApi, make_raw_server: MakeServer
) -> None:
    """Such failures are no sign of a service that is down, however many come at once."""
    bad = {f"user-{n}": '{"user_id":"oops"' for n in (7, 60, 107, 160, 207, 260, 307, 360)}
    server = make_raw_server(lambda request: honest(request, bad))
    api = make_api(server.base_url, breaker_failures=3, batch_size=100, retries=1, timeout_sec=10)
    entries = api.fetch_many(people(400))
    assert {user_id for user_id, entry in entries.items() if entry.state is State.FAILED} == set(bad)
    assert api._breaker.current_state == "closed"


def test_requests_are_bounded_when_every_profile_is_invalid(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """A service that never writes JSON is down, which is found out before each of 5,000 users has been asked for."""
    server = make_raw_server(lambda _: http(200, b'{"users":{"user-1":{"company":"A"B"}}}', JSON))
    api = make_api(server.base_url, batch_size=100)
    assert {entry.state for entry in outcome(api, tuple(people(5_000))).values()} == {State.FAILED}
    assert len(server.requests) <= 60
    assert api._breaker.current_state == "open"


@pytest.mark.parametrize("status", [400, 422])
def test_id_that_the_service_refuses_costs_only_itself(
    make_api: MakeApi, make_raw_server: MakeServer, status: int
) -> None:
    """A service that refuses a whole batch for the form of one id is asked for less, down to that id."""

    def answer(request: bytes) -> bytes:
        return http(status, b'{"detail":"bad id"}', JSON) if "user-x" in asked(request) else honest(request)

    server = make_raw_server(answer)
    entries = make_api(server.base_url, breaker_failures=2).fetch_many([*people(40), "user-x"])
    assert [user_id for user_id, entry in entries.items() if entry.state is not State.FOUND] == ["user-x"]


@pytest.mark.parametrize("body", [PAGE, b'{"detail":"30 users at most"}'])
def test_smaller_batches_are_asked_for_when_one_is_too_large(
    make_api: MakeApi, make_raw_server: MakeServer, body: bytes
) -> None:
    """What 413 teaches is kept: later batches begin with the size that was taken."""
    server = make_raw_server(lambda request: http(413, body) if len(asked(request)) > 30 else honest(request))
    api = make_api(server.base_url, batch_size=200, concurrency=1, breaker_failures=2)
    assert {entry.state for entry in api.fetch_many(people(200)).values()} == {State.FOUND}
    refused = sum(len(asked(request)) > 30 for request in server.requests)
    assert refused == 3  # 200, 100, 50
    api.fetch_many(people(200))
    assert sum(len(asked(request)) > 30 for request in server.requests) == refused


@pytest.mark.parametrize(
    "user_id",
    ["a/b", "../stats", "a\\b", "100%", "a?b", "a#b", "a;b", "\x01", "x" * 3_000, "ü" * 900, "user-" + "9" * 9_000],
)
def test_id_that_fits_no_address_is_asked_for_in_a_body(
    make_api: MakeApi, make_raw_server: MakeServer, user_id: str
) -> None:
    """Servers and gateways make something else of such an address, or answer 400, 414 or 431."""

    def answer(request: bytes) -> bytes:
        return http(414, PAGE, HTML) if request.startswith(b"GET") else honest(request)

    [entry] = make_api(make_raw_server(answer).base_url).fetch_many([user_id]).values()
    assert entry.state is (State.FOUND if user_id.startswith("user-") else State.ABSENT)


@pytest.mark.parametrize("status", [400, 404, 414, 431])
def test_odd_id_costs_only_itself_when_there_is_no_batch_endpoint(
    make_api: MakeApi, make_raw_server: MakeServer, status: int
) -> None:
    """Then it can only be asked for by its address: a page in answer is its own failure, not the service's."""
    odd = ("a/b", "x" * 3_000, "y" * 9_000)

    def answer(request: bytes) -> bytes:
        return http(status, PAGE, HTML) if not asked(request)[0].startswith("user-") else honest(request)

    api = make_api(make_raw_server(answer).base_url, batch_size=1, breaker_failures=1)
    entries = api.fetch_many([*odd, *USERS])
    assert [entries[user_id].state for user_id in USERS] == [State.FOUND] * 3
    assert [entries[user_id] for user_id in odd] == [FAILED] * 3


def test_id_that_cannot_be_written_is_absent(user_service: UserService, make_api: MakeApi) -> None:
    """Half of a surrogate pair has no form in UTF-8, so no service has such a user; others are asked for."""
    entries = make_api(user_service.base_url).fetch_many(["user-\ud800", "user-123"])
    assert entries["user-\ud800"] == ABSENT
    assert entries["user-123"].state is State.FOUND


@pytest.mark.parametrize(
    "early",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
    ],
)
@pytest.mark.parametrize("users", [USERS, USERS[:1]], ids=["batch", "single"])
def test_interim_answers_are_passed_over(
    make_api: MakeApi, make_raw_server: MakeServer, early: bytes, users: tuple[str, ...]
) -> None:
    """What a proxy says before the answer is not the answer."""
    entries = make_api(make_raw_server(lambda request: early + honest(request)).base_url).fetch_many(users)
    assert {entry.state for entry in entries.values()} == {State.FOUND}


def headless(body: bytes) -> bytes:
    """Deflate as some servers understand it."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


def members(body: bytes) -> bytes:
    """Gzip as a server writes it that packs each part of an answer by itself."""
    return b"".join(gzip.compress(body[start : start + 1000]) for start in range(0, len(body), 1000))


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("gzip", members), ("deflate", zlib.compress), ("deflate", headless)],
)
def test_compressed_answers_are_read(
    make_api: MakeApi, make_raw_server: MakeServer, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    """As they were asked for."""

    def answer(request: bytes) -> bytes:
        body = encode(honest(request).partition(b"\r\n\r\n")[2])
        return http(200, body, JSON, f"Content-Encoding: {encoding}")

    entries = make_api(make_raw_server(answer).base_url).fetch_many(people(50))
    assert {entry.state for entry in entries.values()} == {State.FOUND}


@pytest.mark.parametrize(
    "place", ["http://xn--/", "http://xn--a\u00fc/", "http://[::1", "//:99999", "http://h:abc/", "\x7f"]
)
def test_redirect_to_no_address_is_a_failure_of_the_service(
    make_api: MakeApi, make_raw_server: MakeServer, place: str
) -> None:
    """Nobody follows it, but the HTTP client reads it all the same."""
    api = make_api(make_raw_server(lambda _: http(302, b"", f"Location: {place}")).base_url)
    assert outcome(api) == dict.fromkeys(USERS, FAILED)
