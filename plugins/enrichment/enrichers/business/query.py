"""Business contexts from the users' own PostgreSQL tables: request ids in, `Context` out, by one query for all.

What goes wrong is one of three things. The query is wrong, whatever it is asked: `SettingsError`. The database does not
answer: an outage. The query fails for a row or a key that it meets (a cast, a division by zero): an answer about that
key alone, which costs no other one.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row
from psycopg.types.string import TextLoader

from enrichment.caches.base import Entry, State
from enrichment.databases import KeptConnection, Pause, can_be_text, is_outage
from enrichment.enrichers.business.bad_keys import BadKeySearch, KeyFault
from enrichment.errors import SettingsError, SourceUnavailable
from enrichment.messages import REQUEST_ID, Context, Reason

log = logging.getLogger(__name__)

FILE = "include/sql/business_context/fetch.sql"
PARAMETER = "request_ids"
COLUMNS = (REQUEST_ID, *(field.name for field in msgspec.structs.fields(Context)))
# Rows come in portions: a query that returns far too many takes no memory.
PORTION = 50_000
# Several rows for a request are the query's business (the first one counts); so many mean that it does not filter.
ROWS_PER_REQUEST, ROWS_BESIDE = 100, 100_000
# The classes of SQLSTATE of what a row or a key does to a query: a missing case, cardinality, data, constraints of
# domains, and what functions raise. (https://www.postgresql.org/docs/current/errcodes-appendix.html)
FAULTS_OF_KEYS = frozenset({"20", "21", "22", "23", "2F", "38", "39", "P0"})
INTERNAL_ERROR = "XX"
SHOWN_KEYS = 5
# Texts, names and comments: what looks like a parameter in a comment is none.
_QUOTED_OR_COMMENT = re.compile(r"""('(?:[^']|'')*'|"[^"]*")|--[^\n]*|/\*.*?\*/""", re.DOTALL)


class BusinessQuery:
    """A `LookupSource` over a query that users adapt (`include/sql/business_context/fetch.sql`).

    The query gets the array `%(request_ids)s` and returns `COLUMNS`, in any order and with others beside them. Where it
    returns several rows for a request the first counts, so its ORDER BY decides. `connect` gives a connection, which is
    kept until it breaks; then another is opened. No transaction is left open on it. `version` changes with the query's
    text.

    A database that took its time to fail is left alone for `timeout_seconds`, then twice as long: a task waits for it a
    few times at most, not for each chunk.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        sql: str,
        *,
        timeout_seconds: float = 30,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version = hashlib.sha256(sql.encode()).hexdigest()[:12]
        self._kept = KeptConnection(connect)
        self._sql = sql.encode()
        self._has_parameter = has_parameter(sql)
        self._pause = Pause(timeout_seconds, clock)
        self._search = BadKeySearch(timeout_seconds, clock)

    def fetch_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Contexts by request id; a request without a row, or for which alone the query fails, is absent.

        Raises `SourceUnavailable` when the database fails, `SettingsError` when the query is wrong.
        """
        if not self._has_parameter:
            raise SettingsError(f"{FILE} does not use %({PARAMETER})s: it would read all rows for every chunk")
        absent = Entry(State.ABSENT, reason=Reason.BUSINESS_NOT_FOUND, version=self.version)
        entries = dict.fromkeys(keys, absent)
        asked = list(keys) if can_be_text("".join(keys)) else [key for key in keys if can_be_text(key)]
        try:
            return entries | self._ask(asked)
        except KeyFault as fault:
            return entries | self._ask_for_parts(asked, fault)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._kept.close()

    def _ask(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The contexts of those keys that have one. Raises as `fetch_many`, and `KeyFault`."""
        if self._pause.seconds_left:
            detail = f"not asked for {self._pause.seconds_left:.0f} s more, since {self._pause.why}"
            raise SourceUnavailable(Reason.DATABASE_ERROR, detail)
        try:
            with self._pause.watch():
                return self._kept.run(lambda connection: self._read(connection, keys))
        except psycopg.Error as failed:
            raise _judged(failed) from failed

    def _ask_for_parts(self, keys: Sequence[str], fault: KeyFault) -> dict[str, Entry]:
        """What can be said of keys for which the query fails together."""
        try:
            self._ask([])
        except KeyFault as always:
            raise SettingsError(f"{FILE} is wrong, whatever it is asked for: {always}") from always
        searched = self._search.run(self._ask, keys, fault)
        if searched.bad:
            log.warning(
                "business.bad_keys keys=%d first=%s error=%s", len(searched.bad), searched.bad[:SHOWN_KEYS], fault
            )
        if len(searched.left) == len(keys):
            raise SourceUnavailable(Reason.DATABASE_ERROR, f"{FILE} fails for every request: {searched.why}")
        if searched.left:
            log.warning("business.keys_left keys=%d of=%d error=%s", len(searched.left), len(keys), searched.why)
        return searched.answers | dict.fromkeys(searched.left, Entry(State.FAILED, reason=Reason.DATABASE_ERROR))

    def _read(self, connection: psycopg.Connection[Any], keys: Sequence[str]) -> dict[str, Entry]:
        wanted, found = set(keys), dict[str, Entry]()
        with _open_cursor(connection) as cursor:
            cursor.execute(self._sql, {PARAMETER: list(keys)})
            pick = _picker([column.name for column in cursor.description or ()])
            for request_id, unit, transaction_type, amount, currency in map(pick, _rows(cursor, len(keys))):
                if request_id in wanted and request_id not in found:
                    context = Context(unit, transaction_type, _number(amount), currency)
                    found[request_id] = Entry(State.FOUND, value=context, version=self.version)
        return found


def has_parameter(query: str) -> bool:
    """Whether a query uses its parameter, and not in a comment only."""
    return f"%({PARAMETER})" in _QUOTED_OR_COMMENT.sub(lambda found: found[1] or " ", query)


def _judged(failed: psycopg.Error) -> Exception:
    """Whose fault it is: the database's, a key's, or the query's."""
    said, state = str(failed).strip(), failed.sqlstate or ""
    if state[:2] in FAULTS_OF_KEYS:
        return KeyFault(said)
    if is_outage(failed) or state.startswith(INTERNAL_ERROR):
        return SourceUnavailable(Reason.DATABASE_ERROR, said)
    # What has no SQLSTATE is psycopg's own, about what stands in for the parameter.
    hint = (
        "" if state else f"; it takes %({PARAMETER})s, and any other percent sign is written as two, in comments, too"
    )
    return SettingsError(f"{FILE} is wrong: {said}{hint}")


def _open_cursor(connection: psycopg.Connection[Any]) -> psycopg.ServerCursor[tuple[Any, ...]]:
    """A cursor in the server, whose values are the text that PostgreSQL writes. Among what a query returns beside our
    columns there may be values that Python cannot hold (a date before the year 1, infinity)."""
    cursor = connection.cursor("business_context", row_factory=tuple_row)
    for kind in psycopg.adapters.types:
        for oid in filter(None, (kind.oid, kind.array_oid)):
            cursor.adapters.register_loader(oid, TextLoader)
    return cursor


def _rows(cursor: psycopg.ServerCursor[tuple[Any, ...]], keys: int) -> Iterator[tuple[Any, ...]]:
    read, most = 0, ROWS_PER_REQUEST * keys + ROWS_BESIDE
    while portion := cursor.fetchmany(PORTION):
        yield from portion
        read += len(portion)
        if read > most:
            raise SettingsError(f"{FILE} returns more than {most} rows for {keys} requests: it does not filter by them")
        if len(portion) < PORTION:
            return


def _picker(names: list[str]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """What takes the columns that we want out of a row."""
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise SettingsError(f"{FILE} returns no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
    return itemgetter(*(names.index(column) for column in COLUMNS))


def _number(value: str | None) -> float | None:
    """A finite number, whatever type the query gives it; null when it is none."""
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
