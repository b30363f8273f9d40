"""Tables of caches: made and remade as declared, with one set of statements for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from enrichment.caches.base import Entry, State
from enrichment.caches.eviction import evict, statistics
from enrichment.caches.postgres import PostgresLayer
from enrichment.caches.renewal import find_hot
from enrichment.caches.tables import FIXED_COLUMNS, CacheTable, make_tables
from enrichment.enrichers.tables import cache_tables
from enrichment.enrichers.testing import FixedClock
from enrichment.errors import SchemaError
from enrichment.store.schema import apply_schema
from tests.fixtures.postgres import MakeDatabase

BY_NAME = {table.cache: table for table in cache_tables()}
CACHES = tuple(cache_tables())

Connection = psycopg.Connection[Any]

HOUR = 3_600


class Watch(msgspec.Struct, frozen=True, gc=False):
    """A value with a column of each type."""

    list_name: str | None = None
    reports: int | None = None
    score: float | None = None
    is_exit_node: bool | None = None


class Capitals(msgspec.Struct, frozen=True, gc=False):
    """Names that mean something else, or nothing, unless they are quoted."""

    Order: str | None = None
    order: int | None = None
    Ünit: str | None = None  # noqa: PLC2401  what a column may be called


WATCH = CacheTable("watch", "watch_cache", "ip_address", Watch)
ODD = CacheTable("odd", 'Odd "cache"; --', 'Key\'s "name"', Capitals, dependents=('Odd "risks"',))
FULL = {"watch": Watch("blocked", 7, 0.5, True), "odd": Capitals("a", 1, "b")}
# What a table is, but for its name and the comments that only a person would write.
SHAPE = """
    SELECT 'column', attname, concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attcollation::regcollation,
                                        pg_get_expr(adbin, adrelid))
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %(table)s::regclass
    UNION ALL
    SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid = %(table)s::regclass
    ORDER BY 1, 2
"""


@pytest.fixture
def database(postgres_server: MakeDatabase) -> str:
    """A database of the test's own, with the schema applied."""
    return postgres_server()


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    """A connection to it."""
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


def shape(connection: Connection, table: str) -> list[tuple[str, str, str]]:
    """Columns, constraints and indexes of a table."""
    return connection.execute(SHAPE, {"table": table}).fetchall()


def values(found: list[tuple[str, str, str]]) -> dict[str, str]:
    """The columns that a declaration names, and their types."""
    types = {name: re.split(r" [ft]\b", text)[0] for kind, name, text in found if kind == "column"}
    return {name: text for name, text in types.items() if name not in FIXED_COLUMNS}


def caches(connection: Connection) -> list[tuple[str, str, str]]:
    """What is written down of the caches, in order."""
    return connection.execute(
        "SELECT cache, table_name, key_column FROM enrichment_caches ORDER BY position"
    ).fetchall()


def put(connection: Connection, table: CacheTable, clock: FixedClock, *keys: str) -> dict[str, Entry]:
    """Put an entry for each key, and say what they were."""
    entries = {key: Entry(State.FOUND, FULL[table.cache], None, clock() + HOUR) for key in keys}
    PostgresLayer(lambda: connection, table, clock=clock).put_many(entries)
    return entries


@pytest.mark.parametrize("table", CACHES, ids=lambda table: table.cache)
def test_declaration_makes_what_the_schema_says(connection: Connection, table: CacheTable) -> None:
    """A table that is made from its declaration is that of schema.sql."""
    wanted = shape(connection, table.table)
    connection.execute(f"DROP TABLE {table.table} CASCADE".encode())
    make_tables(connection, CACHES)
    assert shape(connection, table.table) == wanted
    assert len(wanted) > 10


def test_nothing_changes_when_the_tables_are_as_declared(connection: Connection, clock: FixedClock) -> None:
    """Not a row, a column or a row of the catalogue: on a fresh schema, and when done again."""
    catalogue = "SELECT xmin, oid FROM pg_class WHERE relnamespace = 'public'::regnamespace UNION ALL SELECT xmin, 0"
    question = f"SELECT array_agg(c ORDER BY c::text) FROM ({catalogue} FROM enrichment_caches) AS c".encode()
    before = connection.execute(question).fetchall()
    make_tables(connection, CACHES)
    assert connection.execute(question).fetchall() == before
    make_tables(connection, [*CACHES, WATCH])
    entries = put(connection, WATCH, clock, "8.8.8.8")
    before = connection.execute(question).fetchall()
    make_tables(connection, [*CACHES, WATCH])
    assert connection.execute(question).fetchall() == before
    assert PostgresLayer(lambda: connection, WATCH, clock=clock).get_many(["8.8.8.8"]) == entries


@pytest.mark.parametrize("table", [WATCH, ODD], ids=["plain", "odd names"])
def test_a_cache_needs_nothing_but_its_declaration(
    database: str, connection: Connection, clock: FixedClock, table: CacheTable
) -> None:
    """Put, get, note uses, find what to renew, count, evict: all of it works on a table that was only declared."""
    for dependent in table.dependents:
        connection.execute(
            SQL('CREATE TABLE {} ({} text COLLATE "C" PRIMARY KEY)').format(
                Identifier(dependent), Identifier(table.key)
            )
        )
        connection.execute(SQL("INSERT INTO {} VALUES ('a')").format(Identifier(dependent)))
    apply_schema(connection, [*CACHES, table])
    name = Identifier(table.table)
    with closing(PostgresLayer(lambda: psycopg.connect(database), table, clock=clock, touch_after_seconds=60)) as layer:
        entries = {key: Entry(State.FOUND, FULL[table.cache], None, clock() + HOUR, "1") for key in ("a", "b")}
        entries |= {
            "empty": Entry(State.FOUND, table.values(), None, clock() + HOUR, "1"),
            "gone": Entry(State.ABSENT, None, "not-listed", clock() + HOUR, "1"),
        }
        layer.put_many(entries)
        layer.put_many(entries)
        assert layer.get_many([*entries, "unknown"]) == entries
        clock.advance(61)
        layer.get_many(["a"])
    used = SQL("SELECT count(*) FROM {} WHERE last_used_at > fetched_at").format(name)
    assert connection.execute(used).fetchall() == [(1,)]

    assert list(statistics(connection)) == ["geo", "user", "business", table.cache]
    assert statistics(connection)[table.cache].entries == 4
    assert statistics(connection)[table.cache].absent == 1
    assert statistics(connection)[table.cache].expired == 4  # the clock of the test stands in the past

    connection.execute(
        SQL("UPDATE {} SET fetched_at = now(), expires_at = now() + interval '1 hour',").format(name)
        + SQL(" last_used_at = now() + CASE WHEN state = 'found' THEN 1 ELSE 0 END * interval '1 minute'")
    )
    hot = find_hot(connection, table, ahead=timedelta(hours=2), limit=9, version="1")
    assert sorted(hot) == ["a", "b", "empty"]

    done = evict(connection, table, grace=timedelta(0), max_rows=2, chunk_rows=1)
    assert (done.found + done.absent, done.surplus, done.entries) == (0, 2, 2)
    connection.execute(SQL("UPDATE {} SET expires_at = now()").format(name))
    done = evict(connection, table, grace=timedelta(0), max_rows=2, chunk_rows=1)
    assert (done.found, done.entries, done.orphans) == (2, 0, len(table.dependents))


def test_caches_are_written_down_in_their_order(connection: Connection, clock: FixedClock) -> None:
    """The statistics go by it. What is declared no longer is forgotten; its table stays, with what it holds."""
    make_tables(connection, [WATCH, *CACHES])
    assert caches(connection)[:2] == [("watch", "watch_cache", "ip_address"), ("geo", "geo_ip_cache", "ip_address")]
    entries = put(connection, WATCH, clock, "8.8.8.8")
    make_tables(connection, CACHES)
    assert list(statistics(connection)) == ["geo", "user", "business"]
    make_tables(connection, [*CACHES, WATCH])
    assert list(statistics(connection)) == ["geo", "user", "business", "watch"]
    assert PostgresLayer(lambda: connection, WATCH, clock=clock).get_many(["8.8.8.8"]) == entries


class Less(msgspec.Struct, frozen=True, gc=False):
    """`Watch` without one of its fields."""

    list_name: str | None = None
    reports: int | None = None
    score: float | None = None


class Retyped(msgspec.Struct, frozen=True, gc=False):
    """`Watch` with another type of one of its fields."""

    list_name: str | None = None
    reports: str | None = None
    score: float | None = None
    is_exit_node: bool | None = None


class Keyed(msgspec.Struct, frozen=True, gc=False):
    """`Watch` with what was its key as a value."""

    ip_address: str | None = None
    reports: int | None = None


@pytest.mark.parametrize(
    ("declared", "wanted"),
    [
        (
            CacheTable("watch", "watch_cache", "ip_address", Less),
            {"ip_address": "text", "list_name": "text", "reports": "bigint", "score": "double precision"},
        ),
        (
            CacheTable("watch", "watch_cache", "ip_address", Retyped),
            {"ip_address": "text", "list_name": "text", "reports": "text", "score": "double precision",
             "is_exit_node": "boolean"},
        ),
        (
            CacheTable("watch", "watch_cache", "address", Watch),
            {"address": "text", "list_name": "text", "reports": "bigint", "score": "double precision",
             "is_exit_node": "boolean"},
        ),
        (
            CacheTable("watch", "watch_cache", "list_name", Keyed),
            {"list_name": "text", "ip_address": "text", "reports": "bigint"},
        ),
    ],
    ids=["a column less", "another type", "another key", "key and value changed places"],
)  # fmt: skip
def test_a_table_is_remade_when_its_columns_differ(
    connection: Connection, clock: FixedClock, declared: CacheTable, wanted: dict[str, str]
) -> None:
    """It is empty then and has what is declared, as if it were made anew; what it held was of other columns."""
    make_tables(connection, [declared])
    fresh = shape(connection, "watch_cache")
    connection.execute("DROP TABLE watch_cache")
    make_tables(connection, [WATCH])
    put(connection, WATCH, clock, "8.8.8.8")
    assert shape(connection, "watch_cache") != fresh
    make_tables(connection, [declared])
    assert connection.execute("SELECT count(*) FROM watch_cache").fetchall() == [(0,)]
    assert shape(connection, "watch_cache") == fresh
    assert values(fresh) == wanted


class Placeless(msgspec.Struct, frozen=True, gc=False):
    """A place without what a view shows of it."""

    country: str | None = None
    timezone: str | None = None


def test_a_column_that_a_view_reads_does_not_go(connection: Connection, clock: FixedClock) -> None:
    """It is refused, with the names of views and columns; the rows stay, and so does all else that was to be made."""
    connection.execute(
        "INSERT INTO geo_ip_cache (ip_address, state, fetched_at, expires_at) VALUES ('8.8.8.8', 'found', now(), now())"
    )
    before = shape(connection, "geo_ip_cache"), caches(connection)
    declared = CacheTable("geo", "geo_ip_cache", "ip_address", Placeless)
    with pytest.raises(SchemaError, match=r"v_active_geo_cache reads city, .* reads region\. Drop the views"):
        apply_schema(connection, [WATCH, declared])
    assert (shape(connection, "geo_ip_cache"), caches(connection)) == before
    assert connection.execute("SELECT count(*), to_regclass('watch_cache') FROM geo_ip_cache").fetchall() == [(1, None)]


def test_a_table_is_remade_under_a_view_that_reads_what_stays(connection: Connection) -> None:
    """Views of what is still there are no obstacle, and go on working; grants stay, too."""
    make_tables(connection, [WATCH])
    connection.execute("CREATE VIEW listed AS SELECT ip_address, list_name, expires_at FROM watch_cache")
    connection.execute("GRANT SELECT ON watch_cache TO PUBLIC")
    make_tables(connection, [CacheTable("watch", "watch_cache", "ip_address", Less)])
    assert "is_exit_node" not in {name for _, name, _ in shape(connection, "watch_cache")}
    assert connection.execute("SELECT count(*) FROM listed").fetchall() == [(0,)]
    granted = "SELECT has_table_privilege('pg_monitor', 'watch_cache', 'SELECT')"
    assert connection.execute(granted).fetchall() == [(True,)]


def test_a_table_that_is_none_of_a_cache_is_never_touched(connection: Connection) -> None:
    """A declaration that names somebody's table by mistake must not empty it."""
    connection.execute("CREATE TABLE orders (ip_address text PRIMARY KEY, state text)")
    connection.execute("INSERT INTO orders VALUES ('a', 'open')")
    with pytest.raises(SchemaError, match="orders, which exists and is not a cache's"):
        make_tables(connection, [CacheTable("watch", "orders", "ip_address", Watch)])
    assert connection.execute("SELECT ip_address, state FROM orders").fetchall() == [("a", "open")]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (CacheTable("watch", "geo_ip_cache", "ip_address", Watch), "table: geo_ip_cache"),
        (CacheTable("geo", "watch_cache", "ip_address", Watch), "cache: geo"),
    ],
    ids=["table", "cache"],
)
def test_two_caches_are_refused_when_they_are_one(connection: Connection, other: CacheTable, what: str) -> None:
    """Two declarations with one table would empty it in turn at every start."""
    with pytest.raises(SchemaError, match=f"the same {what}"):
        make_tables(connection, [*CACHES, other])


class State_(msgspec.Struct):  # noqa: N801  a field decides here
    """A field that every cache table has a column for."""

    state: str | None = None


class Nested(msgspec.Struct):
    """A field that no column can keep."""

    names: tuple[str, ...] | None = None


class Nothing(msgspec.Struct):
    """No fields."""


@pytest.mark.parametrize(
    ("table", "key", "values", "complaint"),
    [
        ("t", "k", State_, "other names for state"),
        ("t", "score", Watch, "other names for score"),
        ("t", "expires_at", Watch, "other names for expires_at"),
        ("t", "k", Nested, "cannot keep names"),
        ("t", "k", Nothing, "no values"),
        ("t" * 44, "k", Watch, "cannot use the name"),
        ("t", "k" * 64, Watch, "cannot use the name"),
        ("100%", "k", Watch, "cannot use the name"),
        ("", "k", Watch, "cannot use the name"),
    ],
    ids=[
        "fixed column",
        "key is a value",
        "key is fixed",
        "type",
        "none",
        "long table",
        "long key",
        "percent",
        "empty",
    ],
)
def test_a_declaration_is_refused_when_no_table_can_be_made_of_it(
    table: str, key: str, values: type[msgspec.Struct], complaint: str
) -> None:
    """Where it is written, not in the database: PostgreSQL would cut a long name off and say nothing."""
    with pytest.raises(SchemaError, match=complaint):
        CacheTable("watch", table, key, values)


def test_statements_are_composed_once() -> None:
    """Asked for with each chunk, they cost a look into a dictionary."""
    table = BY_NAME["geo"]
    assert table.statement("get_many") is table.statement("get_many")
    assert CacheTable("geo", "geo_ip_cache", "ip_address", table.values).statement("put_many") is table.statement(
        "put_many"
    )
