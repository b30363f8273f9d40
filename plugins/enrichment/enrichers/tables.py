"""The cache tables of the declared enrichments."""

from __future__ import annotations

from enrichment.caches.tables import CacheTable
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY


def cache_table(declaration: LookupEnricher) -> CacheTable:
    """The cache table of an enrichment. Raises `SchemaError` for a declaration that no table can have."""
    return CacheTable(
        declaration.name, declaration.table, declaration.key_column, declaration.columns, declaration.dependents
    )


def cache_tables() -> list[CacheTable]:
    """Those of all enrichments, in order."""
    return [cache_table(declaration) for declaration in REGISTRY.enrichers]
