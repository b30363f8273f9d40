"""Connections with limits: locks, servers that hang, networks that swallow, poolers, and settings of others."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from enrichment.databases import (
    BoundedConnection,
    KeptConnection,
    Limits,
    NotAnswered,
    Pause,
    connect,
    encoding_fault,
    is_outage,
)
from enrichment.enrichers.testing import FixedClock
from enrichment.errors import SettingsError
from tests.fixtures.pgbouncer import Pooled
from tests.fixtures.postgres import MakeDatabase, Server
from tests.fixtures.proxy import Network

Connection = psycopg.Connection[Any]
LIMITS = Limits(connect=2, statement=1, lock=0.3)
MakeNetwork = Callable[[str], Network]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """What takes longer has waited without an end."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def opened(uri: str, limits: Limits = LIMITS, **parameters: Any) -> BoundedConnection:
    """As tasks open them."""
    return connect({**conninfo_to_dict(uri), **parameters}, limits)


def read(connection: Connection, query: str) -> Any:
    """The one value of a query, in a transaction."""
    with connection.transaction():
        return connection.execute(query.encode()).fetchall()[0][0]


def test_statement_ends_when_it_takes_too_long(postgres_uri: str) -> None:
    """The server gives up, and the connection stays usable."""
    with closing(opened(postgres_uri)) as connection:
        with at_most(3), pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            read(connection, "SELECT pg_sleep(60)")
        assert read(connection, "SELECT 1") == 1


def test_waiting_for_a_lock_ends(postgres_connection: Connection, postgres_uri: str) -> None:
    """A table that somebody has locked is an outage, told by its own word."""
    with psycopg.connect(postgres_uri) as holder, closing(opened(postgres_uri)) as connection:
        holder.execute("LOCK TABLE geo_ip_cache")
        with at_most(2), pytest.raises(psycopg.errors.LockNotAvailable) as raised:
            read(connection, "SELECT count(*) FROM geo_ip_cache")
        assert is_outage(raised.value)


def test_statement_outside_of_a_transaction_ends_on_the_server_too(
    postgres_connection: Connection, postgres_uri: str
) -> None:
    """VACUUM can be told no limit behind a pooler: we give up, and have the server end what runs."""
    with closing(opened(postgres_uri)) as connection:
        pid = connection.info.backend_pid
        with at_most(6), pytest.raises(NotAnswered, match="has not answered for 2 s"):
            connection.execute("SELECT pg_sleep(60)")
        assert connection.closed
    time.sleep(0.5)
    running = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    assert postgres_connection.execute(running, [pid]).fetchall() == [(0,)]


def test_waiting_ends_when_the_server_hangs(postgres_uri: str) -> None:
    """A process of the server that is stopped says nothing, not even that a time is over."""
    with closing(opened(postgres_uri)) as connection:
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with at_most(6), pytest.raises(NotAnswered):
                read(connection, "SELECT 1")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert connection.closed


@pytest.mark.parametrize("within", [False, True], ids=["before", "within"])
def test_waiting_ends_when_the_network_swallows(postgres_uri: str, make_network: MakeNetwork, *, within: bool) -> None:
    """Nothing arrives any more, before a transaction or within one: one limit's time, and the connection is closed."""
    network = make_network(postgres_uri)

    def ask(connection: Connection) -> None:
        if not within:
            network.swallow()
        with connection.transaction():
            network.swallow()
            connection.execute("SELECT 1")

    with closing(opened(network.uri)) as connection:
        assert read(connection, "SELECT 1") == 1
        with at_most(6), pytest.raises(NotAnswered):
            ask(connection)
        assert connection.closed


def test_connecting_ends_when_nobody_answers(postgres_uri: str, make_network: MakeNetwork) -> None:
    """A server that accepts and says nothing, as one does whose postmaster is stopped."""
    network = make_network(postgres_uri)
    network.swallow()
    with at_most(5), pytest.raises(psycopg.errors.ConnectionTimeout):
        opened(network.uri)


def test_connecting_ends_when_packets_are_dropped() -> None:
    """A full backlog drops what asks for a connection, as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        with at_most(5), pytest.raises(psycopg.OperationalError):
            connect({"host": address[0], "port": address[1], "user": "x", "dbname": "x"}, LIMITS)
        for filler in fillers:
            filler.close()


def test_parameters_of_the_user_win_where_they_are_theirs(postgres_uri: str) -> None:
    """Time-outs of the connection itself, schema and name are taken; what our code relies on is not."""
    odd: dict[str, Any] = {
        "connect_timeout": "7", "keepalives_idle": "5", "options": "-c search_path=elsewhere", "autocommit": False,
        "prepare_threshold": 0, "row_factory": psycopg.rows.dict_row, "client_encoding": "LATIN1", "password": None,
    }  # fmt: skip
    with closing(opened(postgres_uri, LIMITS, **odd)) as connection:
        said = connection.info.get_parameters()
        assert (said["connect_timeout"], said["keepalives_idle"]) == ("7", "5")
        assert read(connection, "SELECT current_setting('search_path')") == "elsewhere"
        assert (connection.prepare_threshold, connection.autocommit) == (None, True)
        assert connection.info.encoding == "utf-8"


def test_parameter_that_does_not_exist_is_a_settings_error(postgres_uri: str) -> None:
    """A word in the connection's extra that libpq does not know."""
    with pytest.raises(SettingsError, match='invalid connection option "sslmod"'):
        opened(postgres_uri, sslmod="require")


ODD_SETTINGS = {
    "DateStyle": "'SQL, DMY'", "IntervalStyle": "'sql_standard'", "TimeZone": "'America/New_York'",
    "extra_float_digits": "-10", "bytea_output": "'escape'", "client_encoding": "'LATIN1'",
    "default_transaction_isolation": "'serializable'", "default_transaction_read_only": "on",
    "standard_conforming_strings": "off", "statement_timeout": "'200ms'", "lock_timeout": "'1ms'", "array_nulls": "off",
}  # fmt: skip


@pytest.mark.parametrize("is_pooled", [False, True], ids=["direct", "pgbouncer"])
def test_settings_of_role_and_database_do_not_matter(
    postgres_server: MakeDatabase,
    embedded_postgres: Server,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_pooled: bool,
) -> None:
    """Whatever was set for the database or the environment, statements mean what they always mean."""
    uri = postgres_server()
    for name, value in ODD_SETTINGS.items():
        embedded_postgres.execute(f"ALTER DATABASE {conninfo_to_dict(uri)['dbname']} SET {name} = {value}")
    for name, value in {"PGCLIENTENCODING": "LATIN1", "PGDATESTYLE": "German", "PGTZ": "Asia/Tokyo"}.items():
        monkeypatch.setenv(name, value)
    if is_pooled:
        uri = request.getfixturevalue("pgbouncer")(uri)
    moment = datetime(2024, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    with closing(opened(uri, Limits(5, 5, 5))) as connection:
        with connection.transaction():
            connection.execute("CREATE TABLE odd (place text, at timestamptz, number float8, data bytea)")
            connection.execute("INSERT INTO odd VALUES ('Timișoara', %s, 0.1, %s)", [moment, b"\\x\0"])
        with connection.transaction():
            assert connection.execute("SELECT * FROM odd").fetchall() == [("Timișoara", moment, 0.1, b"\\x\0")]
        assert read(connection, "SELECT '{NULL}'::text[]") == [None]
        assert read(connection, "SELECT '2024-02-03'::date::text || ' ' || interval '1 day 2 h'") == (
            "2024-02-03 1 day 02:00:00"
        )
        assert read(connection, "SELECT current_setting('transaction_isolation')") == "read committed"
        assert read(connection, "SELECT pg_sleep(0.5)::text || current_setting('lock_timeout')") == "5s"


def test_nothing_is_left_in_a_session_behind_pgbouncer(postgres_uri: str, pgbouncer: Pooled) -> None:
    """Many statements, side by side, over two connections to the server: no prepared statement meets another, and no
    limit of ours is another client's."""
    clients = [opened(pgbouncer(postgres_uri), Limits(5, 5, 5)) for _ in range(4)]
    for _ in range(20):
        for connection in clients:
            assert read(connection, "SELECT 1") == 1
    for connection in clients:
        connection.close()
    with psycopg.connect(pgbouncer(postgres_uri), prepare_threshold=None) as other:
        assert other.execute("SHOW statement_timeout").fetchall() == [("0",)]


def test_read_only_connection_does_not_write(postgres_connection: Connection, postgres_uri: str) -> None:
    """What the users' query gets."""
    with (
        closing(opened(postgres_uri, Limits(5, 5, 5, read_only=True))) as connection,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        read(connection, "DELETE FROM geo_ip_cache RETURNING 1")


def test_encoding_of_a_database_is_told(embedded_postgres: Server, postgres_uri: str, pgbouncer: Pooled) -> None:
    """Directly and through a pooler: UTF8 is right, anything else is named together with what to do."""
    latin = embedded_postgres.make_encoded_database("LATIN1")
    for uri in (postgres_uri, pgbouncer(postgres_uri)):
        with closing(opened(uri)) as connection:
            assert encoding_fault(connection) is None
    for uri in (latin, pgbouncer(latin)):
        with closing(opened(uri)) as connection:
            assert "LATIN1" in str(encoding_fault(connection))
            assert "ENCODING 'UTF8'" in str(encoding_fault(connection))


def test_kept_connection_is_replaced_when_it_was_closed(postgres_connection: Connection, postgres_uri: str) -> None:
    """A server that ends an idle connection costs nothing: what was asked is asked again, once."""
    made: list[Connection] = []

    def make() -> Connection:
        made.append(opened(postgres_uri))
        return made[-1]

    kept = KeptConnection(make)
    assert kept.run(lambda c: c.execute("SELECT 1").fetchall()) == [(1,)]
    assert kept.run(lambda c: c.execute("SELECT 1").fetchall()) == [(1,)]
    assert len(made) == 1
    postgres_connection.execute("SELECT pg_terminate_backend(%s, 5000)", [made[0].info.backend_pid])
    assert kept.run(lambda c: c.execute("SELECT 2").fetchall()) == [(2,)]
    postgres_connection.execute("SELECT pg_terminate_backend(%s, 5000)", [made[1].info.backend_pid])
    assert kept.live().execute("SELECT 3").fetchall() == [(3,)]
    assert kept.live() is made[2]
    kept.close()
    for ask in (kept.live, lambda: kept.run(lambda c: c.execute("SELECT 4"))):
        with pytest.raises(psycopg.OperationalError, match="closed on purpose"):
            ask()
    assert len(made) == 3
    assert all(connection.closed for connection in made)


def test_kept_connection_asks_once_when_nothing_is_answered(postgres_uri: str, make_network: MakeNetwork) -> None:
    """A time-out is not waited for twice."""
    network = make_network(postgres_uri)
    kept = KeptConnection(lambda: opened(network.uri))
    kept.run(lambda c: c.execute("SELECT 1"))
    network.swallow()
    with at_most(5), pytest.raises(NotAnswered):
        kept.run(lambda c: c.execute("SELECT 1"))
    assert network.accepted == 2  # the one for cancelling
    network.mend()
    assert kept.run(lambda c: c.execute("SELECT 1").fetchall()) == [(1,)]
    kept.close()


def test_live_connection_is_the_same_within_a_transaction(postgres_uri: str) -> None:
    """Asked for again while something is under way on it."""
    kept = KeptConnection(lambda: opened(postgres_uri))
    connection = kept.live()
    with connection.transaction():
        assert kept.live() is connection
    kept.close()


def test_pause_doubles_with_each_failure_that_takes_its_time(clock: FixedClock) -> None:
    """What fails at once may be asked again at once; an answer ends it all."""
    pause = Pause(30, clock)

    def refuse(seconds: float) -> None:
        with pause.watch():
            clock.advance(seconds)
            raise psycopg.OperationalError("connection refused")

    def fail(seconds: float) -> float:
        with pytest.raises(psycopg.OperationalError):
            refuse(seconds)
        return pause.seconds_left

    assert fail(0.1) == 0
    assert [fail(1), fail(1), fail(1)] == [30, 60, 120]
    assert pause.why == "connection refused"
    clock.advance(119)
    assert pause.seconds_left == 1
    with pause.watch():
        clock.advance(5)
    assert pause.seconds_left == 0
    assert fail(1) == 30
