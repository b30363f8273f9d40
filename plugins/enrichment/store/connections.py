"""Opens connections to the StackLens database: one kind for each use, with the limits that the settings give it.

A connection is opened when it is first asked for; `close` ends those that are not in other hands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from enrichment.databases import BoundedConnection, KeptConnection, Limits, connect, encoding_fault
from enrichment.errors import SettingsError
from enrichment.settings import PostgresSettings

Connection = psycopg.Connection[Any]
Parameters = Callable[[], Mapping[str, Any]]


class Connections:
    """`parameters` returns libpq's; it is called for every new connection, since tokens expire."""

    def __init__(self, parameters: Parameters, postgres: PostgresSettings) -> None:
        self._parameters = parameters
        self._settings = postgres
        self._idle: list[BoundedConnection] | None = []  # None once they are closed
        self._lock = Lock()  # one is read with while another is written with, by another thread
        writing, cleaning = postgres.ledger_timeout_sec, postgres.maintenance_timeout_sec
        self._ledger = KeptConnection(partial(self._checked, self._limits(writing, writing)))
        self._maintenance = KeptConnection(
            partial(self._checked, self._limits(cleaning, postgres.maintenance_lock_timeout_sec))
        )

    def close(self) -> None:
        """Close all connections but those that are in other hands: these are closed when they are given back."""
        with self._lock:
            idle, self._idle = self._idle or [], None
        self._ledger.close()
        self._maintenance.close()
        for connection in idle:
            connection.close()

    @property
    def ledger(self) -> Connection:
        """For what must be recorded: it waits long, then fails its task. A closed connection is replaced.

        Raises `SettingsError` where the database cannot hold every text.
        """
        return self._ledger.live()

    @property
    def maintenance(self) -> Connection:
        """For long statements that can be deferred: they wait for locks only briefly. Otherwise as `ledger`."""
        return self._maintenance.live()

    def for_cache(self) -> BoundedConnection:
        """For a cache table: its caller goes on without it. One that was given back is lent again: the stages of a task
        work one after the other, and opening one costs more than a small look-up."""
        while (idle := self._take_idle()) is not None:
            try:
                idle.execute("")
            except psycopg.OperationalError:  # the server has ended it
                idle.close()
            else:
                return idle
        connection = self._open(self._limits(self._settings.cache_timeout_sec, self._settings.cache_lock_timeout_sec))
        connection.take_back = self._take_back
        return connection

    def for_breaker(self) -> Connection:
        """For the one row of a circuit breaker, which is read before every request."""
        return self._open(self._limits(self._settings.cache_lock_timeout_sec, self._settings.cache_lock_timeout_sec))

    def for_query(self, timeout_sec: float) -> Connection:
        """For a read-only query of the user, with this time limit."""
        return self._open(self._limits(timeout_sec, timeout_sec, read_only=True))

    def _take_idle(self) -> BoundedConnection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _take_back(self, connection: BoundedConnection) -> None:
        is_usable = connection.info.transaction_status == TransactionStatus.IDLE
        with self._lock:
            if self._idle is not None and is_usable:
                self._idle.append(connection)
                return
        connection.close()

    def _limits(self, statement: float, lock: float, *, read_only: bool = False) -> Limits:
        return Limits(self._settings.connect_timeout_sec, statement, lock, read_only)

    def _open(self, limits: Limits) -> BoundedConnection:
        return connect(self._parameters(), limits)

    def _checked(self, limits: Limits) -> Connection:
        connection = self._open(limits)
        if fault := encoding_fault(connection):
            connection.close()
            raise SettingsError(fault)
        return connection
