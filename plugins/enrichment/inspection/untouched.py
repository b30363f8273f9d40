"""What a preview opens sources with: connections that only read, breakers that are read once and never moved, and an
end to every wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any, Self, TypeVar

import psycopg
from pybreaker import CircuitBreakerStorage, CircuitMemoryStorage

from enrichment.caches.base import Entry, LookupSource
from enrichment.databases import Connection
from enrichment.enrichers.declare import LookupEnricher
from enrichment.errors import SourceUnavailable
from enrichment.resources import Resources
from enrichment.sources.connections import HttpEndpoint
from enrichment.store.breakers import PostgresBreakerStorage

log = logging.getLogger(__name__)
Result = TypeVar("Result")

STATEMENT_SECONDS = 2.0
CONNECT_SECONDS = 2.0
SOURCE_SECONDS = 5.0  # for one source
ALL_SECONDS = 8.0  # for all of them


class Untouched:
    """A `Site` over the pipeline's resources, for one preview. Use it in a `with` block.

    A source that still has not answered at the end is closed when it has: nobody waits for that.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._closing = ExitStack()
        self._pool = ThreadPoolExecutor(thread_name_prefix="preview")
        self._asked: list[Future[Any]] = []
        self._deadline = time.monotonic() + ALL_SECONDS
        self._refused: psycopg.Error | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=False)
        if all(asked.done() for asked in self._asked):
            self._closing.close()
        else:
            threading.Thread(target=self._close_later, name="preview-close", daemon=True).start()

    def _close_later(self) -> None:
        wait(self._asked)
        self._closing.close()

    def within(self, seconds: float, work: Callable[[], Result]) -> Result:
        """The result of the work. Raises what it raises, and `TimeoutError` when it takes longer."""
        asked = self._pool.submit(work)
        self._asked.append(asked)
        return asked.result(timeout=max(0.0, seconds))

    @property
    def seconds_left(self) -> float:
        """How long a source may still take."""
        return min(SOURCE_SECONDS, self._deadline - time.monotonic())

    def http_endpoint(self, conn_id: str, setting: str) -> HttpEndpoint:
        """See `Site`."""
        return self._resources.http_endpoint(conn_id, setting)

    def query_connection(self, timeout_sec: float) -> Connection:
        """See `Site`. Once the database could not be reached, it is not tried again."""
        if self._refused is not None:
            raise self._refused
        seconds = min(timeout_sec, STATEMENT_SECONDS)
        opening = self._pool.submit(self._resources.query_connection, seconds)
        try:
            return opening.result(CONNECT_SECONDS)
        except TimeoutError:
            opening.add_done_callback(_close_late)
            self._refused = psycopg.OperationalError(f"the database was not reached within {CONNECT_SECONDS:g} s")
        except psycopg.Error as refused:
            self._refused = refused
        raise self._refused

    def cache_connection(self) -> Connection:
        """See `Site`. It cannot write."""
        return self.query_connection(STATEMENT_SECONDS)

    @property
    def cache_pause_sec(self) -> float:
        """See `Site`."""
        return self._resources.cache_pause_sec

    def circuit_breaker(self, name: str) -> CircuitBreakerStorage:
        """See `Site`. A copy of the shared state: what happens here moves nothing."""
        shared = PostgresBreakerStorage(self.cache_connection, name)
        try:
            own = CircuitMemoryStorage(shared.state)
            opened_at = shared.opened_at
        finally:
            shared.close()
        if opened_at is not None:
            own.opened_at = opened_at
        return own

    def at_end(self, close: Callable[[], None]) -> None:
        """See `Site`."""
        self._closing.callback(close)


class BoundedSource:
    """A source that answers in time or counts as one that cannot be asked; `detail` says afterwards why it failed."""

    def __init__(self, source: LookupSource, declaration: LookupEnricher, site: Untouched) -> None:
        self.version = source.version
        self._source = source
        self._site = site
        self._too_late = next(iter(declaration.outages))
        self.detail = ""

    def fetch_many(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """See `LookupSource`."""
        seconds = self._site.seconds_left
        try:
            return self._site.within(seconds, lambda: self._source.fetch_many(keys))
        except SourceUnavailable as failed:
            self.detail = failed.detail
            raise
        except TimeoutError:
            self.detail = f"no answer within {max(0.0, seconds):.1f} s; a batch would wait longer"
            raise SourceUnavailable(self._too_late, self.detail) from None


def _close_late(opened: Future[Connection]) -> None:
    if opened.exception() is None:
        opened.result().close()
