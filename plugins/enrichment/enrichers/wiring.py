"""Opens the enrichments that are declared: caches before the source of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import psycopg
from pybreaker import CircuitBreakerStorage

from enrichment.caches.base import CacheLayer, KeyLookup, LookupSource
from enrichment.caches.behind import WriteBehindTable
from enrichment.caches.layered import LayeredLookup, TimeToLive
from enrichment.caches.memory import MemoryLayer
from enrichment.caches.postgres import PostgresLayer
from enrichment.caches.renewal import RenewedTable
from enrichment.caches.unkept import UnkeptTable
from enrichment.enrichers.base import Derivation, OnChunk, OpenEnricher
from enrichment.enrichers.declare import CacheSettings, EnricherSettings, LookupEnricher
from enrichment.enrichers.tables import cache_table
from enrichment.sources.connections import HttpEndpoint


@dataclass(frozen=True)
class OpenedSource:
    """What an enrichment's `open` returns.

    `front` wraps the cached lookup in one that answers some keys itself; `derivation` works out the computed columns;
    `on_chunk` sees each chunk when it is enriched for the first time (`enrichment.enrichers.base.keys_of` has its
    keys). `build` names the build of the source (such as a database's), for the ledger.
    """

    source: LookupSource
    front: Callable[[KeyLookup], KeyLookup] | None = None
    derivation: Derivation | None = None
    on_chunk: OnChunk | None = None
    build: str = ""


class Site(Protocol):
    """What a source may be opened with. Connections are made when they are first needed."""

    def http_endpoint(self, conn_id: str, setting: str) -> HttpEndpoint:
        """The service of an Airflow connection of type HTTP; `setting` is the variable that names the connection."""
        ...

    def query_connection(self, timeout_sec: float) -> psycopg.Connection[Any]:
        """A new read-only connection to the StackLens database with a time limit for each statement."""
        ...

    def cache_connection(self) -> psycopg.Connection[Any]:
        """A new connection for a table that a task can do without."""
        ...

    @property
    def cache_pause_sec(self) -> float:
        """How long a table that did not answer is skipped."""
        ...

    def circuit_breaker(self, name: str) -> CircuitBreakerStorage:
        """The shared storage of a circuit breaker, one for all tasks."""
        ...

    def at_end(self, close: Callable[[], None]) -> None:
        """Have this called when the enrichment is closed, at the end of the task at the latest."""
        ...


def open_source(declaration: LookupEnricher, site: Site, settings: EnricherSettings) -> OpenedSource:
    """Call the function that a declaration names. Raises what that raises, mostly `SettingsError`."""
    module, _, function = declaration.open.partition(":")
    opened: OpenedSource = getattr(import_module(module), function)(site, settings)
    return opened


class Enrichers:
    """Opens enrichments for a task.

    `settings` are theirs by their names, `shared` those of all caches. `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        site: Site,
        settings: Mapping[str, EnricherSettings],
        shared: CacheSettings,
        clock: Callable[[], float],
    ) -> None:
        self._site = site
        self._settings = settings
        self._shared = shared
        self._clock = clock

    def open(self, declaration: LookupEnricher) -> OpenEnricher:
        """The enricher: the `front` first, then the caches, then the source."""
        opened, settings = self.source(declaration), self._settings[declaration.name]
        table = WriteBehindTable(self._table(declaration, opened))
        self._site.at_end(table.close)
        layers: list[CacheLayer] = [MemoryLayer(settings.cache_size, self._clock), table]
        lookup: KeyLookup = LayeredLookup(layers, opened.source, self._ttl(settings), self._clock)
        if opened.front is not None:
            lookup = opened.front(lookup)
        return OpenEnricher(declaration, lookup, opened.derivation, opened.on_chunk, opened.build)

    def open_unkept(
        self, declaration: LookupEnricher, guard: Callable[[LookupSource], LookupSource]
    ) -> tuple[OpenEnricher, Derivation | None]:
        """The enricher as `open` makes it, for a look that leaves no trace: without memory, and the table is only read.
        The source is asked through `guard`. With it comes what computes its columns."""
        opened = self.source(declaration)
        table = UnkeptTable(self._table(declaration, opened))
        self._site.at_end(table.close)
        ttl = self._ttl(self._settings[declaration.name])
        lookup: KeyLookup = LayeredLookup([table], guard(opened.source), ttl, self._clock)
        if opened.front is not None:
            lookup = opened.front(lookup)
        return OpenEnricher(declaration, lookup, opened.derivation, build=opened.build), opened.derivation

    def renewal(self, declaration: LookupEnricher) -> tuple[KeyLookup, str]:
        """A lookup that asks the source for every key and puts the answers into the table, and the source's version."""
        opened = self.source(declaration)
        table = self._table(declaration, opened)
        self._site.at_end(table.close)
        ttl = self._ttl(self._settings[declaration.name])
        return LayeredLookup([RenewedTable(table)], opened.source, ttl, self._clock), opened.source.version

    def source(self, declaration: LookupEnricher) -> OpenedSource:
        """The source, without caches."""
        return open_source(declaration, self._site, self._settings[declaration.name])

    def _table(self, declaration: LookupEnricher, opened: OpenedSource) -> PostgresLayer:
        shared = self._shared
        return PostgresLayer(
            self._site.cache_connection, cache_table(declaration),
            clock=self._clock, version=opened.source.version,
            stale_grace_seconds=3600 * shared.stale_grace_hours, touch_after_seconds=3600 * shared.touch_after_hours,
            pause_seconds=self._site.cache_pause_sec,
        )  # fmt: skip

    def _ttl(self, settings: EnricherSettings) -> TimeToLive:
        shared = self._shared
        return TimeToLive(settings.cache_ttl_sec, 60 * shared.negative_ttl_minutes, shared.error_ttl_sec)
