"""The service behind the routes: who may ask, what a request is answered, and what was asked so far."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from fastapi import HTTPException, Response
from fastapi.responses import StreamingResponse

from include.user_service.faults import Fault, Faults, spoil_body, spoil_profiles
from include.user_service.population import find_profile

DRIP_SECONDS = 0.05


class Stats(msgspec.Struct):
    """What `GET /api/stats` answers. Only lookups are `requests`, refused ones included; `not_found` counts users."""

    requests: int = 0
    users_served: int = 0
    not_found: int = 0
    faults_injected: int = 0
    in_flight: int = 0
    in_flight_max: int = 0


class Service:
    """A population of users, with counters and faults of its own."""

    def __init__(self, size: int, token: str | None) -> None:
        self.size = size
        self.faults = Faults()
        self._token = token
        self._stats = Stats()

    def stats(self) -> Stats:
        """The counters as they are now."""
        return msgspec.structs.replace(self._stats, faults_injected=self.faults.injected)

    def authorize(self, given: str) -> None:
        """Raise 401 unless this `Authorization` header holds the token, if there is one."""
        if self._token and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count one request, and that it is being answered."""
        stats = self._stats
        stats.requests += 1
        stats.in_flight += 1
        stats.in_flight_max = max(stats.in_flight_max, stats.in_flight)
        try:
            yield
        finally:
            stats.in_flight -= 1

    async def answer_one(self, user_id: str, asked_fault: Fault | None) -> Response:
        """The answer about one user; 404 when there is no such user."""
        fault = self.faults.next([user_id], asked_fault)
        if refusal := await _refused(fault):
            return refusal
        found, missing = self._find([user_id])
        if missing:
            return respond({"detail": "no such user", "user_id": user_id}, 404)
        return _spoiled(spoil_profiles(fault, found).get(user_id), fault)

    async def answer_many(self, user_ids: Sequence[str], asked_fault: Fault | None) -> Response:
        """The answer about many users, each named once as found or not found."""
        distinct = list(dict.fromkeys(user_ids))
        fault = self.faults.next(distinct, asked_fault)
        if refusal := await _refused(fault):
            return refusal
        found, missing = self._find(distinct)
        return _spoiled({"users": spoil_profiles(fault, found), "not_found": missing}, fault)

    def _find(self, user_ids: list[str]) -> tuple[dict[str, Any], list[str]]:
        found = {user_id: profile for user_id in user_ids if (profile := find_profile(user_id, self.size))}
        missing = [user_id for user_id in user_ids if user_id not in found]
        self._stats.users_served += len(found)
        self._stats.not_found += len(missing)
        return found, missing


def respond(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer, encoded by msgspec."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


async def _refused(fault: Fault | None) -> Response | None:
    if fault is None:
        return None
    await asyncio.sleep(fault.latency_seconds)
    if fault.status is None:
        return None
    headers = None if fault.retry_after is None else {"Retry-After": fault.retry_after}
    return respond({"detail": "fault on request"}, fault.status, headers)


def _spoiled(content: Any, fault: Fault | None) -> Response:
    if fault is None:
        return respond(content)
    body = spoil_body(fault, msgspec.json.encode(content))
    if fault.answer == "closed":
        # Fewer bytes than announced: the server can only close the connection.
        return StreamingResponse(_pieces(body[: len(body) // 2], len(body), 0), headers=_announced(body))
    if fault.answer == "drip":
        return StreamingResponse(_pieces(body, 1, DRIP_SECONDS), headers=_announced(body))
    return Response(body, media_type="text/html" if fault.answer == "not-json" else "application/json")


def _announced(body: bytes) -> dict[str, str]:
    return {"Content-Length": str(len(body)), "Content-Type": "application/json"}


async def _pieces(body: bytes, size: int, pause_seconds: float) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(pause_seconds)
