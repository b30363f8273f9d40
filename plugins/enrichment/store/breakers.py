"""The table `circuit_breakers`: all tasks share the state of a dependency's circuit breaker."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import tuple_row
from pybreaker import STATE_CLOSED, CircuitBreakerStorage, CircuitMemoryStorage

from enrichment import sql
from enrichment.databases import KeptConnection

log = logging.getLogger(__name__)


class _Row(NamedTuple):
    state: str = STATE_CLOSED
    failures: int = 0
    successes: int = 0
    opened_at: datetime | None = None


class PostgresBreakerStorage(CircuitBreakerStorage):
    """A `pybreaker` storage, one row per dependency; the counters are counted by the database.

    `connect` opens a connection, which is kept. Once the database fails or does not answer in time, the process keeps
    its own state from then on: a breaker that cannot be shared still protects, and never fails a lookup.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], name: str) -> None:
        super().__init__(name)
        self._kept = KeptConnection(connect)
        self._shared = True
        self._own = CircuitMemoryStorage(STATE_CLOSED)  # what this process has seen
        self._lock = threading.Lock()  # a connection runs one statement at a time, for all threads

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._kept.close()

    @property
    def state(self) -> str:
        """Closed, open or half-open."""
        row = self._row()
        return self._own.state if row is None else row.state

    @state.setter
    def state(self, state: str) -> None:
        self._own.state = state
        self._put(state=state)

    @property
    def counter(self) -> int:
        """Failures in a row, of all tasks."""
        row = self._row()
        return self._own.counter if row is None else row.failures

    @property
    def success_counter(self) -> int:
        """Successes since the breaker was half-opened."""
        row = self._row()
        return self._own.success_counter if row is None else row.successes

    @property
    def opened_at(self) -> datetime | None:
        """When the breaker was opened last."""
        row = self._row()
        return self._own.opened_at if row is None else row.opened_at

    @opened_at.setter
    def opened_at(self, at: datetime) -> None:
        self._own.opened_at = at
        self._put(opened_at=at)

    def increment_counter(self) -> None:
        """One more failure."""
        self._own.increment_counter()
        self._execute("count", failures=1, successes=0)

    def increment_success_counter(self) -> None:
        """One more success."""
        self._own.increment_success_counter()
        self._execute("count", failures=0, successes=1)

    def reset_counter(self) -> None:
        """No failures in a row any more."""
        self._own.reset_counter()
        self._put(failures=0)

    def reset_success_counter(self) -> None:
        """Successes are counted from here."""
        self._own.reset_success_counter()
        self._put(successes=0)

    def _row(self) -> _Row | None:
        """The shared state; None when the database is out of reach."""
        rows = self._execute("get")
        return None if rows is None else _Row(*rows[0]) if rows else _Row()

    def _put(self, **changed: Any) -> None:
        self._execute("put", **{"state": None, "failures": None, "successes": None, "opened_at": None, **changed})

    def _execute(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]] | None:
        with self._lock:
            if not self._shared:
                return None
            try:
                return self._kept.run(
                    partial(_rows, f"circuit_breakers/{statement}", {"name": self.name, **parameters})
                )
            except psycopg.Error as refused:
                log.warning("breaker.not_shared name=%s error=%s", self.name, refused)
                self._shared = False
                return None


def _rows(statement: str, parameters: Mapping[str, Any], connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(sql.load(statement), parameters)
        return cursor.fetchall() if cursor.description else []
