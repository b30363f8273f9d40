"""Upgrades a database of any earlier schema to the objects of `include/sql/schema.sql`.

The files of `include/sql/migrations` are applied in the order of their numbers. To Alembic each is a revision without a
parent, so the version table has a row for every file that was applied, and a late file with a lower number is still
found missing (docs/decisions/0004). Cache tables are made as they are declared (`enrichment.caches.tables`).
`python -m enrichment.store` does all of this from a shell.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from enrichment import sql
from enrichment.caches.tables import CacheTable, make_tables
from enrichment.databases import Limits, encoding_fault
from enrichment.errors import SchemaError

FOLDER = "migrations"
VERSION_TABLE = "schema_versions"
# An upgrade may rewrite a large table; its waits for locks, and those of others for it, are bounded.
LIMITS = Limits(connect=10, statement=3_600, lock=60)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file: `0002_batch_purpose` has the number 0002."""

    number: str
    name: str

    @property
    def text(self) -> str:
        """Its SQL."""
        return sql.load(f"{FOLDER}/{self.name}")


def apply_schema(connection: psycopg.Connection[Any], caches: Sequence[CacheTable]) -> None:
    """Apply the missing migrations and make the tables of the caches; harmless when nothing is missing, and when two
    sessions do it at once.

    All or nothing: one transaction, and the second session waits for it. A database without recorded migrations (empty,
    or made by an earlier release's schema.sql) gets all of them: each may run where its work is done already. Raises
    `SchemaError` when the files or the database's versions do not fit together, a cache's table cannot be made as it
    is declared, or the database cannot hold every text, and `psycopg.Error`, with a note that names the file, when the
    server refuses.
    """
    if fault := encoding_fault(connection):
        raise SchemaError(fault)
    known = migrations()
    with connection.transaction():
        connection.execute(sql.load("schema_versions/lock"))
        applied = _applied(connection)
        done = "" if applied else _done(connection)
        for migration, script in scripts(known, applied, done):
            try:
                connection.execute(script.encode())
            except psycopg.Error as refused:
                refused.add_note(f"in include/sql/{FOLDER}/{migration.name}.sql; the database is as it was before")
                raise
        make_tables(connection, caches)


def create_database(server: psycopg.Connection[Any], name: str) -> None:
    """Create a missing database, one that holds every text. The connection, to another database of the server, is in
    autocommit."""
    if server.execute(sql.load("schema_versions/find_database"), {"name": name}).fetchone() is not None:
        return
    # A server that was made without a locale makes databases of SQL_ASCII, or those of its own language only.
    is_utf8 = server.execute(sql.load("schema_versions/find_encoding")).fetchall() == [("UTF8",)]
    how = SQL("") if is_utf8 else SQL(" TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'")
    server.execute(SQL("CREATE DATABASE {}{}").format(Identifier(name), how))


def migrations(names: Sequence[str] | None = None) -> list[Migration]:
    """The numbered files in order, gaps allowed. Raises `SchemaError` for a file whose number is missing or twice."""
    found: dict[str, Migration] = {}
    for name in sql.names(FOLDER) if names is None else names:
        number = re.match(r"(\d{4})_[a-z0-9_]+$", name)
        if number is None:
            raise SchemaError(f"include/sql/{FOLDER}/{name}.sql has no number: name it like 0002_batch_purpose.sql")
        if other := found.get(number[1]):
            raise SchemaError(
                f"include/sql/{FOLDER} has number {number[1]} twice, {other.name} and {name}:"
                " give the newer one the next number"
            )
        found[number[1]] = Migration(number[1], name)
    return [found[number] for number in sorted(found)]


def scripts(known: Sequence[Migration], applied: Collection[str], done: str = "") -> Iterator[tuple[Migration, str]]:
    """Each missing migration with its SQL: the file and its row of the version table.

    Those up to the number `done` lack only the row. Raises `SchemaError` when the database has a number that no file
    has.
    """
    if unknown := set(applied) - {migration.number for migration in known}:
        raise SchemaError(
            f"the database has migrations that include/sql/{FOLDER} has not: {', '.join(sorted(unknown))};"
            " a newer release upgraded it, so use that one or later"
        )
    for migration in known:
        if migration.number not in applied:
            yield migration, _script(migration, "" if migration.number <= done else migration.text)


def _applied(connection: psycopg.Connection[Any]) -> list[str]:
    exists = connection.execute(sql.load("schema_versions/exists")).fetchone()
    if not exists or not exists[0]:
        connection.execute(sql.load("schema_versions/create"))
    return [number for (number,) in connection.execute(sql.load("schema_versions/applied"))]


def _done(connection: psycopg.Connection[Any]) -> str:
    """The last migration whose work is known to be done; empty: all may run."""
    found = connection.execute(sql.load("schema_versions/find_done")).fetchone()
    return found[0] if found else ""


def _script(migration: Migration, text: str) -> str:
    """Alembic's offline mode: it writes the SQL, psycopg runs it in a transaction shared with other statements."""
    from alembic.runtime.migration import MigrationContext  # 0.5 s with SQLAlchemy
    from alembic.script import ScriptDirectory
    from alembic.script.revision import Revision

    revisions = ScriptDirectory(Path(__file__).parent)  # any folder: without `versions` in it, none is read
    revisions.revision_map.add_revision(Revision(migration.number, None))
    row = io.StringIO()
    options = {"as_sql": True, "output_buffer": row, "version_table": VERSION_TABLE}
    MigrationContext.configure(dialect_name="postgresql", opts=options).stamp(revisions, migration.number)
    return f"{text}\n{row.getvalue()}"
