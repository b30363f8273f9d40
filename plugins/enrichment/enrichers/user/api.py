"""User ids in, profiles out: the client of the user-profile service, the source behind the user cache.

Many users are asked for with `POST /api/users/batch`, in slices, several at once; one user with `GET /api/users/{id}`.
`enrichment.enrichers.user.answers` says which answers are believed.

- **No batch endpoint**: a 404, 405 or 501 in JSON, from a service that then answers for a single user as agreed. From
  then on all are asked one by one. A page with such a status is a gateway's, and an outage.
- **One user spoils a batch** (its profile breaks the JSON, or is too large; its id is refused): the slice is halved
  down to that user. How many requests that may take is bounded, and a service that only ever fails this way is down.
- **A batch is too large** (413): smaller ones from then on.

**Worst case.** A request has `timeout_sec` for all of it, interim answers and headers included; one that takes longer
counts as a failure for the circuit breaker. `fetch_many` returns within `timeout_sec * (waves + retries) +
retry_after_max_sec`, where a wave is `concurrency` slices of `batch_size` users: 50 s for up to 2,000 users with the
default settings, however the service behaves. All calls of a task together have `task_timeout_sec`. Users without an
answer by then are timeouts. The breaker stops asking a failing service sooner.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cached_property
from queue import Empty

from pybreaker import (
    STATE_CLOSED,
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerStorage,
    CircuitMemoryStorage,
)
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_any

from enrichment.caches.base import Entry, State
from enrichment.enrichers.user import SERVICE_ERROR, TIMEOUT, UserSettings
from enrichment.enrichers.user.answers import ABSENT
from enrichment.enrichers.user.asking import PART_SECONDS, Asking, Outcome, gathered, is_text
from enrichment.enrichers.user.request import UserRequests
from enrichment.enrichers.user.tries import (
    AskSingly,
    Doubtful,
    NobodyNamed,
    StopBefore,
    Throttled,
    may_pass,
    pause_seconds,
    version_of,
)
from enrichment.enrichers.wiring import OpenedSource, Site
from enrichment.errors import SourceUnavailable
from enrichment.sources.connections import HttpOptions
from enrichment.sources.event_loop import BackgroundLoop

log = logging.getLogger(__name__)

# How often a fetch may ask for less, beyond four times for each slice.
SPLITS = 64


def open_source(site: Site, settings: UserSettings) -> OpenedSource:
    """The API that the settings' connection names. Raises `SettingsError`."""
    base_url, token, options = site.http_endpoint(settings.conn_id, "USER_SERVICE_CONN_ID")
    breaker = site.circuit_breaker(f"user-profile {base_url}")
    api = UserApi(base_url, token, settings, options=options, breaker_storage=breaker)
    site.at_end(api.close)
    return OpenedSource(api)


class UserApi:
    """Profiles from the user service; a `GradualSource`. Build one for a task, `close()` it at the end.

    `token` is sent as a bearer token and appears in no error. Raises `SettingsError` if it or `base_url` is unusable.
    `version` changes with the address and the headers that are sent: another service, other answers. The circuit
    breaker lives as long as this object, or as `breaker_storage` does. Once its reset time is over, up to `concurrency`
    requests try the service again.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None,
        settings: UserSettings,
        *,
        options: HttpOptions = HttpOptions(),  # noqa: B008 - frozen
        breaker_storage: CircuitBreakerStorage | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._settings = settings
        self._sleep = sleep
        self._requests = UserRequests(self._base_url, token, settings, options)
        self._loop = BackgroundLoop("user-api")
        self.version = version_of(self._base_url, options)
        self._breaker_storage = breaker_storage or CircuitMemoryStorage(STATE_CLOSED)
        self._seconds_left = settings.task_timeout_sec
        self._largest = settings.batch_size  # as far as is known; 1 where there is no batch endpoint

    @cached_property
    def _breaker(self) -> CircuitBreaker:
        """Made for the first request: it asks its storage, which a task whose caches know all users need not open."""
        return CircuitBreaker(
            fail_max=self._settings.breaker_failures,
            reset_timeout=self._settings.breaker_reset_sec,
            # "I have no such endpoint", "later, please" and "not this request" are signs of life; a request that we
            # ended ourselves says nothing against the service.
            exclude=[AskSingly, Throttled, Doubtful, asyncio.CancelledError],
            state_storage=self._breaker_storage,
            # The try that opens the breaker reports its own failure.
            throw_new_error_on_trip=False,
        )

    def close(self) -> None:
        """Cancel the requests that still run and close the connections."""
        try:
            self._loop.close(self._requests.close())
        except TimeoutError:
            log.warning("user_api.not_closed url=%s: its connections end with the process", self._base_url)

    def fetch_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """An entry for each user id: found, absent, or failed with its reason.

        A request that fails costs only its own users; when no user was answered, raises `SourceUnavailable` as the
        first of the requests did.
        """
        entries: dict[str, Entry] = {}
        for part in self.fetch_parts(keys):
            entries |= part
        return {key: entries[key] for key in keys}

    def fetch_parts(self, keys: Sequence[str]) -> Iterator[Mapping[str, Entry]]:
        """The same in parts, as they come: answers first, in the end those that failed.

        Further requests go on while the caller works on a part.
        """
        askable = [key for key in keys if is_text(key)]
        if len(askable) < len(keys):
            yield dict.fromkeys(set(keys).difference(askable), ABSENT)
        if not askable:
            return
        failed: dict[str, Entry] = {}
        failures: list[SourceUnavailable] = []
        is_answered = len(askable) < len(keys)
        for answers, unanswered in gathered(self._outcomes(askable), self._settings.batch_size):
            is_answered |= bool(answers)
            for user_ids, failure in unanswered:
                failures.append(failure)
                failed |= dict.fromkeys(user_ids, Entry(State.FAILED, reason=failure.reason))
            if answers:
                yield answers
        if failures and not is_answered:
            raise failures[0]
        if failures:
            log.warning("user_api.failed users=%d of=%d first=%s", len(failed), len(keys), failures[0])
            yield failed

    def _outcomes(self, keys: Sequence[str]) -> Iterator[Outcome | None]:
        """The outcomes of these users as they come; None where nothing has come for `PART_SECONDS`."""
        size = self._settings.batch_size
        slices = [keys[start : start + size] for start in range(0, len(keys), size)]
        waves = math.ceil(len(slices) / self._settings.concurrency)
        seconds = self._settings.timeout_sec * (waves + self._settings.retries) + self._settings.retry_after_max_sec
        late = "no answer before the deadline"
        if seconds > self._seconds_left:
            seconds = self._seconds_left
            late = f"USER_SERVICE_TASK_TIMEOUT_SEC={self._settings.task_timeout_sec:g} is used up"
        fetch = Asking(
            deadline=time.monotonic() + seconds,
            late=SourceUnavailable(TIMEOUT, f"{self._base_url}: {late}"),
            splits_left=SPLITS + 4 * len(slices),
            slots=asyncio.Semaphore(self._settings.concurrency),
        )
        running = self._loop.start(self._ask_all(slices, fetch))
        running.add_done_callback(lambda _: fetch.outcomes.put(None))
        try:
            while True:
                try:
                    outcome = fetch.outcomes.get(timeout=PART_SECONDS)
                except Empty:
                    yield None
                    continue
                if outcome is None:
                    break
                yield outcome
            running.result()
        finally:
            running.cancel()

    async def _ask_all(self, slices: Sequence[Sequence[str]], fetch: Asking) -> None:
        """Ask for every slice, as many at once as there may be requests."""
        started, waiting = time.monotonic(), iter(slices)

        async def work() -> None:
            for user_ids in waiting:
                await self._ask(user_ids, fetch)

        try:
            await asyncio.gather(*(work() for _ in range(self._settings.concurrency)))
        finally:
            self._seconds_left -= time.monotonic() - started

    async def _ask(self, user_ids: Sequence[str], fetch: Asking, *, again: bool = False) -> None:
        """Ask for these users in one request or in several smaller ones; `again`: they were part of a larger one."""
        try:
            entries = await self._try(user_ids, fetch, 0 if again else self._settings.retries)
            if entries is None:
                await self._ask_parts(user_ids, self._largest, fetch, again=again)
            else:
                fetch.tell(user_ids, entries)
        except AskSingly as found:
            self._largest = 1
            fetch.tell(list(found.entries), found.entries)
            await self._ask_parts([id_ for id_ in user_ids if id_ not in found.entries], 1, fetch, again=again)
        except NobodyNamed as lie:
            fetch.tell(user_ids, lie.entries)
        except Doubtful as doubtful:
            half = math.ceil(len(user_ids) / 2)
            if doubtful.is_too_large:
                self._largest = max(1, min(self._largest, half))
            if len(user_ids) == 1 or fetch.splits_left <= 0:
                fetch.tell(user_ids, doubtful)
                return
            fetch.splits_left -= 1
            await self._ask_parts(user_ids, half, fetch, again=True)
        except SourceUnavailable as failure:
            fetch.tell(user_ids, failure)

    async def _ask_parts(self, user_ids: Sequence[str], size: int, fetch: Asking, *, again: bool) -> None:
        parts = [user_ids[start : start + size] for start in range(0, len(user_ids), size)]
        await asyncio.gather(*(self._ask(part, fetch, again=again) for part in parts))

    async def _try(self, user_ids: Sequence[str], fetch: Asking, retries: int) -> Mapping[str, Entry] | None:
        """One request, tried until it is answered, the tries or the time are used up, or the breaker is open.

        Returns None when, by the time of its turn, so many users are known to be too many for one request.
        """
        failure: SourceUnavailable | None = None
        tries = AsyncRetrying(
            retry=retry_if_exception(may_pass),
            stop=stop_any(stop_after_attempt(retries + 1), StopBefore(fetch.deadline)),
            wait=lambda state: pause_seconds(state, self._settings),
            sleep=self._sleep,
            reraise=True,
        )
        async with fetch.slots:
            if len(user_ids) > self._largest:
                return None
            async for attempt in tries:
                with attempt:
                    seconds = min(self._settings.timeout_sec, fetch.deadline - time.monotonic())
                    if seconds <= 0:
                        raise fetch.late
                    try:
                        with self._breaker.calling():
                            return await self._requests.ask(user_ids, seconds)
                    except CircuitBreakerError as refused:
                        raise self._refused(failure) from refused
                    except SourceUnavailable as raised:
                        failure = raised
                        raise
        raise AssertionError("tenacity returns an answer or raises the last failure")

    def _refused(self, failure: SourceUnavailable | None) -> SourceUnavailable:
        """The error for an open breaker: the failure of the try that opened it, or that nothing was asked."""
        if failure is not None:
            return SourceUnavailable(failure.reason, failure.detail)
        return SourceUnavailable(SERVICE_ERROR, f"{self._base_url}: circuit breaker is open")
