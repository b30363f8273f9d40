"""Opens what the pipeline works with, once each, from settings and connections, and closes it at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pybreaker import CircuitBreakerStorage

from enrichment.batch import LIVE, Batch
from enrichment.enrichers.base import OpenEnricher
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.wiring import Enrichers
from enrichment.group.lanes import check_publish
from enrichment.kafka.clients import Clients
from enrichment.repair.pending import PendingStore
from enrichment.replay.table import Replays
from enrichment.settings import Settings
from enrichment.sources.connections import HttpEndpoint
from enrichment.store.breakers import PostgresBreakerStorage
from enrichment.store.connections import Connection, Connections, Parameters
from enrichment.store.jobs import Ledger
from enrichment.store.staging import Staging
from enrichment.store.staging_areas import StoragePath


class Resources:
    """Use in a `with` block. Connections are asked for and opened when they are first needed.

    `http_endpoint` gives the service of an Airflow connection; its second argument is the variable that names that.
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
        self._kafka_config = kafka_config
        self.http_endpoint = http_endpoint
        self._staging_root = staging_root
        self._clock = clock
        self._open = ExitStack()
        self._connections = Connections(postgres_parameters, settings.postgres)
        self._open.callback(self._connections.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    @cached_property
    def clients(self) -> Clients:
        """Makers of Kafka clients."""
        return Clients(self._kafka_config(), self.settings.kafka, self._check_lanes)

    @cached_property
    def staging(self) -> Staging:
        """The files that tasks hand to each other."""
        return Staging(self._staging_root())

    @property
    def postgres(self) -> Connection:
        """The connection for ledger, metrics and what else must be written down. Caches and the business tables have
        their own: a task may do without them."""
        return self._connections.ledger

    @property
    def maintenance(self) -> Connection:
        """The connection for what keeps tables small and adds figures up: long statements that do not wait for
        locks."""
        return self._connections.maintenance

    @property
    def ledger(self) -> Ledger:
        """The ledger of batches."""
        return Ledger(self.postgres)

    @property
    def pending(self) -> PendingStore:
        """What published batches go without."""
        return PendingStore(self.postgres)

    @property
    def replays(self) -> Replays:
        """The windows of replays."""
        return Replays(self.postgres)

    @cached_property
    def enrichers(self) -> Enrichers:
        """Opens enrichments."""
        return Enrichers(self, self.settings.enrichers, self.settings.cache, self._clock)

    def enricher(self, declaration: LookupEnricher) -> OpenEnricher:
        """A declared enrichment, opened."""
        return self.enrichers.open(declaration)

    def query_connection(self, timeout_sec: float) -> Connection:
        """A new connection that only reads, each statement for so long at most."""
        return self._connections.for_query(timeout_sec)

    def cache_connection(self) -> Connection:
        """A new connection for a table that a task may do without."""
        return self._connections.for_cache()

    @property
    def cache_pause_sec(self) -> float:
        """How long a table is passed by that did not answer."""
        return self.settings.postgres.cache_pause_sec

    def circuit_breaker(self, name: str) -> CircuitBreakerStorage:
        """Where a circuit breaker is kept, one for all tasks."""
        storage = PostgresBreakerStorage(self._connections.for_breaker, name)
        self.at_end(storage.close)
        return storage

    def at_end(self, close: Callable[[], None]) -> None:
        """Have this called when the block ends, the last one first."""
        self._open.callback(close)

    def _check_lanes(self, batch: Batch) -> None:
        """Only live draining has as many lanes as the settings say: a replay's were fixed by its plan."""
        if batch.purpose.kind == LIVE.kind:
            check_publish(self.ledger.lanes, batch, self.settings.kafka.lanes)
