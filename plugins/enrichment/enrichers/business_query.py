"""Business contexts from the users' own PostgreSQL tables: request ids in, `Context` out, by one query for all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import psycopg
from psycopg.rows import tuple_row

from enrichment.caches.base import Entry, State
from enrichment.errors import SettingsError, SourceUnavailable
from enrichment.messages import REQUEST_ID, Context, Reason

COLUMNS = (REQUEST_ID, *(field.name for field in msgspec.structs.fields(Context)))


class BusinessQuery:
    """A `Fetch` over a query that users adapt (`include/sql/business_context/fetch.sql`).

    The query gets the array `%(request_ids)s` and returns `COLUMNS`, in any order and with others beside them. Where it
    returns several rows for a request the first counts, so its ORDER BY decides. `connect` gives a connection, which is
    kept until it breaks; then the next call opens another. No transaction is left open on it. `version` changes with
    the query's text.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], sql: str) -> None:
        self.version = hashlib.sha256(sql.encode()).hexdigest()[:12]
        self._connect = connect
        self._connection: psycopg.Connection[Any] | None = None
        self._sql = sql.encode()

    def fetch_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Contexts by request id; a request without a row is absent.

        Raises `SourceUnavailable` when the database or the query fails, `SettingsError` when the query does not return
        the columns that it must.
        """
        absent = Entry(State.ABSENT, reason=Reason.BUSINESS_NOT_FOUND, version=self.version)
        entries = dict.fromkeys(keys, absent)
        asked = list(keys) if can_be_text("".join(keys)) else [key for key in keys if can_be_text(key)]
        try:
            names, rows = self._rows(asked)
        except psycopg.Error as failed:
            raise SourceUnavailable(Reason.DATABASE_ERROR, str(failed).strip()) from failed
        missing = [column for column in COLUMNS if column not in names]
        if missing:
            raise SettingsError(
                f"business_context/fetch.sql returns no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
            )
        pick = itemgetter(*(names.index(column) for column in COLUMNS))
        for request_id, unit, transaction_type, amount, currency in map(pick, reversed(rows)):
            key = str(request_id)
            if key in entries:
                context = Context(_text(unit), _text(transaction_type), _number(amount), _text(currency))
                entries[key] = Entry(State.FOUND, value=context, version=self.version)
        return entries

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()

    def _rows(self, request_ids: list[str]) -> tuple[list[str], list[tuple[Any, ...]]]:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        with self._connection.transaction(), self._connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(self._sql, {"request_ids": request_ids})
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()


def can_be_text(key: str) -> bool:
    """Whether PostgreSQL can hold the key as text: a NUL or a lone surrogate would fail the query for all keys."""
    try:
        return b"\0" not in key.encode()
    except UnicodeEncodeError:
        return False


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(value: Any) -> float | None:
    """A finite number, whatever type the query gives it; null when it is none."""
    try:
        number = float(value) if value is not None else math.nan
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
