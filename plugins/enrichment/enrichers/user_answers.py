"""Bodies of the user service in, cache entries out, strictly: an answer that lies costs the users it lies about.

A profile must carry the id that was asked for. Its fields are text, whole days from 0 to 2,147,483,647, or null; one
that is missing is null, and so is empty text. Text is 1,000 characters at most and without NUL, which PostgreSQL cannot
hold. Users that were never asked for are ignored; one that the answer does not mention has failed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from enrichment.caches.base import Entry, State
from enrichment.messages import Profile, Reason

log = logging.getLogger(__name__)

Text = Annotated[str, Meta(max_length=1_000, pattern=r"^[^\x00]*$")]
Days = Annotated[int, Meta(ge=0, le=2**31 - 1)]

ABSENT = Entry(State.ABSENT, reason=Reason.USER_NOT_FOUND)
FAILED = Entry(State.FAILED, reason=Reason.USER_SERVICE_ERROR)


class Unreadable(ValueError):
    """A body that is no answer at all: not JSON, or not of the shape that was asked for."""


class _Answer(msgspec.Struct):
    users: dict[str, msgspec.Raw]
    not_found: list[str] = []


class _Profile(msgspec.Struct, gc=False):
    user_id: str
    subscription_tier: Text | None = None
    account_age_days: Days | None = None
    company: Text | None = None


_answers = msgspec.json.Decoder(_Answer)
_profiles = msgspec.json.Decoder(_Profile)
_any_json = msgspec.json.Decoder(msgspec.Raw)


def read_batch(body: bytes, user_ids: Sequence[str]) -> dict[str, Entry]:
    """An entry for each of `user_ids` from an answer of `POST /api/users/batch`. Raises `Unreadable`."""
    answer = _read(_answers, body)
    absent = frozenset(answer.not_found)
    entries = {}
    for user_id in user_ids:
        profile = answer.users.get(user_id)
        if profile is not None:
            entries[user_id] = _entry(user_id, profile)
        else:
            entries[user_id] = ABSENT if user_id in absent else FAILED
    if unusable := sum(entry is FAILED for entry in entries.values()):
        log.warning("user_api.unusable_profiles users=%d of=%d", unusable, len(user_ids))
    return entries


def read_profile(body: bytes, user_id: str) -> Entry:
    """The entry of `user_id` from an answer of `GET /api/users/{user_id}`. Raises `Unreadable` when it is not JSON."""
    return _entry(user_id, _read(_any_json, body))


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error


def _entry(user_id: str, body: msgspec.Raw) -> Entry:
    try:
        profile = _profiles.decode(body)
    except (msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return FAILED
    if profile.user_id != user_id:
        return FAILED
    return Entry(
        State.FOUND, Profile(profile.subscription_tier or None, profile.account_age_days, profile.company or None)
    )
