"""What goes wrong on request: the description of a fault, which requests it hits, and how it spoils an answer.

A fault is a JSON object. `PUT /api/faults` sets it for the requests that follow, `DELETE` ends it; the header `X-Fault`
holds one for a single request.

| field             | meaning                                                                                       |
| ----------------- | --------------------------------------------------------------------------------------------- |
| `share`, `seed`   | share of the requests that are hit (1.0); which ones follows from the seed and their order    |
| `times`           | requests that are hit at most, then all is well again (no limit)                              |
| `user_ids`        | only requests for one of these users are hit, and only these profiles are spoiled (all)       |
| `latency_seconds` | wait before the answer                                                                        |
| `status`          | answer with this status instead, whatever `answer` says                                       |
| `retry_after`     | the `Retry-After` header of that answer, as text                                              |
| `answer`          | one of the spoiled answers below                                                              |

`answer` may be `not-json` (an HTML page), `wrong-shape` (a list), `truncated` (JSON that stops half way), `closed` (the
connection closes half way), `drip` (a byte each 50 ms), `huge` (32 MB), `wrong-types` (text for numbers and the
reverse), `huge-numbers`, `empty-profiles` (`{}`), `other-profiles` (profiles with another user's id), `missing-users`
(left out without a word) and `unasked-users` (two more than were asked for).
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any, Literal

import msgspec

from include.user_service.population import KNOWN, UserProfile

UNASKED = ("user-unasked-1", "user-unasked-2")
HUGE_BYTES = 32 * 1024**2

BodyAnswer = Literal["not-json", "wrong-shape", "truncated", "closed", "drip", "huge"]
ProfileAnswer = Literal[
    "wrong-types", "huge-numbers", "empty-profiles", "other-profiles", "missing-users", "unasked-users"
]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One fault, as the table above describes it."""

    share: float = 1.0
    seed: int = 0
    times: int | None = None
    user_ids: frozenset[str] | None = None
    latency_seconds: float = 0.0
    status: int | None = None
    retry_after: str | None = None
    answer: BodyAnswer | ProfileAnswer | None = None

    def concerns(self, user_ids: Collection[str]) -> bool:
        """Whether a request for these users is one that the fault is about."""
        return self.user_ids is None or not self.user_ids.isdisjoint(user_ids)


class Faults:
    """The fault that is set, and the count of those that it has hit."""

    def __init__(self) -> None:
        self.injected = 0
        self.set(None)

    def set(self, fault: Fault | None) -> None:
        """Make this the fault of the requests that follow; None ends it."""
        self.fault = fault
        self._left = None if fault is None else fault.times
        self._random = random.Random(fault.seed if fault else 0)

    def next(self, user_ids: Collection[str], header: Fault | None = None) -> Fault | None:
        """The fault that hits a request for these users, if one does; that of its header comes first."""
        fault = header or self._drawn(user_ids)
        self.injected += fault is not None
        return fault

    def _drawn(self, user_ids: Collection[str]) -> Fault | None:
        fault = self.fault
        if fault is None or self._left == 0 or not fault.concerns(user_ids) or self._random.random() >= fault.share:
            return None
        if self._left is not None:
            self._left -= 1
        return fault


def spoil_profiles(fault: Fault | None, profiles: dict[str, UserProfile]) -> dict[str, Any]:
    """The profiles as the fault has them; only those of `fault.user_ids` are touched."""
    if fault is None:
        return profiles
    hit = {user_id for user_id in profiles if fault.concerns((user_id,))}
    match fault.answer:
        case "missing-users":
            return {user_id: profile for user_id, profile in profiles.items() if user_id not in hit}
        case "unasked-users":
            return profiles | {user_id: _renamed(KNOWN["user-123"], user_id) for user_id in UNASKED}
        case _:
            return {user_id: _spoiled(fault, p) if user_id in hit else p for user_id, p in profiles.items()}


def _spoiled(fault: Fault, profile: UserProfile) -> Any:
    match fault.answer:
        case "wrong-types":
            return {"user_id": profile.user_id, "subscription_tier": 3, "account_age_days": "old", "company": ["Acme"]}
        case "huge-numbers":
            return msgspec.structs.replace(profile, account_age_days=2**63)
        case "empty-profiles":
            return {}
        case "other-profiles":
            return _renamed(profile, UNASKED[0])
        case _:
            return profile


def _renamed(profile: UserProfile, user_id: str) -> UserProfile:
    return msgspec.structs.replace(profile, user_id=user_id)


def spoil_body(fault: Fault, body: bytes) -> bytes:
    """The bytes of an answer as the fault has them."""
    match fault.answer:
        case "not-json":
            return b"<html><body>It works!</body></html>"
        case "wrong-shape":
            return b'["users", "not_found"]'
        case "truncated":
            return body[: len(body) // 2]
        case "huge":
            return b'{"users":{},"padding":"' + b"x" * HUGE_BYTES + b'"}'
        case _:
            return body
