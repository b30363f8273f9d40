"""Answers from PostgreSQL tables: keys in, structs out, by one query for all keys, written by the user.

There are three kinds of failures. The query is wrong for any keys: `SettingsError`. The database does not answer: an
outage. The query fails for a row or a key (a cast, a division by zero): that key alone is absent.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.abc import Buffer
from psycopg.adapt import PyFormat
from psycopg.rows import tuple_row
from psycopg.types.array import ListBinaryDumper, ListDumper
from psycopg.types.string import TextLoader

from enrichment.caches.base import Entry, State
from enrichment.caches.entries import Entries
from enrichment.codec.struct_columns import arrow_types, fields_of, not_null_type
from enrichment.databases import KeptConnection, Pause, is_outage
from enrichment.errors import SettingsError, SourceUnavailable
from enrichment.sources.bad_keys import BadKeySearch, KeyFault

log = logging.getLogger(__name__)

# Rows come in portions: a query that returns far too many does not fill the memory.
PORTION = 50_000
# A query may return several rows for a key (the first one counts); so many mean that it does not filter.
ROWS_PER_KEY, ROWS_BESIDE = 100, 100_000
# The classes of SQLSTATE of what a row or a key does to a query: a missing case, cardinality, data, constraints of
# domains, and what functions raise. (https://www.postgresql.org/docs/current/errcodes-appendix.html)
FAULTS_OF_KEYS = frozenset({"20", "21", "22", "23", "2F", "38", "39", "P0"})
INTERNAL_ERROR = "XX"
SHOWN_KEYS = 5
# Texts, names and comments: what looks like a parameter in a comment is not one.
_QUOTED_OR_COMMENT = re.compile(r"""('(?:[^']|'')*'|"[^"]*")|--[^\n]*|/\*.*?\*/""", re.DOTALL)


class Query(NamedTuple):
    """A query written by the user, and its contract.

    It gets the array `%(parameter)s` and returns the column `key` and those of the fields of `columns`, in any order;
    others are ignored. Where it returns several rows for a key the first counts, so its ORDER BY decides. `file` is its
    name in errors.
    """

    text: str
    file: str
    parameter: str
    key: str
    columns: type[msgspec.Struct]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it must return."""
        return (self.key, *(field.name for field in fields_of(self.columns)))

    @property
    def has_parameter(self) -> bool:
        """Whether it uses its parameter, and not in a comment only."""
        return f"%({self.parameter})" in _QUOTED_OR_COMMENT.sub(lambda found: found[1] or " ", self.text)


class SqlSource:
    """A `LookupSource` over a query. `version` changes with its text.

    A key for which it has no row is absent, with the reason `unknown`; `unavailable` is the reason of a database that
    fails. `connect` opens a connection, which is kept until it breaks; then another is opened. No transaction is left
    open on it. After a slow failure the database is not asked for `timeout_seconds`, then twice as long: a task waits
    for it a few times at most, not for each chunk.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        query: Query,
        *,
        unknown: str,
        unavailable: str,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version = hashlib.sha256(query.text.encode()).hexdigest()[:12]
        self._query = query
        self._unknown = unknown
        self._unavailable = unavailable
        self._readers = [_READERS[not_null_type(field)] for field in fields_of(query.columns)]
        self._names = tuple(arrow_types(query.columns))
        self._kept = KeptConnection(connect)
        self._pause = Pause(timeout_seconds, clock)
        self._search = BadKeySearch(timeout_seconds, clock)

    def fetch_many(self, keys: Sequence[str]) -> Entries:
        """Answers by key; a key without a row, or for which alone the query fails, is absent.

        Raises `SourceUnavailable` when the database fails, `SettingsError` when the query is wrong.
        """
        if not self._query.has_parameter:
            parameter = f"%({self._query.parameter})s"
            raise SettingsError(f"{self._query.file} does not use {parameter}: it would read all rows for every chunk")
        asked = [key for key in keys if "\0" not in key]  # which PostgreSQL's text type cannot hold
        try:
            answers = self._ask(asked)
        except KeyFault as fault:
            answers = self._ask_for_parts(asked, fault)
        if not (unknown := answers.others(keys)):
            return answers
        absent = Entry(State.ABSENT, reason=self._unknown, version=self.version)
        return Entries.concat([answers, Entries.of(dict.fromkeys(unknown, absent))])

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._kept.close()

    def _ask(self, keys: Sequence[str]) -> Entries:
        """The answers for those keys that have one. Raises as `fetch_many`, and `KeyFault`."""
        if self._pause.seconds_left:
            detail = f"not asked for {self._pause.seconds_left:.0f} s more, since {self._pause.why}"
            raise SourceUnavailable(self._unavailable, detail)
        try:
            with self._pause.watch():
                return self._kept.run(lambda connection: self._read(connection, keys))
        except psycopg.Error as failed:
            raise self._judged(failed) from failed

    def _ask_for_parts(self, keys: Sequence[str], fault: KeyFault) -> Entries:
        """The answers for keys for which the query fails when they are asked for together."""
        try:
            self._ask([])
        except KeyFault as always:
            raise SettingsError(f"{self._query.file} is wrong, whatever it is asked for: {always}") from always
        searched = self._search.run(self._ask, keys, fault)
        if searched.bad:
            log.warning(
                "sql_query.bad_keys file=%s keys=%d first=%s error=%s",
                self._query.file, len(searched.bad), searched.bad[:SHOWN_KEYS], fault,
            )  # fmt: skip
        if len(searched.left) == len(keys):
            raise SourceUnavailable(self._unavailable, f"{self._query.file} fails for every key: {searched.why}")
        if searched.left:
            log.warning("sql_query.keys_left keys=%d of=%d error=%s", len(searched.left), len(keys), searched.why)
        failed = Entry(State.FAILED, reason=self._unavailable, version=self.version)
        return Entries.of(searched.answers | dict.fromkeys(searched.left, failed))

    def _read(self, connection: psycopg.Connection[Any], keys: Sequence[str]) -> Entries:
        """The first row of each key that has one, column by column: a fraction of the time that it takes row by row."""
        wanted, parts = set(keys), list[Entries]()
        with _open_cursor(connection) as cursor:
            cursor.execute(self._query.text.encode(), {self._query.parameter: _Keys(keys)})
            places = self._places([column.name for column in cursor.description or ()])
            for portion in self._portions(cursor, len(keys)):
                columns = list(zip(*portion, strict=True))
                names, *texts = (columns[place] for place in places)
                rows = []
                for row, name in enumerate(names):
                    if name in wanted:
                        wanted.discard(name)
                        rows.append(row)
                picked = names if len(rows) == len(names) else [names[row] for row in rows]
                values = {
                    name: reader(column).take(pa.array(rows, pa.int32()))
                    for name, reader, column in zip(self._names, self._readers, texts, strict=True)
                }
                parts.append(Entries.found(picked, values, self._query.columns, self.version))
        return Entries.concat(parts)

    def _judged(self, failed: psycopg.Error) -> Exception:
        """The exception for an error of the database, of a key, or of the query."""
        said, state = str(failed).strip(), failed.sqlstate or ""
        if state[:2] in FAULTS_OF_KEYS:
            return KeyFault(said)
        if is_outage(failed) or state.startswith(INTERNAL_ERROR):
            return SourceUnavailable(self._unavailable, said)
        # An error without SQLSTATE is psycopg's own, about the value of the parameter.
        parameter = f"%({self._query.parameter})s"
        hint = f"; it takes {parameter}, and any other percent sign is written as two, in comments, too"
        return SettingsError(f"{self._query.file} is wrong: {said}{'' if state else hint}")

    def _portions(self, cursor: psycopg.ServerCursor[tuple[Any, ...]], keys: int) -> Iterator[list[tuple[Any, ...]]]:
        read, most = 0, ROWS_PER_KEY * keys + ROWS_BESIDE
        while portion := cursor.fetchmany(PORTION):
            yield portion
            read += len(portion)
            if read > most:
                raise SettingsError(
                    f"{self._query.file} returns more than {most} rows for {keys} keys: it does not filter by them"
                )
            if len(portion) < PORTION:
                return

    def _places(self, names: list[str]) -> list[int]:
        """Where in a row the wanted columns are: the key, then the fields."""
        missing = [column for column in self._query.names if column not in names]
        if missing:
            needed = ", ".join(self._query.names)
            raise SettingsError(f"{self._query.file} returns no column {', '.join(missing)}; it needs {needed}")
        return [names.index(column) for column in self._query.names]


class _Keys(list[str]):
    """The value of the parameter. PostgreSQL takes its type from where it is used, as that of a text between quotes."""


class _KeysDumper(ListDumper):
    """As psycopg writes a list, thousands of keys at once."""

    def get_key(self, obj: list[Any], format: PyFormat) -> type:  # noqa: A002, ARG002  psycopg's
        return self.cls

    def upgrade(self, obj: list[Any], format: PyFormat) -> _KeysDumper:  # noqa: A002, ARG002  psycopg's
        return self

    def dump(self, obj: list[Any]) -> Buffer | None:
        text = '","'.join(obj)
        if "\\" in text or text.count('"') > 2 * (len(obj) - 1):  # or there is none
            return super().dump(obj)
        return f'{{"{text}"}}'.encode()


def _open_cursor(connection: psycopg.Connection[Any]) -> psycopg.ServerCursor[tuple[Any, ...]]:
    """A server-side cursor that returns values as PostgreSQL's text: other columns of a query may hold values that
    Python cannot (a date before the year 1, infinity)."""
    cursor = connection.cursor("lookup", row_factory=tuple_row)
    for kind in psycopg.adapters.types:
        for oid in filter(None, (kind.oid, kind.array_oid)):
            cursor.adapters.register_loader(oid, TextLoader)
    cursor.adapters.register_dumper(_Keys, ListBinaryDumper)  # for `%(name)b`
    cursor.adapters.register_dumper(_Keys, _KeysDumper)
    return cursor


def _texts(column: Sequence[str | None]) -> pa.Array:
    return pa.array(column, pa.string())


def _numbers(column: Sequence[str | None]) -> pa.Array:
    """Finite numbers of any SQL type; null for anything else."""
    try:
        numbers = _texts(column).cast(pa.float64())
    except pa.ArrowInvalid:  # one of them is no number, or written as Arrow does not write them
        numbers = pa.array(map(_number, column), pa.float64())
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


def _number(value: str | None) -> float | None:
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


def _whole_numbers(column: Sequence[str | None]) -> pa.Array:
    """Whole numbers of at most 64 bits; null for anything else."""
    return pa.array(map(_whole, column), pa.int64())


def _whole(value: str | None) -> int | None:
    try:
        whole = int(value) if value is not None else None
    except ValueError:  # such as a numeric's 7.0
        number = _number(value)
        whole = int(number) if number is not None and number.is_integer() else None
    return whole if whole is not None and -(2**63) <= whole < 2**63 else None


def _flags(column: Sequence[str | None]) -> pa.Array:
    meanings = {"t": True, "true": True, "f": False, "false": False}
    return pa.array([meanings.get(value or "") for value in column], pa.bool_())


# How the texts of a column are read, by the type of its field; a text that does not fit becomes null.
_READERS: dict[Any, Callable[[Sequence[str | None]], pa.Array]] = {
    str: _texts,
    float: _numbers,
    int: _whole_numbers,
    bool: _flags,
}
