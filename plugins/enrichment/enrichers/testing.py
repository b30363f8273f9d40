"""What tests of enrichers and caches are built from: fixed answers, frames of keys, a clock that stands still.

Public: use it for the tests of your own enricher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pandas as pd
import psycopg
import pyarrow as pa
from pybreaker import STATE_CLOSED, CircuitBreakerStorage, CircuitMemoryStorage

from enrichment.caches.base import Answer, Entry, KeyLookup, State, Tier
from enrichment.enrichers.base import Enrichment, OpenEnricher, events_of
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY
from enrichment.enrichers.wiring import open_source
from enrichment.sources.connections import HttpEndpoint


class FixedLookup:
    """A `KeyLookup` that answers from a dict: a struct is a found value, an `Entry` is taken as it is, all else is
    absent.

    `asked` keeps the keys of each call.
    """

    def __init__(
        self, answers: Mapping[str, Entry | msgspec.Struct], absent: str = "not-found", tier: Tier = Tier.SOURCE
    ) -> None:
        self._answers = answers
        self._absent = Entry(State.ABSENT, reason=absent)
        self._tier = tier
        self.asked: list[list[str]] = []

    def answer_many(self, keys: Sequence[str]) -> list[Answer]:
        """One answer per key, in the order of `keys`."""
        self.asked.append(list(keys))
        return [Answer(self._entry(key), self._tier) for key in keys]

    def _entry(self, key: str) -> Entry:
        answer = self._answers.get(key, self._absent)
        return answer if isinstance(answer, Entry) else Entry(State.FOUND, value=answer)


def make_events(**keys: Sequence[str | None]) -> pd.DataFrame:
    """The keys of a chunk: `make_events(source_ip=["8.8.8.8", None])`. Others are all null."""
    rows = max((len(values) for values in keys.values()), default=0)
    table: dict[str, Any] = dict.fromkeys(REGISTRY.keys, [None] * rows) | keys
    return events_of({name: pa.array(column, pa.string()) for name, column in table.items()})


def look_up_and_enrich(enricher: OpenEnricher, events: pd.DataFrame, earlier: Mapping[str, Enrichment]) -> Enrichment:
    """Both steps of an enricher for one chunk."""
    return enricher.enrich(events, enricher.look_up(events), earlier)


class UnconnectedSite:
    """A `Site` without servers: enrichments opened on it compute columns, but can ask no source."""

    cache_pause_sec = 0.0

    def __init__(self) -> None:
        self._closing: list[Callable[[], None]] = []

    def http_endpoint(self, conn_id: str, setting: str) -> HttpEndpoint:
        """See `Site`."""
        return HttpEndpoint(f"http://{conn_id}.invalid/{setting}")

    def query_connection(self, timeout_sec: float) -> psycopg.Connection[Any]:
        """See `Site`."""
        raise psycopg.OperationalError(f"there is no server, within {timeout_sec} s or later")

    def cache_connection(self) -> psycopg.Connection[Any]:
        """See `Site`."""
        raise psycopg.OperationalError("there is no server")

    def circuit_breaker(self, name: str) -> CircuitBreakerStorage:  # noqa: ARG002 - the protocol's
        """See `Site`."""
        return CircuitMemoryStorage(STATE_CLOSED)

    def at_end(self, close: Callable[[], None]) -> None:
        """See `Site`."""
        self._closing.append(close)

    def close(self) -> None:
        """Close what was opened on it, the last one first."""
        while self._closing:
            self._closing.pop()()


def open_over(declaration: LookupEnricher, lookup: KeyLookup) -> OpenEnricher:
    """An enrichment as declared, with its default settings; `lookup` answers in place of caches and source."""
    site = UnconnectedSite()
    try:
        opened = open_source(declaration, site, declaration.settings())
    finally:
        site.close()
    return OpenEnricher(declaration, lookup, opened.derivation)


@contextmanager
def declared(*enrichers: LookupEnricher) -> Iterator[None]:
    """These enrichments are the declared ones within the block, in this process. Raises `ValueError` as `Registry`."""
    before = dict(vars(REGISTRY))
    vars(REGISTRY).clear()
    try:
        REGISTRY.__init__(enrichers)  # type: ignore[misc]  # again: modules keep no copy
        yield
    finally:
        vars(REGISTRY).clear()
        vars(REGISTRY).update(before)


class FixedClock:
    """A clock in seconds since the epoch that moves only when told."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
