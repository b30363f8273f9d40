"""What is believed of the user service's answers."""

from __future__ import annotations

import pytest

from enrichment.caches.base import Entry, State
from enrichment.enrichers.user_answers import ABSENT, FAILED, Unreadable, read_batch, read_profile
from enrichment.messages import Profile


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
    pytest.param(b'"account_age_days":365.0', FAILED, id="float"),
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


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="HTML"),
        pytest.param(b'{"users":[]}', id="users are a list"),
        pytest.param(b'{"not_found":["user-1"]}', id="no users"),
        pytest.param(b'{"users":{},"not_found":[1]}', id="an id that is no text"),
        pytest.param(b'{"users":{"user-1":{"account_age_days":NaN}}}', id="NaN"),
        pytest.param(b'{"users":{"\xff":{}}}', id="an id that is not UTF-8"),
        pytest.param(b'{"users":{"user-1":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", id="deep"),
        pytest.param(b'{"users":{"user-1":{}', id="cut off"),
    ],
)
def test_batch_is_unreadable_when_it_is_no_answer(body: bytes) -> None:
    """What is not JSON of the promised shape answers for nobody."""
    with pytest.raises(Unreadable):
        read_batch(body, ["user-1"])


@pytest.mark.parametrize("body", [b"", b"OK", b'{"user_id":"user-1","account_age_days":NaN}', b"\xff"])
def test_single_answer_is_unreadable_when_it_is_not_json(body: bytes) -> None:
    """A body that is not JSON is the service's failure."""
    with pytest.raises(Unreadable):
        read_profile(body, "user-1")
