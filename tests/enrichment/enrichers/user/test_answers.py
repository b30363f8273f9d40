"""What is believed of the user service's answers."""

from __future__ import annotations

import pytest

from enrichment.caches.base import Entry, State
from enrichment.enrichers.user import Profile
from enrichment.enrichers.user.answers import (
    ABSENT,
    FAILED,
    Unreadable,
    is_about,
    read_absence,
    read_batch,
    read_profile,
)


def found(*values: object) -> Entry:
    return Entry(State.FOUND, Profile(*values))  # type: ignore[arg-type]


CASES = [
    pytest.param(b'"subscription_tier":"free","account_age_days":0,"company":"A"', found("free", 0, "A"), id="whole"),
    pytest.param(b'"subscription_tier":null,"account_age_days":null,"company":null', found(), id="nulls"),
    pytest.param(b'"region":"eu","score":1e999', found(), id="fields missing and unknown"),
    pytest.param(b'"subscription_tier":"","company":""', found(), id="empty text"),
    pytest.param('"company":"Zoë & Söhne 🏭"'.encode(), found(None, None, "Zoë & Söhne 🏭"), id="any script"),
    pytest.param(b'"account_age_days":2147483647', found(None, 2147483647), id="oldest"),
    pytest.param(b'"account_age_days":2147483648', FAILED, id="older than PostgreSQL can count"),
    pytest.param(b'"account_age_days":1' + b"0" * 40, FAILED, id="beyond 64 bits"),
    pytest.param(b'"account_age_days":-1', FAILED, id="negative"),
    pytest.param(b'"account_age_days":365.0', found(None, 365), id="whole number with a point"),
    pytest.param(b'"account_age_days":3.65e2', found(None, 365), id="whole number with an exponent"),
    pytest.param(b'"account_age_days":-0.0', found(None, 0), id="minus nothing"),
    pytest.param(b'"account_age_days":365.5', FAILED, id="half a day"),
    pytest.param(b'"account_age_days":1e400', FAILED, id="beyond any float"),
    pytest.param(b'"account_age_days":2147483648.0', FAILED, id="older than PostgreSQL can count, with a point"),
    pytest.param(b'"account_age_days":NaN', FAILED, id="NaN"),
    pytest.param(b'"account_age_days":-Infinity', FAILED, id="infinity"),
    pytest.param(b'"score":NaN', FAILED, id="NaN in a field that nobody reads"),
    pytest.param(b'"company":"Ac\\ud800me"', FAILED, id="half a surrogate pair"),
    pytest.param(b'"bio":"\\udfff"', FAILED, id="half a pair in a field that nobody reads"),
    pytest.param(b'"company":"\\ud83c\\udfed"', found(None, None, "\U0001f3ed"), id="whole pair"),
    pytest.param(b'"score":' + b"9" * 5_000, found(), id="a number of 5,000 digits that nobody reads"),
    pytest.param(b'"account_age_days":' + b"9" * 5_000, FAILED, id="an age of 5,000 digits"),
    pytest.param(b'"company":"A","company":"B"', found(None, None, "B"), id="key twice"),
    pytest.param(b'"account_age_days":true', FAILED, id="bool"),
    pytest.param(b'"account_age_days":"365"', FAILED, id="number as text"),
    pytest.param(b'"company":"A\\u0000B"', FAILED, id="NUL"),
    pytest.param(b'"company":"' + b"x" * 1001 + b'"', FAILED, id="long text"),
    pytest.param(b'"company":"\xff"', FAILED, id="not UTF-8"),
    pytest.param(b'"user_id":"user-2"', FAILED, id="somebody else"),
]


@pytest.mark.parametrize(("fields", "entry"), CASES)
def test_profile_is_believed_or_not(fields: bytes, entry: Entry) -> None:
    """A profile is read the same alone and in a batch, and one that cannot be true spoils no other."""
    profile = b'{"user_id":"user-1",' + fields + b"}"
    assert read_profile(profile, "user-1") == entry
    batch = b'{"users":{"user-1":' + profile + b',"user-9":{"user_id":"user-9"}}}'
    assert read_batch(batch, ["user-1", "user-9"]) == {"user-1": entry, "user-9": found()}


@pytest.mark.parametrize("profile", [b"null", b"[]", b"{}", b'"user-1"'])
def test_profile_is_not_believed_when_it_names_nobody(profile: bytes) -> None:
    """A profile without the id that was asked for is none."""
    assert read_profile(profile, "user-1") == FAILED
    assert read_batch(b'{"users":{"user-1":' + profile + b"}}", ["user-1"]) == {"user-1": FAILED}


def test_absence_needs_a_word() -> None:
    """Only a user that the answer names as unknown is absent; one that it forgets has failed."""
    entries = read_batch(b'{"users":{},"not_found":["user-1","user-3"]}', ["user-1", "user-2"])
    assert entries == {"user-1": ABSENT, "user-2": FAILED}


def test_profile_is_believed_when_the_user_is_also_named_unknown() -> None:
    """An answer that contradicts itself about a user is taken at its better word."""
    body = b'{"users":{"user-1":{"user_id":"user-1"}},"not_found":["user-1"]}'
    assert read_batch(body, ["user-1"]) == {"user-1": found()}


@pytest.mark.parametrize("spoiler", [b'{"user_id":"user-3","score":NaN}', b'"\\ud800"', b"\xff", b"-Infinity"])
@pytest.mark.parametrize(("fields", "entry"), CASES)
def test_profile_is_read_the_same_beside_one_that_is_no_json(fields: bytes, entry: Entry, spoiler: bytes) -> None:
    """What a strict reader refuses of one user costs no other, who is read as strictly as ever."""
    profile = b'{"user_id":"user-1",' + fields + b"}"
    spoiled = spoiler if spoiler.startswith(b"{") else b'{"user_id":"user-3","company":' + spoiler + b"}"
    if spoiler == b"\xff":
        spoiled = b'{"user_id":"user-3","company":"\xff"},"\xff":{}'
    batch = b'{"users":{"user-1":' + profile + b',"user-3":' + spoiled + b'},"not_found":["user-2"]}'
    assert read_batch(batch, ["user-1", "user-2", "user-3"]) == {"user-1": entry, "user-2": ABSENT, "user-3": FAILED}


@pytest.mark.parametrize(
    ("encoding", "bom"), [("utf-8", b"\xef\xbb\xbf"), ("utf-16", b""), ("utf-16-le", b""), ("utf-32", b"")]
)
def test_answer_is_read_in_any_encoding_of_json(encoding: str, bom: bytes) -> None:
    """RFC 4627 allowed UTF-16 and UTF-32, and some write a byte order mark."""
    batch = '{"users":{"user-1":{"user_id":"user-1","company":"Zoë"}},"not_found":["user-2"]}'
    entries = read_batch(bom + batch.encode(encoding), ["user-1", "user-2"])
    assert entries == {"user-1": found(None, None, "Zoë"), "user-2": ABSENT}


@pytest.mark.parametrize("not_found", [b"[1,null]", b"null", b'"user-1"', b'{"user-1":true}'])
def test_list_of_absent_users_is_not_believed_when_it_is_none(not_found: bytes) -> None:
    """Nobody is absent by such a list, and those that were found stay found."""
    body = b'{"users":{"user-2":{"user_id":"user-2"}},"not_found":' + not_found + b"}"
    assert read_batch(body, ["user-1", "user-2"]) == {"user-1": FAILED, "user-2": found()}


JSON_TYPES = ["", "application/json", "application/json; charset=utf-8", "application/problem+json", "text/json"]


@pytest.mark.parametrize("content_type", JSON_TYPES)
@pytest.mark.parametrize(
    "body",
    [
        b'{"user_id":"user-1"}',
        b'{"detail":"no such user","user_id":"user-1"}',
        b'{"detail":{"user_id":"user-1","message":"gone"}}',
        b'{"error":{"code":404,"user_id":"user-1"},"score":NaN}',
        b'{"user_id":"user-1","company":null}',
    ],
)
def test_absence_is_believed_when_it_names_the_user(content_type: str, body: bytes) -> None:
    """The service's own 404 says in JSON whom it does not know."""
    assert read_absence(body, content_type, "user-1") == ABSENT


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param(b"<html>404 user-1</html>", "text/html", id="page"),
        pytest.param(b"<html>404 user-1</html>", "application/json", id="page that says it is JSON"),
        pytest.param(b'{"user_id":"user-1"}', "text/html", id="JSON that says it is a page"),
        pytest.param(b'{"message":"no Route matched with those values"}', "application/json", id="Kong"),
        pytest.param(b'{"message":"Not Found"}', "application/json", id="AWS API Gateway"),
        pytest.param(b'{"detail":"Not Found"}', "application/json", id="FastAPI, an unknown route"),
        pytest.param(b'{"status":404,"error":"Not Found","path":"/api/users/user-1"}', "application/json", id="Spring"),
        pytest.param(b'{"error":"not_found","reason":"missing"}', "application/json", id="CouchDB"),
        pytest.param(b'{"user_id":"user-2"}', "application/json", id="another user"),
        pytest.param(b'{"user_id":["user-1"]}', "application/json", id="id in a list"),
        pytest.param(b'["user-1"]', "application/json", id="list"),
        pytest.param(b'"user-1"', "application/json", id="text"),
        pytest.param(b"null", "application/json", id="null"),
        pytest.param(b'{"user_id":"user-1","company":"Acme"}', "application/json", id="with the user's profile"),
        pytest.param(b'{"user_id":"user-1"', "application/json", id="cut off"),
    ],
)
def test_absence_is_not_believed_of_anything_else(body: bytes, content_type: str) -> None:
    """Gateways, portals and frameworks say 404, too; none of them knows whom they are asked for."""
    with pytest.raises(Unreadable):
        read_absence(body, content_type, "user-1")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"user_id":"user-1","company":1}', True),
        (b'{"users":{"user-1":{"user_id":"user-1","company":NaN}}}', True),
        (b'{"users":{"user-1":{"user_id":"user-9"}}}', False),
        (b'{"users":{}}', False),
        (b'{"message":"ok"}', False),
        (b"null", False),
        (b"", False),
    ],
)
def test_answer_is_about_the_users_that_it_names(body: bytes, expected: bool) -> None:
    """An answer that names nobody who was asked for is hardly the service's."""
    assert is_about(body, ["user-1"]) is expected


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="HTML"),
        pytest.param(b'{"users":[]}', id="users are a list"),
        pytest.param(b'{"not_found":["user-1"]}', id="no users"),
        pytest.param(b'{"users":null}', id="users are null"),
        pytest.param(b'{"users":[NaN]}', id="users are a list, and no JSON"),
        pytest.param(b'{"users":{"user-1":{"company":"A"B"}}}', id="quote within a text"),
        pytest.param(b'{"users":{"user-1":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", id="deep"),
        pytest.param(b'{"users":{"user-1":{}', id="cut off"),
    ],
)
def test_batch_is_unreadable_when_it_is_no_answer(body: bytes) -> None:
    """What is not JSON of the promised shape answers for nobody."""
    with pytest.raises(Unreadable):
        read_batch(body, ["user-1"])


@pytest.mark.parametrize("body", [b"", b"OK", b'{"user_id":"user-1","company":"A"B"}', b"\xff", b'{"user_id":'])
def test_single_answer_is_unreadable_when_it_is_not_json(body: bytes) -> None:
    """A body that is not JSON is the service's failure."""
    with pytest.raises(Unreadable):
        read_profile(body, "user-1")
