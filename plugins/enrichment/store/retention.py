"""Takes retention times, leaves ledger, metrics and audit log without what is older, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from enrichment import sql

# In this order metrics that go by their own retention are counted before batches take the others along.
KEPT = ("enrichment_metrics", "enrichment_jobs", "enrichment_audit_log")


class Forgotten(msgspec.Struct, frozen=True):
    """Rows deleted by table (in a dry run: that are old), and old batches that were never published, which stay until
    their group has published past them."""

    enrichment_metrics: int = 0
    enrichment_jobs: int = 0
    enrichment_audit_log: int = 0
    unpublished: int = 0
    dry_run: bool = False


def forget(
    connection: psycopg.Connection[Any], keep: Mapping[str, timedelta], *, chunk_rows: int, dry_run: bool = False
) -> Forgotten:
    """Delete what is older than `keep` says of its table, each chunk in a transaction of its own; dry, only count.

    Where nothing is old, that takes a statement a table and one more. Raises `psycopg.Error` when the database refuses;
    earlier chunks are gone then, and the next try goes on from there.
    """
    if dry_run:
        counted = {table: _count(connection, table, keep[table]) for table in KEPT}
        rows = {table: found["old"] for table, found in counted.items()}
        unpublished = counted["enrichment_jobs"]["unpublished"]
    else:
        rows = {table: _delete(connection, table, keep[table], chunk_rows) for table in KEPT}
        unpublished = _count(connection, "enrichment_jobs", keep["enrichment_jobs"])["unpublished"]
    return msgspec.convert({**rows, "unpublished": unpublished, "dry_run": dry_run}, Forgotten)


def _delete(connection: psycopg.Connection[Any], table: str, keep: timedelta, chunk_rows: int) -> int:
    deleted = 0
    while True:
        with connection.transaction():
            rows = connection.execute(sql.load(f"{table}/delete_old"), {"keep": keep, "row_limit": chunk_rows}).rowcount
        deleted += rows
        if rows < chunk_rows:
            return deleted


def _count(connection: psycopg.Connection[Any], table: str, keep: timedelta) -> dict[str, int]:
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(sql.load(f"{table}/count_old"), {"keep": keep})
        return cursor.fetchall()[0]
