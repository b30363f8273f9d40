"""Writes behind the look-ups."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
import pytest

from enrichment.caches.base import Entry, State
from enrichment.caches.behind import OneBehind, WriteBehindTable
from enrichment.caches.entries import Entries
from enrichment.caches.postgres import PostgresLayer
from enrichment.enrichers.registry import REGISTRY
from enrichment.enrichers.tables import cache_table
from enrichment.enrichers.testing import FixedClock
from enrichment.errors import LayerUnavailable

USERS = cache_table(REGISTRY.by_name["user"])


def entries(*keys: str) -> dict[str, Entry]:
    return {key: Entry(State.ABSENT, reason="user-not-found", expires_at=2_000_000_000.0) for key in keys}


class Slow(PostgresLayer):
    """A table that writes when it is allowed to."""

    allowed: threading.Event

    def put_many(self, entries: Mapping[str, Entry], used: Entries | None = None) -> None:
        """See `PostgresLayer`."""
        assert self.allowed.wait(30)
        super().put_many(entries, used)


Make = Callable[..., tuple[WriteBehindTable, Slow]]


@pytest.fixture
def make(postgres_uri: str, clock: FixedClock) -> Iterator[Make]:
    """Makes a table that is written behind, and the table itself."""
    made: list[WriteBehindTable] = []

    def make(connect: Callable[[], psycopg.Connection[Any]] | None = None) -> tuple[WriteBehindTable, Slow]:
        table = Slow(connect or (lambda: psycopg.connect(postgres_uri)), USERS, clock=clock)
        table.allowed = threading.Event()
        made.append(WriteBehindTable(table))
        return made[-1], table

    yield make
    for table in made:
        table._table.allowed.set()  # type: ignore[attr-defined]
        table.close()


def test_caller_goes_on_and_knows_what_is_being_written(make: Make) -> None:
    """As if it were written; afterwards it is."""
    behind, table = make()
    behind.put_many(entries("a", "b"))
    assert behind.get_many(["a", "c"]) == entries("a")
    assert dict(table.get_many(["a", "b", "c"])) == {}
    table.allowed.set()
    behind.put_many(entries("c"))  # waits for the first
    assert table.get_many(["a", "b"]).keys() == {"a", "b"}
    assert behind.get_many(["a", "c"]).keys() == {"a", "c"}
    behind.close()


def test_what_the_table_has_stays_columns_beside_what_is_being_written(make: Make) -> None:
    """An object for each of thousands of keys takes many times as much memory."""
    behind, table = make()
    table.allowed.set()
    table.put_many(entries("old"))
    table.allowed.clear()
    behind.put_many(entries("new"))
    known = behind.get_many(["new", "nobody", "old"])
    assert isinstance(known, Entries)
    assert known == entries("old", "new")


def test_close_waits_for_what_is_being_written(make: Make, postgres_uri: str, clock: FixedClock) -> None:
    """What the next run finds."""
    behind, table = make()
    behind.put_many(entries("a"))
    closing = threading.Thread(target=behind.close)
    closing.start()
    table.allowed.set()
    closing.join(30)
    later = PostgresLayer(lambda: psycopg.connect(postgres_uri), USERS, clock=clock)
    assert later.get_many(["a"]).keys() == {"a"}
    later.close()


def test_failure_is_raised_by_the_next_write(make: Make) -> None:
    """Once, and what could not be written is no longer known."""
    behind, table = make(lambda: psycopg.connect("host=/nonexistent dbname=nothing"))
    table.allowed.set()
    behind.put_many(entries("a"))
    with pytest.raises(LayerUnavailable):
        behind.put_many(entries("b"))
    with pytest.raises(LayerUnavailable):  # of the table itself, which is asked for it
        behind.get_many(["a"])


def test_failure_of_the_last_write_is_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A cache that is not written is no failure of the batch."""
    behind, table = make(lambda: psycopg.connect("host=/nonexistent dbname=nothing"))
    table.allowed.set()
    behind.put_many(entries("a", "b"))
    behind.close()
    assert "cache.not_written entries=2" in caplog.text


def test_one_call_at_a_time() -> None:
    """The second begins when the first has ended; what fails is told once, and the next work is begun."""
    behind, order = OneBehind(), list[str]()
    first = threading.Event()

    def slow() -> None:
        assert first.wait(30)
        order.append("first")

    def fails() -> None:
        raise ValueError("out of order")

    behind.run(slow)
    first.set()
    behind.run(lambda: order.append("second"))
    behind.run(fails)
    assert order == ["first", "second"]
    with pytest.raises(ValueError, match="out of order"):
        behind.wait()
    behind.run(lambda: order.append("third"))
    behind.close()
    assert order[-1] == "third"
