"""Takes a cache table, leaves it without what has passed its hard expiry and with no more rows than its ceiling.

Every chunk is a transaction of its own that locks only the rows it deletes and passes over those that somebody else has
locked: it waits for nobody, and nobody waits for more than one chunk. What is served or fetched meanwhile is right
either way, since expiry is judged when reading; eviction only frees space.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from enrichment import sql

# The table of each cache, under the names of get_cache_statistics().
TABLES = {"geo": "geo_ip_cache", "user": "user_profile_cache", "business": "business_context_cache"}
REPORTED = 10  # groups of each view in a report
TRIES = 5  # of a chunk that meets a lock

log = logging.getLogger(__name__)


class Statistics(msgspec.Struct, frozen=True):
    """A row of get_cache_statistics(): `expired` rows are those that only an outage of their source may serve."""

    cache: str
    entries: int
    expired: int
    absent: int
    size_bytes: int
    messages: int
    memory_hits: int
    postgres_hits: int
    misses: int
    stale: int
    hit_rate: float | None


class EvictedChunk(msgspec.Struct, frozen=True):
    """What one transaction deleted: past their hard expiry (found, absent), or above the ceiling (surplus)."""

    found: int = 0
    absent: int = 0
    surplus: int = 0
    surplus_bytes: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.found + self.absent + self.surplus


class Evicted(msgspec.Struct, frozen=True):
    """What became of a cache.

    `found`, `absent` and `surplus` rows were deleted (would be, in a dry run). `in_grace` rows have expired and stay,
    for as long as their source may be down. `row_bytes` is what the deleted rows took in the table: room for new rows
    once it is vacuumed, which is done at the end. `size_bytes` is the table on disk with its indexes; it shrinks only
    when PostgreSQL itself finds the end of the file empty, so the difference to `size_bytes_before` is mostly 0.
    """

    cache: str
    entries: int
    found: int
    absent: int
    surplus: int
    in_grace: int
    row_bytes: int
    size_bytes_before: int
    size_bytes: int
    chunks: int = 0
    dry_run: bool = False


def statistics(connection: psycopg.Connection[Any]) -> dict[str, Statistics]:
    """Sizes and hits of the caches by their names."""
    return {row["cache"]: msgspec.convert(row, Statistics) for row in _rows(connection, "caches/get_statistics", {})}


def evict(
    connection: psycopg.Connection[Any],
    cache: str,
    *,
    grace: timedelta,
    max_rows: int,
    chunk_rows: int,
    dry_run: bool = False,
) -> Evicted:
    """Evict one cache, vacuum and analyse its table if there was something to evict; a dry run only counts.

    Where there is nothing to do, that takes two statements. Raises `psycopg.Error` when the database refuses; what
    earlier chunks deleted is gone then, and the next try goes on from there.
    """
    before = statistics(connection)[cache]
    due = _count_due(connection, cache, grace)
    surplus = max(0, before.entries - due["found"] - due["absent"] - max_rows)
    if dry_run or not (due["found"] or due["absent"] or surplus):
        return Evicted(
            cache, before.entries, due["found"], due["absent"], surplus, before.expired - due["found"] - due["absent"],
            due["bytes"], before.size_bytes, before.size_bytes, dry_run=dry_run,
        )  # fmt: skip
    done = list(evict_chunks(connection, cache, grace=grace, surplus=surplus, chunk_rows=chunk_rows))
    left = _count_due(connection, cache, grace)
    _vacuum(connection, cache)
    after = statistics(connection)[cache]
    return Evicted(
        cache,
        after.entries,
        sum(chunk.found for chunk in done),
        sum(chunk.absent for chunk in done),
        sum(chunk.surplus for chunk in done),
        after.expired - left["found"] - left["absent"],
        max(0, due["bytes"] - left["bytes"]) + sum(chunk.surplus_bytes for chunk in done),
        before.size_bytes,
        after.size_bytes,
        len(done),
    )


def evict_chunks(
    connection: psycopg.Connection[Any], cache: str, *, grace: timedelta, surplus: int, chunk_rows: int
) -> Iterator[EvictedChunk]:
    """Delete what is due, then `surplus` rows by least recent use, chunk by chunk; committed when one is yielded."""
    while chunk := _evict_expired(connection, cache, grace, chunk_rows):
        yield chunk
    while surplus > 0 and (chunk := _evict_least_used(connection, cache, min(surplus, chunk_rows))):
        surplus -= chunk.surplus
        yield chunk


def report(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """What the caches hold and how well they serve: statistics, and the largest groups of what they know."""
    limit = {"row_limit": REPORTED}
    return {
        "caches": [msgspec.to_builtins(found) for found in statistics(connection).values()],
        "places": _rows(connection, "caches/count_active_places", limit),
        "segments": _rows(connection, "caches/find_segments", limit),
        "risks": _rows(connection, "caches/find_risks", limit),
    }


def _count_due(connection: psycopg.Connection[Any], cache: str, grace: timedelta) -> dict[str, int]:
    return _rows(connection, f"{TABLES[cache]}/count_due", {"grace": grace})[0]


def _evict_expired(
    connection: psycopg.Connection[Any], cache: str, grace: timedelta, limit: int
) -> EvictedChunk | None:
    row = _delete(connection, f"{TABLES[cache]}/evict_expired", {"grace": grace, "row_limit": limit})
    chunk = EvictedChunk(found=row.get("found", 0), absent=row.get("absent", 0))
    return chunk if chunk.rows else None


def _evict_least_used(connection: psycopg.Connection[Any], cache: str, limit: int) -> EvictedChunk | None:
    row = _delete(connection, f"{TABLES[cache]}/evict_least_used", {"row_limit": limit})
    return EvictedChunk(surplus=row["rows"], surplus_bytes=row["bytes"]) if row.get("rows") else None


def _delete(connection: psycopg.Connection[Any], statement: str, parameters: Mapping[str, Any]) -> dict[str, int]:
    """What a chunk deleted; nothing when it met a lock that it cannot pass over, time and again: the next run comes."""
    for _ in range(TRIES):
        try:
            with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
                cursor.execute(sql.load("caches/wait_briefly"))
                cursor.execute(sql.load(statement), parameters)
                return cursor.fetchall()[0]
        except psycopg.errors.LockNotAvailable:
            log.info("cache.chunk_given_up statement=%s", statement)
    return {}


def _vacuum(connection: psycopg.Connection[Any], cache: str) -> None:
    """Outside of a transaction, as VACUUM must be."""
    before = connection.autocommit
    connection.autocommit = True
    try:
        connection.execute(sql.load(f"{TABLES[cache]}/vacuum"))
    finally:
        connection.autocommit = before


def _rows(connection: psycopg.Connection[Any], statement: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(sql.load(statement), parameters)
        return cursor.fetchall()
