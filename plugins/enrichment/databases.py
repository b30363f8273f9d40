"""Connections to PostgreSQL whose waits are all limited, and which rely on no earlier setting of a session.

The limits are set in every transaction (`include/sql/sessions`), not once for the session: behind PgBouncer in
transaction mode clients share sessions. A server that hangs, or a network that drops packets, enforces no limit, so the
client itself waits only a little longer than the server may take.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from enrichment import sql
from enrichment.errors import SettingsError

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Connection = psycopg.Connection[Any]

# The server is the first to give up: its error is clearer, and the connection stays usable.
MARGIN_SECONDS = 1.0
CANCEL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 600.0
COSTLY_SECONDS = 0.5
# For idle connections: a dead peer is noticed, and a firewall between us sees that the connection is in use.
KEEPALIVES = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
# What our code relies on is not the user's to choose. Behind PgBouncer no prepared statement outlives a transaction.
FIXED: dict[str, Any] = {
    "client_encoding": "UTF8",
    "autocommit": True,
    "prepare_threshold": None,
    "row_factory": tuple_row,
    "cursor_factory": None,
    "context": None,
}


class Limits(NamedTuple):
    """How long a connection may wait, in seconds: to be made, for a statement in all, and for a lock within that."""

    connect: float
    statement: float
    lock: float
    read_only: bool = False


class NotAnswered(psycopg.OperationalError):
    """The server did not answer in time, not even that it gave up; the connection is closed."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose statements, and waits for them, are limited in time. `connect` makes it.

    Run statements in a `transaction()`, where the server knows the limits, too; outside of one (VACUUM) only the client
    does.
    """

    limits: Limits | None = None
    # Whoever has lent it takes it back when a `KeptConnection` is done with it.
    take_back: Callable[[BoundedConnection], None] | None = None

    def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        """See `psycopg.Connection`: every statement goes through here. Raises `NotAnswered`."""
        if timeout is not None or self.limits is None:
            return super().wait(gen, interval, timeout)
        seconds = self.limits.statement + MARGIN_SECONDS
        try:
            return super().wait(gen, interval, seconds)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001  what `wait` is documented to raise
            self._give_up()
            raise NotAnswered(f"the database has not answered for {seconds:g} s") from None

    @contextmanager
    def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002  psycopg's
    ) -> Iterator[psycopg.Transaction]:
        """See `psycopg.Connection`; the settings of `sessions/set_for_transaction` hold within it."""
        is_outermost = self.info.transaction_status == TransactionStatus.IDLE
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if is_outermost and self.limits is not None:
                self.execute(
                    sql.load("sessions/set_for_transaction"),
                    {
                        "statement_timeout": _milliseconds(self.limits.statement),
                        "lock_timeout": _milliseconds(self.limits.lock),
                    },
                )
            yield transaction

    def _give_up(self) -> None:
        """Close the connection, and ask the server to cancel its statement."""
        try:
            self.cancel_safe(timeout=CANCEL_SECONDS)
        except psycopg.Error as failed:
            log.info("database.cancel_failed error=%s", failed)
        self.pgconn.finish()


def connect(parameters: Mapping[str, Any], limits: Limits) -> BoundedConnection:
    """Open a connection by libpq's parameters; a timeout or keepalive among them overrides ours.

    Raises `SettingsError` when there is no such parameter, `psycopg.OperationalError` when the server cannot be
    reached in time.
    """
    wanted = {
        "connect_timeout": max(2, math.ceil(limits.connect)),  # libpq takes less than 2 as 2
        "tcp_user_timeout": _milliseconds(limits.statement + MARGIN_SECONDS),
        **KEEPALIVES,
        **{name: value for name, value in parameters.items() if value is not None},
        **FIXED,
    }
    try:
        connection = BoundedConnection.connect(**wanted)
    except psycopg.ProgrammingError as wrong:
        raise SettingsError(f"PostgreSQL's connection (its extra?) cannot be used: {wrong}") from wrong
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = limits.read_only
    connection.limits = limits
    return connection


def encoding_fault(connection: Connection) -> str | None:
    """A description of what is wrong with a database's encoding; None for UTF8, which holds every message."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding == "UTF8":
        return None
    name = connection.info.dbname
    return (
        f"the database {name} has the encoding {encoding}, which cannot hold every text: make one with CREATE DATABASE "
        f"{name}_utf8 ENCODING 'UTF8' TEMPLATE template0 (with LOCALE 'C' where the server's locale does not allow "
        "that), then `python -m enrichment.store` on it, and have the connection name it"
    )


def is_outage(error: psycopg.Error) -> bool:
    """Whether the database could not be asked, or did not answer in time: it may answer the same statement later."""
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


class Pause:
    """Keeps a task from asking a database that does not answer: for some seconds after a slow failure, twice as long
    after each further one. So a task waits for it a few times at most. After a fast failure it may ask again at once.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = self._next = seconds
        self._clock = clock
        self._until = -math.inf
        self.why = ""

    @property
    def seconds_left(self) -> float:
        """Seconds until the pause ends, 0 afterwards."""
        return max(0.0, self._until - self._clock())

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch a request, made within the block, and pause after a slow failure."""
        started = self._clock()
        try:
            yield
        except psycopg.Error as failed:
            if is_outage(failed) and self._clock() - started >= COSTLY_SECONDS:
                self.why = str(failed).strip()
                self._until = self._clock() + self._next
                self._next = min(2 * self._next, max(self._first, LONGEST_PAUSE_SECONDS))
            raise
        self._next, self._until = self._first, -math.inf


class KeptConnection:
    """One connection, opened when it is first needed, and again when it turns out to be closed: a restarted server, or
    a pooler that ends idle connections, is not a failure."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._open = connect
        self._connection: Connection | None = None
        self._is_closed = False
        self._at_work = Lock()

    def run(self, work: Callable[[Connection], Result]) -> Result:
        """Do work in a transaction; again, on a new connection, when the kept one turns out to be closed."""
        kept = self._connection
        if kept is None or kept.closed:
            return self._run(work)
        try:
            return self._run(work)
        except NotAnswered:
            raise
        except psycopg.OperationalError as failed:
            if self._is_closed or not kept.closed:
                raise
            log.info("database.reconnecting error=%s", failed)
        return self._run(work)

    def close(self) -> None:
        """Close the connection, if there is one, or give it back. A thread that is still at work does not get a new
        one."""
        self._is_closed = True
        is_idle = self._at_work.acquire(blocking=False)
        connection, self._connection = self._connection, None
        take_back = getattr(connection, "take_back", None) if is_idle else None
        if connection is not None:
            connection.close() if take_back is None else take_back(connection)
        if is_idle:
            self._at_work.release()

    def live(self) -> Connection:
        """The connection, known to answer: for several pieces of work on it, some time apart."""
        connection = self._connection
        if connection is not None and not connection.closed:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                return connection
            try:
                connection.execute("")
            except psycopg.OperationalError as failed:
                log.info("database.reconnecting error=%s", failed)
                connection.close()
            else:
                return connection
        self._connection = self._connect()
        return self._connection

    def _connect(self) -> Connection:
        if self._is_closed:
            raise psycopg.OperationalError("the connection was closed on purpose")
        return self._open()

    def _run(self, work: Callable[[Connection], Result]) -> Result:
        with self._at_work:
            connection = self._connection
            if connection is None or connection.closed:
                connection = self._connection = self._connect()
            with connection.transaction():
                return work(connection)


def _milliseconds(seconds: float) -> str:
    """At least one: PostgreSQL takes 0 as without end."""
    return str(max(1, round(1000 * seconds)))
