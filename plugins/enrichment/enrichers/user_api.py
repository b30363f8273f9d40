"""User ids in, profiles out: the HTTP client of the user-profile service, the source behind the user cache.

Many users are asked for with `POST /api/users/batch`, in slices, several at once; one user with `GET /api/users/{id}`.
A service whose batch endpoint answers 404 or 405 has none and is asked one by one from then on.

Tries are `tenacity`'s and not urllib3's `Retry`: that one makes its second try at once, gives up on a `Retry-After`
that it cannot read, does not try again when a body breaks off, and knows neither a deadline nor the circuit breaker,
which here counts every try.

**Worst case.** `fetch_many` returns within `timeout_sec * (waves + retries) + retry_after_max_sec`, where a wave is
`concurrency` slices of `batch_size` users: 50 s for up to 2,000 users with the default settings, whatever the service
does. What was not answered by then is a timeout. A service that fails is left alone sooner, by the breaker.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from urllib.parse import quote

import msgspec
import urllib3
from pybreaker import (
    STATE_CLOSED,
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerStorage,
    CircuitMemoryStorage,
)
from requests import RequestException, Response, Timeout
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_any
from tenacity.stop import stop_base

from enrichment.caches.base import Entry, State
from enrichment.enrichers.user_answers import ABSENT, Unreadable, read_batch, read_profile
from enrichment.enrichers.user_session import open_session
from enrichment.errors import SourceUnavailable
from enrichment.messages import Reason
from enrichment.settings import UserSettings

log = logging.getLogger(__name__)

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
NO_BATCH_ENDPOINT = frozenset({404, 405})
# An answer may take this much for each user that was asked for; what is longer is not read.
BYTES_PER_USER = 16 * 1024
PIECE_BYTES = 64 * 1024
# As a path segment these name another resource, so no service can be asked for a user of that name.
UNADDRESSABLE = frozenset({"", ".", ".."})


class _Transient(SourceUnavailable):
    """A failure that may have passed at the next try; `retry_after` is in seconds, if the service named a time."""

    retry_after: float | None = None


class _Throttled(_Transient):
    """The service is alive and asks for a pause."""


class _NoBatchEndpoint(Exception):
    """The service can only be asked for one user at a time."""


class UserApi:
    """Profiles from the user service; a `Fetch`. Build one for a task, `close()` it at the end.

    `token` is sent as a bearer token and appears in no error. Raises `SettingsError` if it or `base_url` is unusable.
    The circuit breaker lives as long as this object, or as `breaker_storage` does. Once its reset time is over, up to
    `concurrency` requests try the service again.
    """

    version = ""

    def __init__(
        self,
        base_url: str,
        token: str | None,
        settings: UserSettings,
        *,
        breaker_storage: CircuitBreakerStorage | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._settings = settings
        self._sleep = sleep
        self._session = open_session(self._base_url, token, settings.concurrency)
        self._has_batch = True
        self._breaker_storage = breaker_storage or CircuitMemoryStorage(STATE_CLOSED)

    @cached_property
    def _breaker(self) -> CircuitBreaker:
        """Made for the first request: it asks its storage, which a task whose caches know all users need not open."""
        return CircuitBreaker(
            fail_max=self._settings.breaker_failures,
            reset_timeout=self._settings.breaker_reset_sec,
            # "I have no such endpoint" and "later, please" are signs of life.
            exclude=[_NoBatchEndpoint, _Throttled],
            state_storage=self._breaker_storage,
            # The try that opens the breaker shall tell what happened to it.
            throw_new_error_on_trip=False,
        )

    def close(self) -> None:
        """Close the connections. A request that is still under way ends by itself."""
        self._session.close()

    def fetch_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """An entry for each user id: found, absent, or failed with its reason.

        A request that fails costs only its own users; when every request failed, raises `SourceUnavailable` as the
        first of them did.
        """
        size = self._settings.batch_size
        slices = [keys[start : start + size] for start in range(0, len(keys), size)]
        waves = math.ceil(len(slices) / self._settings.concurrency)
        seconds = self._settings.timeout_sec * (waves + self._settings.retries) + self._settings.retry_after_max_sec
        deadline = time.monotonic() + seconds
        if self._has_batch:
            try:
                return self._ask_all(slices, deadline)
            except _NoBatchEndpoint:
                self._has_batch = False
                log.warning("user_api.no_batch_endpoint url=%s", self._base_url)
        return self._ask_all([[key] for key in keys], deadline)

    def _ask_all(self, slices: list[Sequence[str]], deadline: float) -> dict[str, Entry]:
        pool = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="user-api")
        try:
            asked = [(pool.submit(self._ask, user_ids, deadline), user_ids) for user_ids in slices]
            done, _ = wait([future for future, _ in asked], timeout=max(0.0, deadline - time.monotonic()))
        finally:
            # Who is late is left behind, not waited for: it sees the deadline before its next try.
            pool.shutdown(wait=False, cancel_futures=True)
        entries: dict[str, Entry] = {}
        failures: list[SourceUnavailable] = []
        for future, user_ids in asked:
            failure = future.exception() if future in done else self._late()
            if failure is None:
                entries |= future.result()
            elif isinstance(failure, SourceUnavailable):
                entries |= dict.fromkeys(user_ids, Entry(State.FAILED, reason=failure.reason))
                failures.append(failure)
            else:
                raise failure
        if failures and len(failures) == len(slices):
            raise failures[0]
        if failures:
            log.warning("user_api.failed slices=%d of=%d first=%s", len(failures), len(slices), failures[0])
        return entries

    def _late(self) -> SourceUnavailable:
        return SourceUnavailable(Reason.USER_TIMEOUT, f"{self._base_url}: no answer before the deadline")

    def _ask(self, user_ids: Sequence[str], deadline: float) -> dict[str, Entry]:
        """One request, tried until it is answered, the tries or the time are used up, or the breaker is open."""
        ask = self._ask_one if len(user_ids) == 1 else self._ask_batch
        failure: _Transient | None = None
        tries = Retrying(
            retry=retry_if_exception_type(_Transient),
            stop=stop_any(stop_after_attempt(self._settings.retries + 1), _StopBefore(deadline)),
            wait=self._pause_seconds,
            sleep=self._sleep,
            reraise=True,
        )
        for attempt in tries:
            with attempt:
                try:
                    # Not `call`: pybreaker holds a lock during it, which would put all requests in a row.
                    with self._breaker.calling():
                        return ask(user_ids)
                except CircuitBreakerError as refusal:
                    raise self._refused(failure) from refusal
                except _Transient as transient:
                    failure = transient
                    raise
                except Unreadable as lie:
                    detail = f"{self._base_url}/api/users answered 200 with what is no answer: {lie}"
                    raise SourceUnavailable(Reason.USER_SERVICE_ERROR, detail) from lie
        raise AssertionError("tenacity returns an answer or raises the last failure")

    def _refused(self, failure: _Transient | None) -> SourceUnavailable:
        """What an open breaker means: the failure of the earlier try that opened it, or that nothing was asked."""
        if failure is not None:
            return SourceUnavailable(failure.reason, failure.detail)
        return SourceUnavailable(Reason.USER_SERVICE_ERROR, f"{self._base_url}: circuit breaker is open")

    def _pause_seconds(self, state: RetryCallState) -> float:
        """What the service asks for, within bounds; else twice the last pause, with jitter."""
        failure = state.outcome.exception() if state.outcome is not None else None
        if isinstance(failure, _Transient) and failure.retry_after is not None:
            return min(failure.retry_after, self._settings.retry_after_max_sec)
        return self._settings.backoff_sec * 2.0 ** (state.attempt_number - 1) * random.uniform(0.5, 1.5)

    def _ask_one(self, user_ids: Sequence[str]) -> dict[str, Entry]:
        (user_id,) = user_ids
        if user_id in UNADDRESSABLE:
            return {user_id: ABSENT}
        status, body = self._exchange("GET", f"/api/users/{quote(user_id, safe='')}", BYTES_PER_USER, {404})
        return {user_id: ABSENT if status == 404 else read_profile(body, user_id)}

    def _ask_batch(self, user_ids: Sequence[str]) -> dict[str, Entry]:
        content = msgspec.json.encode({"user_ids": user_ids})
        max_bytes = BYTES_PER_USER * len(user_ids)
        status, body = self._exchange("POST", "/api/users/batch", max_bytes, NO_BATCH_ENDPOINT, content)
        if status in NO_BATCH_ENDPOINT:
            raise _NoBatchEndpoint
        return read_batch(body, user_ids)

    def _exchange(
        self, method: str, path: str, max_bytes: int, expected: Collection[int], content: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer whose status is 200 or expected; every other outcome is raised."""
        url = self._base_url + path
        timeout = self._settings.timeout_sec
        try:
            # Redirects are not followed: a POST would come back as a GET, and the token belongs to this service alone.
            with self._session.request(
                method, url, data=content, timeout=timeout, stream=True, allow_redirects=False
            ) as response:
                body = _read(response, max_bytes, time.monotonic() + timeout)
        except (Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise _Transient(Reason.USER_TIMEOUT, f"{method} {url}: no answer within {timeout:g} s") from error
        except (RequestException, urllib3.exceptions.HTTPError) as error:
            raise _Transient(Reason.USER_SERVICE_ERROR, f"{method} {url}: {error}") from error
        if response.status_code == 200 or response.status_code in expected:
            return response.status_code, body
        raise _refusal(response, f"{method} {url}")


class _StopBefore(stop_base):
    """Stop when the next pause would end past the deadline (monotonic seconds)."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        return time.monotonic() + retry_state.upcoming_sleep >= self._deadline


def _read(response: Response, max_bytes: int, until: float) -> bytes:
    """The body. The socket's timeout only bounds the pause between two pieces, hence `until` (monotonic seconds)."""
    body = bytearray()
    while piece := response.raw.read1(PIECE_BYTES, decode_content=True):
        body += piece
        if len(body) > max_bytes:
            raise Unreadable(f"more than {max_bytes} bytes")
        if time.monotonic() > until:
            raise TimeoutError
    return bytes(body)


def _refusal(response: Response, request: str) -> SourceUnavailable:
    status = response.status_code
    detail = f"{request} answered {status}"
    if status in (401, 403):
        detail += ": the token is missing or not accepted"
    if status not in TRANSIENT:
        return SourceUnavailable(Reason.USER_SERVICE_ERROR, detail)
    transient = (_Throttled if status == 429 else _Transient)(Reason.USER_SERVICE_ERROR, detail)
    transient.retry_after = _retry_after_seconds(response.headers.get("Retry-After"))
    return transient


def _retry_after_seconds(text: str | None) -> float | None:
    """Seconds of a `Retry-After` header, a number or a date; None when there is none or it cannot be read."""
    if text is None:
        return None
    try:
        return urllib3.Retry().parse_retry_after(text)
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None
