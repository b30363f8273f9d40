"""What a load costs PostgreSQL: rows written, rows that are dead, the size of tables and indexes, and the log (WAL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from rich.table import Table

SHOWN = 12  # tables
TABLES = """
SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup, pg_table_size(relid), pg_indexes_size(relid)
FROM pg_stat_user_tables
"""
WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"


@dataclass(frozen=True)
class TableState:
    """Counters of rows since the server's start, rows that are dead now, and bytes on disk now."""

    inserted: int
    updated: int
    deleted: int
    dead: int
    table_bytes: int
    index_bytes: int


@dataclass(frozen=True)
class DatabaseState:
    """The StackLens database at one moment; `wal_bytes` is the whole server's, Airflow's database included."""

    tables: Mapping[str, TableState] = field(default_factory=dict)
    wal_bytes: int = 0


def database_state(dsn: str) -> DatabaseState:
    """Look at the database."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        tables = {name: TableState(*counts) for name, *counts in connection.execute(TABLES).fetchall()}
        [(wal,)] = connection.execute(WAL).fetchall()
    return DatabaseState(tables, int(wal))


def database_summary(before: DatabaseState, after: DatabaseState, minutes: float) -> dict[str, Any]:
    """What was written between two moments, and how large the tables are at the second one, the largest first."""
    nothing = TableState(0, 0, 0, 0, 0, 0)
    rows: list[dict[str, Any]] = []
    for name, now in after.tables.items():
        then = before.tables.get(name, nothing)
        rows.append({
            "table": name,
            "inserted": now.inserted - then.inserted,
            "updated": now.updated - then.updated,
            "deleted": now.deleted - then.deleted,
            "dead": now.dead,
            "table_mb": round(now.table_bytes / 2**20, 1),
            "index_mb": round(now.index_bytes / 2**20, 1),
        })  # fmt: skip
    rows.sort(key=lambda row: row["table_mb"] + row["index_mb"], reverse=True)
    wal = after.wal_bytes - before.wal_bytes
    return {"tables": rows, "minutes": round(minutes, 1), "wal_gb_per_day": round(wal / 2**30 * 1440 / minutes, 2)}


def database_table(found: Mapping[str, Any]) -> Table:
    """The largest tables."""
    title = f"PostgreSQL under the load, {found['minutes']} min; WAL of a day at this rate {found['wal_gb_per_day']} GB"
    table = Table("table", "inserted", "updated", "deleted", "dead rows", "table", "indexes", title=title)
    rows: Sequence[Mapping[str, Any]] = found["tables"]
    for row in rows[:SHOWN]:
        table.add_row(
            row["table"], *(f"{row[name]:,}" for name in ("inserted", "updated", "deleted", "dead")),
            f"{row['table_mb']} MB", f"{row['index_mb']} MB",
        )  # fmt: skip
    return table
