"""A cache table that is only read: for a look that must leave no trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enrichment.caches.base import Entry, Tier
from enrichment.caches.postgres import PostgresLayer


class UnkeptTable:
    """A `CacheLayer` over a table that keeps nothing that is put, and notes no use."""

    tier = Tier.POSTGRES

    def __init__(self, table: PostgresLayer) -> None:
        self._table = table

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """As `PostgresLayer.get_many`."""
        found = self._table.get_many(keys)
        self._table.take_used()  # so that closing it does not note it
        return found

    def put_many(self, entries: Mapping[str, Entry]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Close the table's connections."""
        self._table.close()
