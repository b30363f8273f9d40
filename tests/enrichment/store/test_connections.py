"""Connections that are lent: to caches, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from enrichment.databases import KeptConnection
from enrichment.settings import PostgresSettings
from enrichment.store.connections import Connections


@pytest.fixture
def connections(postgres_uri: str) -> Iterator[Connections]:
    """As a task has them; closed afterwards."""
    opened = Connections(lambda: conninfo_to_dict(postgres_uri), PostgresSettings())
    yield opened
    opened.close()


def ask(kept: KeptConnection) -> Any:
    """The backend that answers."""
    return kept.run(lambda connection: connection.execute("SELECT pg_backend_pid()").fetchall()[0][0])


def test_connection_that_was_given_back_is_lent_again(connections: Connections) -> None:
    """Those in use are not."""
    first, second = KeptConnection(connections.for_cache), KeptConnection(connections.for_cache)
    backends = ask(first), ask(second)
    assert len(set(backends)) == 2
    first.close()
    with closing(second), closing(KeptConnection(connections.for_cache)) as third:
        assert ask(third) == backends[0]
        assert ask(second) == backends[1]
    with pytest.raises(psycopg.OperationalError, match="closed on purpose"):
        ask(first)


def test_connection_that_the_server_has_ended_is_not_lent(
    connections: Connections, postgres_connection: psycopg.Connection[Any]
) -> None:
    """A new one is."""
    first = KeptConnection(connections.for_cache)
    backend = ask(first)
    first.close()
    postgres_connection.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    with closing(KeptConnection(connections.for_cache)) as second:
        assert ask(second) != backend


def test_connection_with_work_under_way_is_closed(connections: Connections) -> None:
    """Whoever works with it hears of it, and nobody else gets it."""
    kept = KeptConnection(connections.for_cache)

    def work(connection: psycopg.Connection[Any]) -> None:
        kept.close()
        assert connection.closed
        connection.execute("SELECT 1")

    with pytest.raises(psycopg.OperationalError):
        kept.run(work)


def test_connection_in_a_transaction_is_not_lent(connections: Connections) -> None:
    """Somebody may have begun one and gone."""
    connection = connections.for_cache()
    connection.execute("BEGIN")
    assert connection.take_back is not None
    connection.take_back(connection)
    assert connection.closed


def test_all_are_closed_at_the_end(connections: Connections) -> None:
    """Those in other hands when they are given back."""
    lent, idle = connections.for_cache(), connections.for_cache()
    assert idle.take_back is not None
    assert lent.take_back is not None
    idle.take_back(idle)
    connections.close()
    assert idle.closed
    assert not lent.closed
    lent.take_back(lent)
    assert lent.closed
