"""Takes declarations of cache tables, gives their statements, and makes the tables as they are declared.

A cache is disposable: where its columns differ from those declared, its table is emptied and altered, never migrated.
One set of statements (`include/sql/caches`) serves every cache.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

import msgspec
import psycopg
from psycopg.sql import SQL, Composable, Identifier, Placeholder

from enrichment import sql
from enrichment.codec.struct_columns import fields_of
from enrichment.errors import SchemaError

log = logging.getLogger(__name__)

KEY_TYPE = "text"
VALUE_TYPES = {str: "text", int: "bigint", float: "double precision", bool: "boolean"}
# What every cache table has beside its key and its values.
FIXED_COLUMNS = {
    "state": "text",
    "reason": "text",
    "version": "text",
    "fetched_at": "timestamp with time zone",
    "expires_at": "timestamp with time zone",
    "last_used_at": "timestamp with time zone",
}
# What `put_many` is given of each entry, before its values; times in seconds since the epoch.
GIVEN = {
    "key": "text",
    "state": "text",
    "reason": "text",
    "version": "text",
    "expires_at": "double precision",
    "fetched": "double precision",
}
INDEXES_AND_CHECKS = ("state", "absent_has_reason", "expires_after_fetch", "expires_at_idx", "last_used_at_idx")
# PostgreSQL silently cuts longer names off; names of indexes and checks begin with that of the table.
MAX_NAME_BYTES = 63
MAX_TABLE_BYTES = MAX_NAME_BYTES - 1 - max(map(len, INDEXES_AND_CHECKS))


class CacheTable(msgspec.Struct, frozen=True):
    """Where a cache is kept: a row for each key, with a column for each field of the struct `values`.

    `cache` is its name in get_cache_statistics(). `dependents` are tables with a column of the key's name; their rows
    are deleted when their key has left the cache. Raises `SchemaError` for a declaration that no table can have.
    """

    cache: str
    table: str
    key: str
    values: type[msgspec.Struct]
    dependents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [self.key, *self.columns]
        reserved = {"key", *FIXED_COLUMNS} & set(self.columns) or set(FIXED_COLUMNS) & {self.key}
        if not self.columns:
            raise SchemaError(f"the cache {self.cache} has no values: {self.values.__name__} has no fields")
        if reserved or len(set(names)) < len(names):
            twice = ", ".join(sorted(reserved)) or self.key
            raise SchemaError(f"the cache {self.cache} needs other names for {twice}: each of its columns has one")
        for name in (self.table, *self.dependents, *names):
            longest = MAX_TABLE_BYTES if name == self.table else MAX_NAME_BYTES
            if not name or "%" in name or "\0" in name or len(name.encode()) > longest:
                raise SchemaError(
                    f"the cache {self.cache} cannot use the name {name!r}: up to {longest} bytes, without % and NUL"
                )

    @property
    def columns(self) -> dict[str, str]:
        """The value columns and their types, in the order of the struct."""
        return {field.name: _column_type(self.cache, field.name, field.type) for field in fields_of(self.values)}

    @property
    def given(self) -> dict[str, str]:
        """The parameters of `put_many`, an array each, and their types: `GIVEN`, then the values by their numbers."""
        return GIVEN | {f"value_{number}": kind for number, kind in enumerate(self.columns.values())}

    def statement(self, name: str, dependent: str = "") -> bytes:
        """The text of `include/sql/caches/<name>.sql` for this table, and for one of its dependents where the statement
        is about that. Composed once."""
        return _compose(self, name, dependent)


def make_tables(connection: psycopg.Connection[Any], tables: Sequence[CacheTable]) -> None:
    """Make the tables that are missing, remake those whose columns differ, and write down which caches there are.

    Harmless when nothing is to be done, and when two sessions do it at once. Raises `SchemaError` where a table is not
    a cache's, or where a view reads a column that would be dropped; nothing was changed then.
    """
    for what, names in (("cache", [t.cache for t in tables]), ("table", [t.table for t in tables])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SchemaError(f"two caches are declared with the same {what}: {', '.join(twice)}")
    with connection.transaction():
        connection.execute(sql.load("schema_versions/lock"))
        for table in tables:
            _make(connection, table)
        for position, table in enumerate(tables):
            declared = {"cache": table.cache, "table_name": table.table, "key_column": table.key, "position": position}
            connection.execute(sql.load("enrichment_caches/put"), declared)
        connection.execute(sql.load("enrichment_caches/remove_others"), {"caches": [table.cache for table in tables]})


def _make(connection: psycopg.Connection[Any], table: CacheTable) -> None:
    found = connection.execute(sql.load("caches/find_columns"), {"table": table.table}).fetchall()
    if not found:
        connection.execute(table.statement("create"))
        return
    present = {name: (kind, is_key) for name, kind, is_key in found}
    if any(present.get(name, ("", False))[0] != kind for name, kind in FIXED_COLUMNS.items()):
        raise SchemaError(
            f"the cache {table.cache} is declared with the table {table.table}, which exists and is not a cache's:"
            " name another, or drop it"
        )
    wanted = {table.key: (KEY_TYPE, True)} | {name: (kind, False) for name, kind in table.columns.items()}
    gone = [name for name in present if name not in FIXED_COLUMNS and wanted.get(name) != present[name]]
    new = [name for name in wanted if present.get(name) != wanted[name]]
    if gone or new:
        _refuse_where_views_depend(connection, table, gone)
        log.info("cache.table_remade table=%s gone=%s new=%s", table.table, gone, new)
        connection.execute(_remake(table, gone, new))


def _refuse_where_views_depend(connection: psycopg.Connection[Any], table: CacheTable, gone: Sequence[str]) -> None:
    views = connection.execute(sql.load("caches/find_views"), {"table": table.table, "columns": gone}).fetchall()
    if views:
        read = ", ".join(f"{view} reads {column}" for view, column in views)
        raise SchemaError(
            f"the cache {table.cache} is declared without columns of {table.table} that views need: {read}. Drop the"
            " views, or declare the columns"
        )


def _remake(table: CacheTable, gone: Sequence[str], new: Sequence[str]) -> bytes:
    drops: list[Composable] = [SQL("DROP COLUMN {}").format(Identifier(name)) for name in gone]
    adds: list[Composable] = [
        SQL('ADD COLUMN {} text COLLATE "C" PRIMARY KEY').format(Identifier(name))
        if name == table.key
        else SQL("ADD COLUMN {}").format(_definition(name, table.columns[name]))
        for name in new
    ]
    changes = SQL(", ").join([*drops, *adds])
    return SQL(sql.load("caches/remake")).format(table=Identifier(table.table), changes=changes).as_bytes(None)


@cache
def _compose(table: CacheTable, name: str, dependent: str) -> bytes:
    # A statement takes what it needs of these.
    columns = [Identifier(column) for column in table.columns]
    words: dict[str, Composable] = {
        "table": Identifier(table.table),
        "key": Identifier(table.key),
        "dependent": Identifier(dependent),
        "columns": _list(columns),
        "given": _list(
            [SQL("{}::{}[]").format(Placeholder(name), SQL(kind)) for name, kind in table.given.items()],
        ),
        "given_names": SQL(", ").join(map(Identifier, table.given)),
        "given_columns": _list([SQL("given.{}").format(Identifier(name)) for name in table.given if name not in GIVEN]),
        "aggregates": _list([SQL("array_agg({0}) AS {0}").format(column) for column in columns]),
        "assignments": _list([SQL("{0} = EXCLUDED.{0}").format(column) for column in columns]),
        "definitions": _list([_definition(*column) for column in table.columns.items()]),
        **{suffix: Identifier(f"{table.table}_{suffix}") for suffix in INDEXES_AND_CHECKS},
    }
    return SQL(sql.load(f"caches/{name}")).format(**words).as_bytes(None)


def _list(parts: Sequence[Composable]) -> Composable:
    return SQL(",\n    ").join(parts)


def _definition(name: str, kind: str) -> Composable:
    return SQL("{} {}").format(Identifier(name), SQL(kind))


def _column_type(cache_name: str, field: str, declared: Any) -> str:
    """The type of a value's column; every value may be null."""
    kinds = [kind for kind in get_args(declared) or (declared,) if kind is not type(None)]
    if len(kinds) != 1 or kinds[0] not in VALUE_TYPES:
        known = ", ".join(kind.__name__ for kind in VALUE_TYPES)
        raise SchemaError(f"the cache {cache_name} cannot keep {field}, which is {declared}: columns are {known}")
    return VALUE_TYPES[kinds[0]]
