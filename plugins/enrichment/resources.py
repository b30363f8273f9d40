"""Builds the concrete things that the pipeline works with, once each, from settings and connections; closes them at the
end.

Tasks, benchmarks and tests all build them here: this is the only place that knows which cache stands before which
source.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import pandas as pd

from enrichment import sql
from enrichment.batch import LIVE, Batch
from enrichment.caches.base import CacheLayer, LookupSource
from enrichment.caches.eviction import Evicted, evict
from enrichment.caches.layered import LayeredLookup, TimeToLive
from enrichment.caches.memory import MemoryLayer
from enrichment.caches.postgres import PostgresLayer
from enrichment.caches.renewal import Renewed, RenewedTable, find_hot, renew
from enrichment.caches.tables import CacheTable
from enrichment.caches.three import BY_NAME
from enrichment.enrichers.base import Enrichment, look_up_and_enrich
from enrichment.enrichers.business.enricher import BusinessEnricher
from enrichment.enrichers.business.query import BusinessQuery
from enrichment.enrichers.business.recorded_risk import RiskTable
from enrichment.enrichers.business.risk import RiskRules
from enrichment.enrichers.geo.database import GeoDatabase, present_database_path
from enrichment.enrichers.geo.enricher import GeoEnricher
from enrichment.enrichers.geo.special_addresses import SpecialAddresses
from enrichment.enrichers.user.api import UserApi
from enrichment.enrichers.user.enricher import UserEnricher
from enrichment.group.lanes import check_publish
from enrichment.kafka.clients import Clients
from enrichment.messages import Source
from enrichment.repair.corrections import Corrector, LookUp
from enrichment.repair.pending import PendingStore
from enrichment.replay.table import Replays
from enrichment.settings import Settings
from enrichment.sources.connections import HttpEndpoint
from enrichment.store.breakers import PostgresBreakerStorage
from enrichment.store.connections import Connection, Connections, Parameters
from enrichment.store.jobs import Ledger
from enrichment.store.staging import Staging
from enrichment.store.staging_areas import StoragePath

log = logging.getLogger(__name__)


class Cached(NamedTuple):
    """What stands behind an enricher: its table, the source, the size of the memory tier, and how long a value may be
    served."""

    table: CacheTable
    source: LookupSource
    size: int
    found_seconds: float


class Resources:
    """Use in a `with` block. Connections are asked for and opened when they are first needed."""

    def __init__(
        self,
        settings: Settings,
        kafka_config: Callable[[], Mapping[str, Any]],
        postgres_parameters: Parameters,
        user_service: Callable[[], HttpEndpoint],
        staging_root: Callable[[], Path | StoragePath],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self._kafka_config = kafka_config
        self._user_service = user_service
        self._staging_root = staging_root
        self._clock = clock
        self._open = ExitStack()
        self._connections = Connections(postgres_parameters, settings.postgres, settings.business)
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
    def geo_database(self) -> GeoDatabase:
        """The MaxMind-format database in use; a refresh meanwhile changes nothing for who has it."""
        geo = self.settings.geo
        setting = "GEO_IP_DATABASE_PATH" if geo.database_path else "GEO_IP_INSTALL_PATH"
        return GeoDatabase(present_database_path(geo.database_path, geo.install_path), geo.locale, setting)

    def geo_enricher(self) -> GeoEnricher:
        """Places by address: known networks first, then the caches, then the database."""
        return GeoEnricher(SpecialAddresses(self._layered(self._geo_cache())))

    def user_enricher(self) -> UserEnricher:
        """Profiles by user id: the caches, then the user-profile API."""
        return UserEnricher(self._layered(self._user_cache()))

    def business_enricher(self) -> BusinessEnricher:
        """Contexts by request id, and their risk: the caches, then the query over the users' own tables."""
        rules = RiskRules.load(self.settings.business.rules_file)
        return BusinessEnricher(self._layered(self._business_cache()), rules)

    def evict(self, cache: str, *, dry_run: bool = False) -> Evicted:
        """Evict one of the caches (`enrichment.caches.three.BY_NAME`); a dry run only counts."""
        settings, shared = self.settings, self.settings.cache
        max_rows = {
            "geo": settings.geo.cache_max_rows,
            "user": settings.user.cache_max_rows,
            "business": settings.business.cache_max_rows,
        }[cache]
        return evict(
            self.maintenance, BY_NAME[cache], grace=timedelta(hours=shared.stale_grace_hours), max_rows=max_rows,
            chunk_rows=shared.eviction_chunk_rows, dry_run=dry_run,
        )  # fmt: skip

    def renew(self, cache: str, *, dry_run: bool = False) -> Renewed:
        """Renew the keys of a cache that are in use and about to expire; a dry run only counts them."""
        shared = self.settings.cache
        if not shared.refresh_keys:
            return Renewed()
        cached = {"geo": self._geo_cache, "user": self._user_cache, "business": self._business_cache}[cache]()
        ahead = timedelta(minutes=shared.refresh_ahead_minutes)
        keys = find_hot(
            self.maintenance, cached.table, ahead=ahead, limit=shared.refresh_keys, version=cached.source.version
        )
        if dry_run:
            return Renewed(len(keys))
        table = RenewedTable(self._table(cached))
        return renew(keys, LayeredLookup([table], cached.source, self._ttl(cached), self._clock))

    def corrector(self, sources: Collection[Source]) -> Corrector:
        """Looks those sources up again for messages that were published without them."""
        business = self.business_enricher()
        lookups: dict[Source, LookUp] = {}
        if Source.GEO in sources:
            lookups[Source.GEO] = partial(look_up_and_enrich, self.geo_enricher(), added={})
        if Source.USER in sources:
            lookups[Source.USER] = partial(look_up_and_enrich, self.user_enricher(), added={})
        if Source.BUSINESS in sources:
            lookups[Source.BUSINESS] = business.contexts
        return Corrector(lookups, business.score)

    def record_risks(self, events: pd.DataFrame, added: Enrichment) -> None:
        """Keep the risks of a chunk, for the views. A database that is down costs only
        that."""
        risks = BusinessEnricher.risks(events, added)
        if risks.request_ids:
            self._risks.record(*risks)

    def _check_lanes(self, batch: Batch) -> None:
        """Only live draining has as many lanes as the settings say: a replay's were fixed by its plan."""
        if batch.purpose.kind == LIVE.kind:
            check_publish(self.ledger.lanes, batch, self.settings.kafka.lanes)

    @cached_property
    def _risks(self) -> RiskTable:
        table = RiskTable(self._connections.for_cache, self.settings.postgres.cache_pause_sec)
        self._open.callback(table.close)
        return table

    def _geo_cache(self) -> Cached:
        geo = self.settings.geo
        return Cached(BY_NAME["geo"], self.geo_database, geo.cache_size, 3600 * geo.cache_ttl_hours)

    def _user_cache(self) -> Cached:
        user = self.settings.user
        base_url, token, options = self._user_service()
        breaker = PostgresBreakerStorage(self._connections.for_breaker, f"user-profile {base_url}")
        self._open.callback(breaker.close)
        api = UserApi(base_url, token, user, options=options, breaker_storage=breaker)
        self._open.callback(api.close)
        return Cached(BY_NAME["user"], api, user.cache_size, 3600 * user.cache_ttl_hours)

    def _business_cache(self) -> Cached:
        business = self.settings.business
        query = BusinessQuery(
            self._connections.for_query, sql.load("business_context/fetch"), timeout_seconds=business.query_timeout_sec
        )
        self._open.callback(query.close)
        return Cached(BY_NAME["business"], query, business.cache_size, 60 * business.cache_ttl_minutes)

    def _layered(self, cached: Cached) -> LayeredLookup:
        layers: list[CacheLayer] = [MemoryLayer(cached.size, self._clock), self._table(cached)]
        return LayeredLookup(layers, cached.source, self._ttl(cached), self._clock)

    def _table(self, cached: Cached) -> PostgresLayer:
        shared = self.settings.cache
        table = PostgresLayer(
            self._connections.for_cache, cached.table, clock=self._clock, version=cached.source.version,
            stale_grace_seconds=3600 * shared.stale_grace_hours, touch_after_seconds=3600 * shared.touch_after_hours,
            pause_seconds=self.settings.postgres.cache_pause_sec,
        )  # fmt: skip
        self._open.callback(table.close)
        return table

    def _ttl(self, cached: Cached) -> TimeToLive:
        shared = self.settings.cache
        return TimeToLive(cached.found_seconds, 60 * shared.negative_ttl_minutes, shared.error_ttl_sec)
