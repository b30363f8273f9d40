"""Renews the keys in use of a cache table from its source shortly before they expire (refresh-ahead)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import psycopg

from enrichment.caches.base import Entry, KeyLookup, State, Tier
from enrichment.caches.postgres import PostgresLayer
from enrichment.caches.tables import CacheTable

log = logging.getLogger(__name__)


class RenewedTable:
    """The table as a renewal sees it, a `CacheLayer`: no entry is fresh enough, and writing does not count as a use.

    A key that only renewals touch is therefore not renewed a second time.
    """

    tier = Tier.POSTGRES

    def __init__(self, table: PostgresLayer) -> None:
        self._table = table

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:  # noqa: ARG002  the protocol's
        """Nothing."""
        return {}

    def put_many(self, entries: Mapping[str, Entry]) -> None:
        """Keep these entries with the time of their last use."""
        self._table.renew_many(entries)


class Renewed(msgspec.Struct, frozen=True):
    """What became of the keys that were due: renewed as found or absent, or failed because their source is down."""

    keys: int = 0
    found: int = 0
    absent: int = 0
    failed: int = 0


def find_hot(
    connection: psycopg.Connection[Any], table: CacheTable, *, ahead: timedelta, limit: int, version: str
) -> list[str]:
    """The keys to renew: used again since they were fetched, about to expire; those used last, at most `limit`."""
    with connection.transaction():
        rows = connection.execute(table.statement("find_hot"), {"ahead": ahead, "row_limit": limit, "version": version})
        return [key for (key,) in rows]


def renew(keys: Sequence[str], lookup: KeyLookup) -> Renewed:
    """Fetch these keys again from the source. Where it is down, the rows stay as they are."""
    if not keys:
        return Renewed()
    states = Counter(answer.entry.state for answer in lookup.answer_many(keys))
    if states[State.FAILED]:
        log.warning("renewal.failed keys=%d of=%d", states[State.FAILED], len(keys))
    return Renewed(len(keys), states[State.FOUND], states[State.ABSENT], states[State.FAILED])
