"""Deletes the rows of a cache table that have passed their hard expiry, and those above its ceiling.

Rows of other tables for keys that are gone (`CacheTable.dependents`) are deleted, too.

Every chunk is a transaction of its own that locks only the rows it deletes and skips rows that are locked: it waits for
no other session, and none waits for more than one chunk. Lookups are right meanwhile, since expiry is judged when
reading; eviction only frees space.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.rows import dict_row

from enrichment import sql
from enrichment.caches.tables import CacheTable

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
    """The rows that one transaction deleted: past their hard expiry (found, absent), above the ceiling (surplus), or of
    a dependent table (orphans)."""

    found: int = 0
    absent: int = 0
    surplus: int = 0
    surplus_bytes: int = 0
    orphans: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.found + self.absent + self.surplus + self.orphans


class Evicted(msgspec.Struct, frozen=True):
    """What became of a cache.

    `found`, `absent` and `surplus` rows were deleted (would be, in a dry run). `in_grace` rows have expired and stay,
    for as long as their source may be down. `row_bytes` is what the deleted rows took in the table: room for new rows
    once it is vacuumed, which is done at the end. `size_bytes` is the table on disk with its indexes; it shrinks only
    when PostgreSQL itself finds the end of the file empty, so the difference to `size_bytes_before` is mostly 0.
    `orphans` are rows of dependent tables whose key has gone; a dry run does not know those of keys above the ceiling.
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
    orphans: int = 0
    dry_run: bool = False


def statistics(connection: psycopg.Connection[Any]) -> dict[str, Statistics]:
    """Sizes and hits of the caches by their names."""
    rows = _rows(connection, sql.load("caches/get_statistics"), {})
    return {row["cache"]: msgspec.convert(row, Statistics) for row in rows}


def evict(
    connection: psycopg.Connection[Any],
    table: CacheTable,
    *,
    grace: timedelta,
    max_rows: int,
    chunk_rows: int,
    dry_run: bool = False,
) -> Evicted:
    """Evict one cache, vacuum and analyse its tables if there was something to evict; a dry run only counts.

    With nothing to do, this takes two statements and one for each dependent table. Raises `psycopg.Error` when the
    database refuses; what earlier chunks deleted stays deleted, and the next try goes on from there.
    """
    before = statistics(connection)[table.cache]
    due = _count_due(connection, table, grace)
    orphans = _count_orphans(connection, table, grace)
    surplus = max(0, before.entries - due["found"] - due["absent"] - max_rows)
    if dry_run or not (due["found"] or due["absent"] or surplus or orphans):
        return Evicted(
            table.cache, before.entries, due["found"], due["absent"], surplus,
            before.expired - due["found"] - due["absent"], due["bytes"], before.size_bytes, before.size_bytes,
            orphans=orphans, dry_run=dry_run,
        )  # fmt: skip
    done = list(evict_chunks(connection, table, grace=grace, surplus=surplus, chunk_rows=chunk_rows))
    left = _count_due(connection, table, grace)
    _vacuum(connection, table)
    after = statistics(connection)[table.cache]
    return Evicted(
        table.cache,
        after.entries,
        sum(chunk.found for chunk in done),
        sum(chunk.absent for chunk in done),
        sum(chunk.surplus for chunk in done),
        after.expired - left["found"] - left["absent"],
        max(0, due["bytes"] - left["bytes"]) + sum(chunk.surplus_bytes for chunk in done),
        before.size_bytes,
        after.size_bytes,
        len(done),
        sum(chunk.orphans for chunk in done),
    )


def evict_chunks(
    connection: psycopg.Connection[Any], table: CacheTable, *, grace: timedelta, surplus: int, chunk_rows: int
) -> Iterator[EvictedChunk]:
    """Delete what is due, then `surplus` rows by least recent use, then what belonged to rows that are gone, chunk by
    chunk; committed when one is yielded."""
    while chunk := _evict_expired(connection, table, grace, chunk_rows):
        yield chunk
    while surplus > 0 and (chunk := _evict_least_used(connection, table, min(surplus, chunk_rows))):
        surplus -= chunk.surplus
        yield chunk
    for dependent in table.dependents:
        yield from _evict_orphans(connection, table, dependent, chunk_rows)


def report(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """What the caches hold and how well they serve: statistics, and the largest groups of what they know."""
    limit = {"row_limit": REPORTED}
    return {
        "caches": [msgspec.to_builtins(found) for found in statistics(connection).values()],
        "places": _rows(connection, sql.load("caches/count_active_places"), limit),
        "segments": _rows(connection, sql.load("caches/find_segments"), limit),
        "risks": _rows(connection, sql.load("caches/find_risks"), limit),
    }


def _count_due(connection: psycopg.Connection[Any], table: CacheTable, grace: timedelta) -> dict[str, int]:
    return _rows(connection, table.statement("count_due"), {"grace": grace})[0]


def _count_orphans(connection: psycopg.Connection[Any], table: CacheTable, grace: timedelta) -> int:
    statements = [table.statement("count_orphans", dependent) for dependent in table.dependents]
    return sum(_rows(connection, statement, {"grace": grace})[0]["orphans"] for statement in statements)


def _evict_expired(
    connection: psycopg.Connection[Any], table: CacheTable, grace: timedelta, limit: int
) -> EvictedChunk | None:
    row = _delete(connection, table, "evict_expired", {"grace": grace, "row_limit": limit})
    chunk = EvictedChunk(found=row.get("found", 0), absent=row.get("absent", 0))
    return chunk if chunk.rows else None


def _evict_least_used(connection: psycopg.Connection[Any], table: CacheTable, limit: int) -> EvictedChunk | None:
    row = _delete(connection, table, "evict_least_used", {"row_limit": limit})
    return EvictedChunk(surplus=row["rows"], surplus_bytes=row["bytes"]) if row.get("rows") else None


def _evict_orphans(
    connection: psycopg.Connection[Any], table: CacheTable, dependent: str, limit: int
) -> Iterator[EvictedChunk]:
    parameters = {"first": "", "row_limit": limit}
    while (row := _delete(connection, table, "evict_orphans", parameters, dependent)).get("orphans"):
        yield EvictedChunk(orphans=row["orphans"])
        parameters["first"] = row["last"]


def _delete(
    connection: psycopg.Connection[Any], table: CacheTable, name: str, parameters: Mapping[str, Any],
    dependent: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The rows that a chunk deleted; none when it repeatedly met a lock that it cannot skip: the next run retries."""
    for _ in range(TRIES):
        try:
            with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
                cursor.execute(sql.load("caches/wait_briefly"))
                cursor.execute(table.statement(name, dependent), parameters)
                return cursor.fetchall()[0]
        except psycopg.errors.LockNotAvailable:
            log.info("cache.chunk_given_up table=%s statement=%s", dependent or table.table, name)
    return {}


def _vacuum(connection: psycopg.Connection[Any], table: CacheTable) -> None:
    """Outside of a transaction, as VACUUM must be."""
    before = connection.autocommit
    connection.autocommit = True
    try:
        connection.execute(table.statement("vacuum"))
        for dependent in table.dependents:
            connection.execute(table.statement("vacuum_dependent", dependent))
    finally:
        connection.autocommit = before


def _rows(
    connection: psycopg.Connection[Any], statement: bytes | LiteralString, parameters: Mapping[str, Any]
) -> list[dict[str, Any]]:
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()
