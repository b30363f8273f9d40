"""Keeps the caches small and warm: evicts and renews those of a declared enrichment, as the settings say."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from enrichment.caches.eviction import Evicted, evict
from enrichment.caches.renewal import Renewed, find_hot, renew
from enrichment.enrichers.tables import cache_table

if TYPE_CHECKING:
    from enrichment.enrichers.declare import LookupEnricher
    from enrichment.resources import Resources


def evict_cache(r: Resources, declaration: LookupEnricher, *, dry_run: bool = False) -> Evicted:
    """Evict what has passed its hard expiry and what is above the ceiling; a dry run only counts."""
    shared = r.settings.cache
    return evict(
        r.maintenance, cache_table(declaration), grace=timedelta(hours=shared.stale_grace_hours),
        max_rows=r.settings.enrichers[declaration.name].cache_max_rows, chunk_rows=shared.eviction_chunk_rows,
        dry_run=dry_run,
    )  # fmt: skip


def renew_cache(r: Resources, declaration: LookupEnricher, *, dry_run: bool = False) -> Renewed:
    """Renew the keys that are in use and about to expire; a dry run only counts them."""
    shared = r.settings.cache
    if not shared.refresh_keys:
        return Renewed()
    lookup, version = r.enrichers.renewal(declaration)
    ahead = timedelta(minutes=shared.refresh_ahead_minutes)
    keys = find_hot(r.maintenance, cache_table(declaration), ahead=ahead, limit=shared.refresh_keys, version=version)
    return Renewed(len(keys)) if dry_run else renew(keys, lookup)
