"""Bodies of the user service in, cache entries out, strictly: an invalid profile fails only the user it belongs to.

A profile must carry the id that was asked for. Its fields are text, whole days from 0 to 2,147,483,647 (365.0 is
whole), or null; one that is missing is null, and so is empty text. Text is 1,000 characters at most and without NUL,
which PostgreSQL cannot hold. Users that were never asked for are ignored; one that the answer does not mention has
failed.

That a user does not exist is believed of two answers only: a batch that names it in `not_found`, and a 404 whose JSON
has its `user_id`, at the top or within `detail` or `error`. Gateways, captive portals and frameworks answer 404 too,
with pages and with JSON of their own; none of them knows a user.

A body that a strict JSON reader refuses is read again by a lenient one, profile by profile: NaN, half of a surrogate
pair or a byte that is not UTF-8 in one profile says nothing about the others.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from enrichment.caches.base import Entry, State
from enrichment.enrichers.user import NOT_FOUND, SERVICE_ERROR, Profile

log = logging.getLogger(__name__)

OLDEST_DAYS = 2**31 - 1
Text = Annotated[str, Meta(max_length=1_000, pattern=r"^[^\x00]*$")]
Days = Annotated[int, Meta(ge=0, le=OLDEST_DAYS)] | Annotated[float, Meta(ge=0, le=OLDEST_DAYS)]

ABSENT = Entry(State.ABSENT, reason=NOT_FOUND)
FAILED = Entry(State.FAILED, reason=SERVICE_ERROR)

USER_ID = "user_id"
# Where in the JSON of a 404 the user may be named: at the top, or in what frameworks wrap a detail in.
_WRAPPERS = ("detail", "error")


class Unreadable(ValueError):
    """A body that is not an answer at all. One that `is_garbled` looks like JSON but is not: it may have been cut, or
    one user's profile may have broken it."""

    def __init__(self, detail: str, *, is_garbled: bool = False) -> None:
        super().__init__(detail)
        self.is_garbled = is_garbled


class _Answer(msgspec.Struct):
    users: dict[str, msgspec.Raw]
    not_found: Any = ()


class _Profile(msgspec.Struct, gc=False):
    user_id: str
    subscription_tier: Text | None = None
    account_age_days: Days | None = None
    company: Text | None = None


_PROFILE_FIELDS = [field for field in _Profile.__struct_fields__ if field != USER_ID]

_answers = msgspec.json.Decoder(_Answer)
_profiles = msgspec.json.Decoder(_Profile)
_any_json = msgspec.json.Decoder(msgspec.Raw)
_strictly = msgspec.json.Encoder().encode


def read_batch(body: bytes, user_ids: Sequence[str]) -> dict[str, Entry]:
    """An entry for each of `user_ids` from an answer of `POST /api/users/batch`. Raises `Unreadable`."""
    answer = _read_answer(body)
    absent = frozenset(id_ for id_ in answer.not_found if isinstance(id_, str)) if _is_list(answer.not_found) else ()
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
    try:
        return _entry(user_id, _any_json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        profile = _encoded(_lenient(body))
    return FAILED if profile is None else _entry(user_id, profile)


def read_absence(body: bytes, content_type: str, user_id: str) -> Entry:
    """An absent entry, from a 404 that says that the user does not exist. Raises `Unreadable` for any other."""
    if content_type and not is_json(content_type):
        raise Unreadable(f"404 with {content_type[:60]!r}, not with the service's JSON")
    told = _lenient(body)
    parts = [told, *(told.get(name) for name in _WRAPPERS)] if isinstance(told, dict) else []
    for part in parts:
        if isinstance(part, dict) and part.get(USER_ID) == user_id:
            if any(part.get(field) is not None for field in _PROFILE_FIELDS):
                raise Unreadable("404 with the user's profile")
            return ABSENT
    raise Unreadable("404 with JSON that does not name the user (`user_id`), so it may be anybody's")


def is_about(body: bytes, user_ids: Collection[str]) -> bool:
    """Whether an answer names any of these users: if not, it is hardly the service's, however well-formed."""
    try:
        told = _lenient(body)
    except Unreadable:
        return False
    users = told.get("users") if isinstance(told, dict) else None
    parts = [told, *(users.values() if isinstance(users, dict) else ())]
    return any(isinstance(part, dict) and part.get(USER_ID) in user_ids for part in parts)


def is_json_object(body: bytes, content_type: str) -> bool:
    """Whether this is a JSON object, and not declared as another media type."""
    try:
        return (not content_type or is_json(content_type)) and isinstance(_lenient(body), dict)
    except Unreadable:
        return False


def is_json(content_type: str) -> bool:
    """Whether a media type is that of JSON, `application/problem+json` included."""
    name = content_type.partition(";")[0].strip().lower()
    return name in ("application/json", "text/json") or (name.startswith("application/") and name.endswith("+json"))


def _read_answer(body: bytes) -> _Answer:
    try:
        return _answers.decode(body)
    except msgspec.ValidationError as other_shape:
        raise Unreadable(str(other_shape)) from other_shape
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = _lenient(body)
    users = told.get("users") if isinstance(told, dict) else None
    if not isinstance(users, dict):
        raise Unreadable("no object `users` in it")
    # What cannot be written in JSON was not JSON; null is nobody's profile.
    profiles = {user_id: _encoded(profile) or msgspec.Raw(b"null") for user_id, profile in users.items()}
    return _Answer(profiles, told.get("not_found", ()))


def _lenient(body: bytes) -> Any:
    """JSON as Python reads it, which accepts more than JSON. Raises `Unreadable`.

    Numbers stay as they are written. Values that JSON does not have become something that cannot be written as JSON.
    """
    start = body.lstrip(b" \t\r\n\xef\xbb\xbf\xff\xfe\x00")[:1]
    is_garbled = start in (b"{", b"[")
    if not is_garbled:
        raise Unreadable("it is empty" if not start else "it is no JSON")
    try:
        encoding = json.detect_encoding(body)
        text = body.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict")
        number = _as_written
        return json.loads(text, strict=False, parse_int=number, parse_float=number, parse_constant=_Unwritable)
    except (ValueError, RecursionError) as odd:
        raise Unreadable(str(odd)[:200], is_garbled=True) from odd


class _Unwritable:
    """NaN or an infinity."""

    def __init__(self, name: str) -> None:
        self.name = name


def _as_written(digits: str) -> msgspec.Raw:
    return msgspec.Raw(digits.encode())


def _encoded(value: Any) -> msgspec.Raw | None:
    """A value as strict JSON; None where it has no such form."""
    try:
        return msgspec.Raw(_strictly(value))
    except (TypeError, ValueError, RecursionError):
        return None


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _entry(user_id: str, body: msgspec.Raw) -> Entry:
    try:
        profile = _profiles.decode(body)
    except (msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return FAILED
    days = profile.account_age_days
    if profile.user_id != user_id or (isinstance(days, float) and not days.is_integer()):
        return FAILED
    return Entry(
        State.FOUND,
        Profile(profile.subscription_tier or None, None if days is None else int(days), profile.company or None),
    )
