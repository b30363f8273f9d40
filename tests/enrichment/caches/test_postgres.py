"""The PostgreSQL tier, beyond what every layer promises."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import msgspec
import psycopg
import pytest

from enrichment.caches.base import Entry, State
from enrichment.caches.behind import WriteBehindTable
from enrichment.caches.postgres import MAX_KEY_BYTES, PostgresLayer
from enrichment.enrichers.geo import Place
from enrichment.enrichers.tables import cache_tables
from enrichment.enrichers.testing import FixedClock
from enrichment.enrichers.user import Profile
from enrichment.errors import LayerUnavailable
from tests.fixtures.pgbouncer import Pooled
from tests.fixtures.postgres import TABLES, bounded
from tests.fixtures.proxy import Network

BY_NAME = {table.cache: table for table in cache_tables()}

Connection = psycopg.Connection[Any]
MakeLayer = Callable[..., PostgresLayer]

HOUR = 3_600
USERS = BY_NAME["user"]
PREMIUM = Profile("premium", 365, "Acme Corp")


@pytest.fixture
def make_layer(postgres_connection: Connection, postgres_uri: str, clock: FixedClock) -> Iterator[MakeLayer]:
    """Makes layers over the user table, each with a connection of its own."""
    layers = []

    def make(table: str = "user_profile_cache", **options: Any) -> PostgresLayer:
        layers.append(PostgresLayer(lambda: psycopg.connect(postgres_uri), TABLES[table], clock=clock, **options))
        return layers[-1]

    yield make
    for layer in layers:
        layer.close()


def found(clock: FixedClock, value: Any = PREMIUM, version: str = "") -> Entry:
    """A found entry that lives for an hour."""
    return Entry(State.FOUND, value, None, clock() + HOUR, version)


@pytest.mark.parametrize("table", TABLES)
def test_statement_returns_the_fields_in_order_when_asked(postgres_connection: Connection, table: str) -> None:
    """The arrays after the first seven of each get_many are the fields of the struct, in its order."""
    cursor = postgres_connection.execute(
        TABLES[table].statement("get_many"),
        {"keys": [], "now": 0.0, "served_from": 0.0, "touched_before": 0.0, "version": ""},
    )
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    assert names[7:] == [field.name for field in msgspec.structs.fields(TABLES[table].values)]


def test_entry_is_there_for_the_next_process_when_put(make_layer: MakeLayer, clock: FixedClock) -> None:
    """What one layer puts is committed: another connection sees it."""
    make_layer().put_many({"user-123": found(clock)})
    assert make_layer().get_many(["user-123"]) == {"user-123": found(clock)}


def test_get_many_returns_expired_when_within_the_grace(make_layer: MakeLayer, clock: FixedClock) -> None:
    """An expired entry is still returned, unmarked, until the grace is over."""
    layer = make_layer(stale_grace_seconds=HOUR)
    entry = found(clock)
    layer.put_many({"user-123": entry})
    clock.advance(2 * HOUR - 1)
    assert layer.get_many(["user-123"]) == {"user-123": entry}
    clock.advance(1)
    assert layer.get_many(["user-123"]) == {}


def test_get_many_leaves_out_another_version_when_it_has_one(make_layer: MakeLayer, clock: FixedClock) -> None:
    """Rows of another source version are not seen; a layer without a version sees all."""
    entries = {
        "old": found(clock, Place("France"), "build-1"),
        "new": found(clock, Place("Spain"), "build-2"),
    }
    make_layer("geo_ip_cache", version="build-1").put_many(entries)
    assert set(make_layer("geo_ip_cache", version="build-2").get_many(["old", "new"])) == {"new"}
    assert make_layer("geo_ip_cache").get_many(["old", "new"]) == entries


def test_put_many_leaves_out_entries_when_failed_or_stale(make_layer: MakeLayer, clock: FixedClock) -> None:
    """The table holds what the source said, never that it did not answer, nor an old answer as a new one."""
    layer = make_layer()
    layer.put_many(
        {
            "failed": Entry(State.FAILED, None, "user-lookup-timeout", clock() + HOUR),
            "stale": Entry(State.FOUND, PREMIUM, None, clock() + HOUR, stale=True),
        }
    )
    assert layer.get_many(["failed", "stale"]) == {}


def test_put_many_keeps_the_others_when_a_value_cannot_be_stored(make_layer: MakeLayer, clock: FixedClock) -> None:
    """A source may answer text that PostgreSQL cannot hold: that entry alone is not kept."""
    layer = make_layer()
    layer.put_many({"good": found(clock), "bad": found(clock, Profile("free", 1, "nul\0"))})
    assert layer.get_many(["good", "bad"]) == {"good": found(clock)}


def count_statements(layer: PostgresLayer) -> list[str]:
    """The names of the statements that the layer executes from now on."""
    names: list[str] = []
    execute = layer._execute

    def counted(connection: Any, statement: str, parameters: Any) -> Any:
        names.append(statement)
        return execute(connection, statement, parameters)

    layer._execute = counted  # type: ignore[method-assign]
    return names


def last_uses(connection: Connection) -> dict[str, float]:
    """When each cached user was last used, in epoch seconds."""
    return dict(
        connection.execute("SELECT user_id, date_part('epoch', last_used_at) FROM user_profile_cache").fetchall()
    )


def test_use_is_noted_when_the_last_note_is_old_enough(
    make_layer: MakeLayer, postgres_connection: Connection, clock: FixedClock
) -> None:
    """A row that is served carries when, as exactly as configured; rows that were not served keep their time."""
    layer, start = make_layer(touch_after_seconds=900), clock()
    layer.put_many({"asked": found(clock), "idle": found(clock)})
    clock.advance(900)
    layer.get_many(["asked"])
    layer.get_many([])
    assert last_uses(postgres_connection) == {"asked": start, "idle": start}
    clock.advance(1)
    layer.get_many(["asked"])
    layer.get_many(["idle"])
    assert last_uses(postgres_connection) == {"asked": start + 901, "idle": start}
    layer.close()
    assert last_uses(postgres_connection) == {"asked": start + 901, "idle": start + 901}


def test_use_is_noted_with_what_is_put_next(
    make_layer: MakeLayer, postgres_connection: Connection, clock: FixedClock
) -> None:
    """Reading and writing a chunk are two statements, however many rows were used; these stay as they were fetched."""
    layer, start = make_layer(), clock()
    layer.put_many({"old": found(clock, Profile("free")), "both": found(clock)})
    clock.advance(1_000)
    expected = layer.get_many(["old", "both"])["old"]
    statements = count_statements(layer)
    layer.put_many({"new": found(clock), "both": found(clock, Profile("pro"))})
    layer.close()
    assert statements == ["put_many"]
    assert last_uses(postgres_connection) == dict.fromkeys(["old", "both", "new"], start + 1_000)
    assert make_layer().get_many(["old", "both"]) == {"old": expected, "both": found(clock, Profile("pro"))}
    fetched = "SELECT user_id, date_part('epoch', fetched_at) FROM user_profile_cache"
    assert dict(postgres_connection.execute(fetched).fetchall()) == {
        "old": start, "both": start + 1_000, "new": start + 1_000,
    }  # fmt: skip


def test_noting_use_leaves_alone_what_was_fetched_since(make_layer: MakeLayer, clock: FixedClock) -> None:
    """Somebody has renewed a row that was read: its old answer does not come back with the note of its use."""
    make_layer().put_many({"old": found(clock, Profile("free"))})
    clock.advance(1_000)
    reader, renewed = make_layer(), found(clock, Profile("pro"))
    assert reader.get_many(["old"])["old"].value == Profile("free")
    make_layer().renew_many({"old": renewed})
    reader.put_many({"new": found(clock)})
    assert make_layer().get_many(["old"]) == {"old": renewed}


def test_use_is_noted_once_when_written_behind(make_layer: MakeLayer, clock: FixedClock) -> None:
    """Whoever writes in another thread takes along what was read before it began, and nobody writes that again."""
    make_layer().put_many({"old": found(clock)})
    clock.advance(1_000)
    layer = make_layer()
    table, statements = WriteBehindTable(layer), count_statements(layer)
    for key in ("first", "second"):
        table.get_many(["old"])
        table.put_many({key: found(clock)})
    table.close()
    assert sorted(statements) == ["get_many"] * 2 + ["put_many"] * 2


def test_use_is_not_noted_when_the_row_has_expired(
    make_layer: MakeLayer, postgres_connection: Connection, clock: FixedClock
) -> None:
    """An expired row is about to be fetched anew: writing it twice would be waste."""
    layer, start = make_layer(stale_grace_seconds=HOUR), clock()
    layer.put_many({"asked": found(clock)})
    clock.advance(HOUR)
    assert layer.get_many(["asked"])
    assert last_uses(postgres_connection) == {"asked": start}


def test_reading_never_waits_when_others_hold_the_row(
    make_layer: MakeLayer, postgres_connection: Connection, postgres_uri: str, clock: FixedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A reader is not held up by whoever writes the row; noting the use is given up after the time that writing has."""
    layer = PostgresLayer(lambda: psycopg.connect(postgres_uri, options="-c lock_timeout=1"), USERS, clock=clock)
    start = clock()
    layer.put_many({"busy": found(clock), "free": found(clock)})
    clock.advance(1_000)
    with psycopg.connect(postgres_uri) as writer:
        writer.execute("UPDATE user_profile_cache SET company = 'Other' WHERE user_id = 'busy'")
        assert set(layer.get_many(["busy", "free"])) == {"busy", "free"}
        assert "cache.use_not_noted" not in caplog.text
        layer.close()
    assert "cache.use_not_noted" in caplog.text
    assert last_uses(postgres_connection) == {"busy": start, "free": start}


def test_entries_are_served_when_their_use_cannot_be_noted(
    make_layer: MakeLayer, postgres_uri: str, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that refuses to write (a standby) still answers."""
    make_layer().put_many({"user-123": found(clock)})
    clock.advance(1_000)
    reader = PostgresLayer(
        lambda: psycopg.connect(postgres_uri, options="-c default_transaction_read_only=on"),
        USERS, clock=clock,
    )  # fmt: skip
    assert set(reader.get_many(["user-123"])) == {"user-123"}
    reader.close()
    assert "cache.use_not_noted" in caplog.text


def test_renewed_entry_keeps_its_last_use(
    make_layer: MakeLayer, postgres_connection: Connection, clock: FixedClock
) -> None:
    """Renewing replaces everything but the time of the last use; a key that is gone meanwhile counts as used now."""
    layer, start = make_layer(), clock()
    layer.put_many({"user-123": found(clock, Profile("free"))})
    clock.advance(60)
    layer.renew_many({"user-123": found(clock), "gone": found(clock)})
    assert layer.get_many(["user-123"]) == {"user-123": found(clock)}
    assert last_uses(postgres_connection) == {"user-123": start, "gone": start + 60}


def test_layer_is_unavailable_when_nothing_can_connect(clock: FixedClock) -> None:
    """A database that is not there is a LayerUnavailable, on reading and on writing."""
    layer = PostgresLayer(lambda: psycopg.connect("host=/nonexistent dbname=nothing"), USERS, clock=clock)
    with pytest.raises(LayerUnavailable):
        layer.get_many(["user-123"])
    with pytest.raises(LayerUnavailable):
        layer.put_many({"user-123": found(clock)})


def test_layer_answers_again_when_its_connection_was_killed(
    make_layer: MakeLayer, postgres_connection: Connection, clock: FixedClock
) -> None:
    """The call that finds the connection dead opens another: a server that was restarted is no failure."""
    layer = make_layer()
    layer.put_many({"user-123": found(clock)})
    postgres_connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    assert layer.get_many(["user-123"]) == {"user-123": found(clock)}


def test_locked_table_is_waited_for_once_and_passed_by(
    make_layer: MakeLayer, postgres_uri: str, clock: FixedClock
) -> None:
    """However many chunks a task has, a table that somebody has locked costs it one time-out of reading and one of
    writing; after the pause it is asked again."""
    make_layer().put_many({"user-123": found(clock)})
    layer = PostgresLayer(
        lambda: bounded(postgres_uri), USERS, clock=clock, pause_seconds=2
    )  # fmt: skip
    with closing(layer), psycopg.connect(postgres_uri) as holder:
        holder.execute("LOCK TABLE user_profile_cache")
        for said in ("lock timeout", *["passed by for . s more.*lock timeout"] * 10):
            with pytest.raises(LayerUnavailable, match=f"(?s)user_profile_cache: .*{said}"):
                layer.get_many(["user-123"])
        for said in ("lock timeout", *["passed by"] * 10):
            with pytest.raises(LayerUnavailable, match=f"(?s)user_profile_cache: .*{said}"):
                layer.put_many({"user-456": found(clock)})
        holder.rollback()
        time.sleep(2)
        assert set(layer.get_many(["user-123", "user-456"])) == {"user-123"}
        layer.put_many({"user-456": found(clock)})
        assert set(layer.get_many(["user-123", "user-456"])) == {"user-123", "user-456"}


def test_swallowed_layer_costs_one_limit(
    postgres_connection: Connection, postgres_uri: str, make_network: Callable[[str], Network], clock: FixedClock
) -> None:
    """A network that swallows everything, while the caches are in use: one limit's time, then nothing is waited for."""
    network = make_network(postgres_uri)
    layer = PostgresLayer(lambda: bounded(network.uri), USERS, clock=clock)
    with closing(layer):
        layer.put_many({"user-123": found(clock)})
        assert layer.get_many(["user-123"])
        network.swallow()
        for said in ("has not answered", "passed by", "passed by"):
            with pytest.raises(LayerUnavailable, match=said):
                layer.get_many(["user-123"])


@pytest.mark.parametrize("table", TABLES)
def test_layer_serves_many_chunks_behind_pgbouncer(
    postgres_connection: Connection, postgres_uri: str, pgbouncer: Pooled, clock: FixedClock, table: str
) -> None:
    """In transaction mode, with sessions shared by several clients: nothing is passed by."""
    layers = [
        PostgresLayer(lambda: bounded(pgbouncer(postgres_uri), 10, 10), TABLES[table], clock=clock) for _ in range(4)
    ]
    entry = found(clock, TABLES[table].values())
    for number in range(10):
        for each, layer in enumerate(layers):
            layer.put_many({f"Timișoara-{each}-{number}": entry})
            assert layer.get_many([f"Timișoara-{each}-{number}"]) == {f"Timișoara-{each}-{number}": entry}
    for layer in layers:
        layer.close()


@pytest.mark.parametrize("odd", ["with a \0", random.Random(0).randbytes(2 * MAX_KEY_BYTES).hex()], ids=["NUL", "long"])
def test_key_that_no_table_can_hold_costs_no_other(make_layer: MakeLayer, clock: FixedClock, odd: str) -> None:
    """It is neither written nor read; the entries beside it are."""
    make_layer().put_many({odd: found(clock), "user-123": found(clock)})
    assert set(make_layer().get_many([odd, "user-123"])) == {"user-123"}


def test_layer_is_unavailable_when_its_table_was_changed(
    make_layer: MakeLayer, postgres_connection: Connection, clock: FixedClock
) -> None:
    """A column of a type that nobody expects is named; the caller goes on without the table."""
    layer = make_layer("geo_ip_cache")
    layer.put_many({"8.8.8.8": found(clock, Place("United States"))})
    postgres_connection.execute("DROP VIEW v_active_geo_cache CASCADE")
    postgres_connection.execute("ALTER TABLE geo_ip_cache ALTER timezone TYPE varchar(64)")
    with pytest.raises(LayerUnavailable, match=r"geo_ip_cache: .* type 1043"):
        layer.get_many(["8.8.8.8"])


def test_layer_answers_again_when_a_write_was_refused(make_layer: MakeLayer, clock: FixedClock) -> None:
    """A refused write is rolled back, and the same connection serves the next call."""
    layer = make_layer()
    layer.put_many({"user-123": found(clock)})
    with pytest.raises(LayerUnavailable, match="absent_has_reason"):
        layer.put_many({"user-456": found(clock), "nobody": Entry(State.ABSENT, expires_at=clock() + HOUR)})
    assert set(layer.get_many(["user-123", "user-456"])) == {"user-123"}


def test_writers_do_not_deadlock_when_they_write_the_same_keys_in_opposite_order(
    make_layer: MakeLayer, clock: FixedClock
) -> None:
    """Two tasks that upsert the same keys, given in opposite orders, both succeed."""
    entries = {f"user-{n}": found(clock) for n in range(2_000)}
    orders = [entries, dict(reversed(entries.items()))]
    start = threading.Barrier(2)
    failures: list[LayerUnavailable] = []

    def write(order: dict[str, Entry]) -> None:
        layer = make_layer()
        layer.get_many(["user-0"])  # connects
        start.wait()
        try:
            for _ in range(5):
                layer.put_many(order)
        except LayerUnavailable as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
