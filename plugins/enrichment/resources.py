"""Opens the clients and connections of the pipeline, once each, and closes them at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pybreaker import CircuitBreakerStorage

from enrichment.batch import LIVE, Batch
from enrichment.enrichers.declare import LookupEnricher
from enrichment.group.lanes import check_publish
from enrichment.kafka.clients import Clients
from enrichment.repair.pending import PendingStore
from enrichment.replay.table import Replays
from enrichment.settings import Settings
from enrichment.sources.connections import HttpEndpoint
from enrichment.store.breakers import PostgresBreakerStorage
from enrichment.store.connections import Connection, Connections, Parameters
from enrichment.store.jobs import Ledger

if TYPE_CHECKING:
    from enrichment.enrichers.base import OpenEnricher
    from enrichment.enrichers.wiring import Enrichers
    from enrichment.store.staging import Staging
    from enrichment.store.staging_areas import StoragePath


class Resources:
    """Use in a `with` block. Connections are read and opened when they are first needed.

    `http_endpoint` returns the service of an Airflow connection; its second argument is the variable that names it.
    """

    def __init__(
        self,
        settings: Settings,
        kafka_config: Callable[[], Mapping[str, Any]],
        postgres_parameters: Parameters,
        http_endpoint: Callable[[str, str], HttpEndpoint],
        staging_root: Callable[[], Path | StoragePath],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.kafka_config = kafka_config
        self.postgres_parameters = postgres_parameters
        self.http_endpoint = http_endpoint
        self._staging_root = staging_root
        self._clock = clock
        self._opened: dict[str, OpenEnricher] = {}
        self._connections = Connections(postgres_parameters, settings.postgres)
        self._enriching = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with closing(self._connections):
            self.close_enrichers()

    @cached_property
    def clients(self) -> Clients:
        """Makers of Kafka clients."""
        return Clients(self.kafka_config(), self.settings.kafka, self._check_lanes)

    @cached_property
    def staging(self) -> Staging:
        """The files that tasks hand to each other."""
        from enrichment.store.staging import Staging

        return Staging(self._staging_root())

    @property
    def postgres(self) -> Connection:
        """The connection for ledger, metrics and everything else that must be recorded. Caches and the business tables
        have their own: a task can do without them."""
        return self._connections.ledger

    @property
    def maintenance(self) -> Connection:
        """The connection for eviction, retention and rollups: long statements that do not wait for locks."""
        return self._connections.maintenance

    @property
    def ledger(self) -> Ledger:
        """The ledger of batches."""
        return Ledger(self.postgres)

    @property
    def pending(self) -> PendingStore:
        """The sources that published batches are missing."""
        return PendingStore(self.postgres)

    @property
    def replays(self) -> Replays:
        """The windows of replays."""
        return Replays(self.postgres)

    @cached_property
    def enrichers(self) -> Enrichers:
        """Opens enrichments."""
        from enrichment.enrichers.wiring import Enrichers

        return Enrichers(self, self.settings.enrichers, self.settings.cache, self._clock)

    def enricher(self, declaration: LookupEnricher) -> OpenEnricher:
        """A declared enrichment, opened: once, for all batches of the task."""
        if declaration.name not in self._opened:
            self._opened[declaration.name] = self.enrichers.open(declaration)
        return self._opened[declaration.name]

    def close_enrichers(self) -> None:
        """Write what is still to be written to the caches, and close all that enrichments have opened: memory caches,
        databases, connections. An enrichment that is asked for again is opened anew."""
        self._opened.clear()
        self._enriching.close()

    def query_connection(self, timeout_sec: float) -> Connection:
        """A new read-only connection with a time limit for each statement."""
        return self._connections.for_query(timeout_sec)

    def cache_connection(self) -> Connection:
        """A new connection for a table that a task can do without."""
        return self._connections.for_cache()

    @property
    def cache_pause_sec(self) -> float:
        """How long a table that did not answer is skipped."""
        return self.settings.postgres.cache_pause_sec

    def circuit_breaker(self, name: str) -> CircuitBreakerStorage:
        """The shared storage of a circuit breaker, one for all tasks."""
        storage = PostgresBreakerStorage(self._connections.for_breaker, name)
        self.at_end(storage.close)
        return storage

    def at_end(self, close: Callable[[], None]) -> None:
        """Have this called when the enrichments are closed, the last one first."""
        self._enriching.callback(close)

    def _check_lanes(self, batch: Batch) -> None:
        """Only live draining has the number of lanes of the settings: a replay's was fixed by its plan."""
        if batch.purpose.kind == LIVE.kind:
            check_publish(self.ledger.lanes, batch, self.settings.kafka.lanes)
