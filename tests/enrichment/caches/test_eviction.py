"""Eviction: what goes, what stays, in which steps, and that nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from enrichment.caches import eviction
from enrichment.caches.base import Entry, State
from enrichment.caches.eviction import Evicted, evict, evict_chunks
from enrichment.caches.postgres import PostgresLayer
from enrichment.enrichers.business.recorded_risk import record_risks
from enrichment.enrichers.tables import cache_tables
from enrichment.enrichers.testing import FixedClock
from tests.fixtures.risks import request_risks

BY_NAME = {table.cache: table for table in cache_tables()}

Connection = psycopg.Connection[Any]

TABLES = {name: declared.table for name, declared in BY_NAME.items()}
KEYS = {name: declared.key for name, declared in BY_NAME.items()}
DAY = timedelta(days=1)
each_cache = pytest.mark.parametrize("cache", TABLES)


@pytest.fixture
def connection(postgres_connection: Connection, postgres_uri: str) -> Iterator[Connection]:
    """A connection as tasks have it."""
    with psycopg.connect(postgres_uri) as opened:
        yield opened


def put(admin: Connection, cache: str, key: str, expires: str, *, used: str = "0", state: str = "found") -> None:
    """A row that expires in an interval (negative: did before) and was used an interval ago."""
    admin.execute(
        f"INSERT INTO {TABLES[cache]} ({KEYS[cache]}, state, reason, fetched_at, expires_at, last_used_at)"
        " VALUES (%s, %s, 'why', now() - interval '30 days', now() + %s::interval, now() - %s::interval)".encode(),
        [key, state, expires, used],
    )


def fill(admin: Connection, cache: str, rows: int) -> None:
    """That many rows that are long past their hard expiry."""
    admin.execute(
        f"INSERT INTO {TABLES[cache]} ({KEYS[cache]}, state, fetched_at, expires_at)"
        " SELECT 'key-' || n, 'found', now() - interval '9 days', now() - interval '8 days'"
        " FROM generate_series(1, %s) AS n".encode(),
        [rows],
    )


def keys(admin: Connection, cache: str) -> list[str]:
    """What is left."""
    return [k for (k,) in admin.execute(f"SELECT {KEYS[cache]} FROM {TABLES[cache]} ORDER BY 1".encode())]


def run(connection: Connection, cache: str, **options: Any) -> Evicted:
    """An eviction with a day's grace, a roomy ceiling and chunks of two rows."""
    return evict(connection, BY_NAME[cache], **{"grace": DAY, "max_rows": 100, "chunk_rows": 2, **options})


@each_cache
def test_what_passed_its_hard_expiry_goes_and_is_counted_by_kind(
    postgres_connection: Connection, connection: Connection, cache: str
) -> None:
    """Found and absent rows go when their grace is over; those within it stay and are counted apart."""
    for number in range(5):
        put(postgres_connection, cache, f"old-{number}", "-25 hours")
    for number in range(3):
        put(postgres_connection, cache, f"gone-{number}", "-25 hours", state="absent")
    put(postgres_connection, cache, "in-grace", "-23 hours")
    put(postgres_connection, cache, "absent-in-grace", "-1 hour", state="absent")
    put(postgres_connection, cache, "fresh", "1 hour")
    evicted = run(connection, cache)
    assert keys(postgres_connection, cache) == ["absent-in-grace", "fresh", "in-grace"]
    assert (evicted.found, evicted.absent, evicted.surplus, evicted.in_grace, evicted.entries) == (5, 3, 0, 2, 3)
    assert evicted.chunks == 4


@each_cache
def test_least_recently_used_go_when_the_table_is_above_its_ceiling(
    postgres_connection: Connection, connection: Connection, cache: str
) -> None:
    """As many as are too many go, those first that were not used for longest, whenever they expire."""
    for hours in range(7):
        put(postgres_connection, cache, f"used-{hours}h-ago", "1 hour", used=f"{hours} hours")
    put(postgres_connection, cache, "expired", "-1 hour", used="2 minutes")
    evicted = run(connection, cache, max_rows=3)
    assert keys(postgres_connection, cache) == ["expired", "used-0h-ago", "used-1h-ago"]
    assert (evicted.found, evicted.surplus, evicted.entries, evicted.chunks) == (0, 5, 3, 3)


@each_cache
def test_due_rows_count_before_the_ceiling_does(
    postgres_connection: Connection, connection: Connection, cache: str
) -> None:
    """What goes by its expiry makes room: no row in use goes where that is enough."""
    put(postgres_connection, cache, "old", "-2 days", used="1 second")
    put(postgres_connection, cache, "unused", "1 hour", used="9 hours")
    evicted = run(connection, cache, max_rows=1)
    assert keys(postgres_connection, cache) == ["unused"]
    assert (evicted.found, evicted.surplus) == (1, 0)


def test_row_bytes_are_those_of_the_deleted_rows(postgres_connection: Connection, connection: Connection) -> None:
    """The bytes reported are the sizes of the rows that are gone, due ones and surplus ones."""
    put(postgres_connection, "user", "old", "-2 days")
    put(postgres_connection, "user", "unused", "1 hour", used="9 hours")
    put(postgres_connection, "user", "in use", "1 hour")
    [(size,)] = postgres_connection.execute(
        "SELECT sum(pg_column_size(u.*)) FROM user_profile_cache AS u WHERE user_id <> 'in use'"
    ).fetchall()
    evicted = run(connection, "user", max_rows=1)
    assert evicted.row_bytes == size
    assert evicted.size_bytes > 0


@each_cache
def test_dry_run_counts_and_deletes_nothing(
    postgres_connection: Connection, connection: Connection, cache: str
) -> None:
    """A dry run says what would go, and leaves every row."""
    put(postgres_connection, cache, "old", "-2 days")
    put(postgres_connection, cache, "gone", "-2 days", state="absent")
    put(postgres_connection, cache, "grace", "-1 hour")
    put(postgres_connection, cache, "fresh", "1 hour")
    before = keys(postgres_connection, cache)
    dry = run(connection, cache, max_rows=1, dry_run=True)
    assert keys(postgres_connection, cache) == before
    assert (dry.found, dry.absent, dry.surplus, dry.in_grace, dry.dry_run) == (1, 1, 1, 1, True)
    real = run(connection, cache, max_rows=1)
    assert (real.found, real.absent, real.surplus) == (dry.found, dry.absent, dry.surplus)


class Statements:
    """What a connection was asked to execute, from PostgreSQL's own notices of each statement."""

    def __init__(self, connection: Connection) -> None:
        self.seen: list[str] = []
        connection.add_notice_handler(lambda notice: self.seen.append(notice.message_primary or ""))
        connection.execute("SET client_min_messages = log")
        connection.execute("SET log_min_duration_statement = 0")
        connection.commit()
        self.seen.clear()

    @property
    def statements(self) -> list[str]:
        """Those with work in them: neither the frames of transactions nor the phases of one statement twice."""
        executed = [m for m in self.seen if " execute " in m or " statement: " in m]
        return [m for m in executed if not m.endswith(("BEGIN", "COMMIT"))]


@each_cache
def test_empty_run_costs_two_statements(postgres_connection: Connection, postgres_uri: str, cache: str) -> None:
    """With nothing to evict: one look at the statistics, one count of what is due, and of the orphans of each
    table that depends on the cache; nothing is deleted or vacuumed."""
    put(postgres_connection, cache, "fresh", "1 hour")
    with psycopg.connect(postgres_uri) as connection:
        asked = Statements(connection)
        run(connection, cache)
        assert len(asked.statements) == 2 + len(BY_NAME[cache].dependents), asked.seen


@each_cache
def test_locked_rows_are_passed_over(
    postgres_connection: Connection, connection: Connection, postgres_uri: str, cache: str
) -> None:
    """Rows that a task is writing stay, due or least used, and the eviction does not wait for them: all others go,
    which they would not if a chunk had met a lock (it gives up then)."""
    table, key = TABLES[cache], KEYS[cache]
    for name in ("busy", "old-1", "old-2"):
        put(postgres_connection, cache, name, "-2 days")
    put(postgres_connection, cache, "busy unused", "1 hour", used="9 hours")
    put(postgres_connection, cache, "unused", "1 hour", used="8 hours")
    put(postgres_connection, cache, "used", "1 hour")
    with psycopg.connect(postgres_uri) as writer:
        writer.execute(f"UPDATE {table} SET version = 'x' WHERE {key} LIKE 'busy%%'".encode())
        evicted = run(connection, cache, max_rows=2)
        assert keys(postgres_connection, cache) == ["busy", "busy unused", "used"]
        assert (evicted.found, evicted.surplus) == (2, 1)


@each_cache
def test_nothing_stays_locked_between_chunks(
    postgres_connection: Connection, postgres_uri: str, clock: FixedClock, cache: str
) -> None:
    """Each chunk is committed when it ends and no larger than configured: in between, enrichment reads and writes the
    very rows that are being evicted without waiting for a single lock."""
    fill(postgres_connection, cache, 50)
    every = [f"key-{n}" for n in range(1, 51)]
    entries = {key: Entry(State.FOUND, BY_NAME[cache].values(), None, clock() + 1) for key in every}
    layer = PostgresLayer(
        lambda: psycopg.connect(postgres_uri, options="-c lock_timeout=1"), BY_NAME[cache], clock=clock
    )
    sizes = []
    with closing(layer), psycopg.connect(postgres_uri) as connection:
        for chunk in evict_chunks(connection, BY_NAME[cache], grace=DAY, surplus=5, chunk_rows=8):
            sizes.append(chunk.rows)
            layer.get_many(every)
            if len(sizes) < 4:
                layer.put_many(entries)  # the clock of the test stands in the past: they are due again
    assert max(sizes) == 8
    assert sum(sizes) == 3 * 8 + 50


@each_cache
def test_enrichment_goes_on_while_an_eviction_runs_on_the_same_rows(
    postgres_connection: Connection, postgres_uri: str, clock: FixedClock, cache: str
) -> None:
    """Two tasks that read and upsert the rows that two evictions delete all the while: no task waits for a lock for
    longer than a chunk can take, none deadlocks, and what they wrote last is there at the end or was evicted whole."""
    fill(postgres_connection, cache, 2_000)
    every = [f"key-{n}" for n in range(1, 2_001)]
    entries = {key: Entry(State.FOUND, BY_NAME[cache].values(), None, clock() + 1) for key in every}
    failures: list[Exception] = []
    stop, start = threading.Event(), threading.Barrier(4)

    def enrich() -> None:
        # One chunk of 100 rows is deleted in milliseconds; whoever kept locks over chunks would exceed this.
        with closing(
            PostgresLayer(
                lambda: psycopg.connect(postgres_uri, options="-c lock_timeout=2000"),
                BY_NAME[cache], clock=clock,
            )
        ) as layer:  # fmt: skip
            start.wait()
            try:
                for _ in range(8):
                    layer.get_many(every)
                    layer.put_many(entries)
            except Exception as error:  # noqa: BLE001  shown by the test
                failures.append(error)

    def keep_evicting(deleted: list[int]) -> None:
        with psycopg.connect(postgres_uri) as connection:
            start.wait()
            try:
                while not stop.is_set():
                    chunks = evict_chunks(connection, BY_NAME[cache], grace=DAY, surplus=0, chunk_rows=100)
                    deleted.append(sum(chunk.rows for chunk in chunks))
            except Exception as error:  # noqa: BLE001  shown by the test
                failures.append(error)

    deleted: list[int] = []
    tasks = [threading.Thread(target=enrich) for _ in range(2)]
    evictions = [threading.Thread(target=keep_evicting, args=(deleted,)) for _ in range(2)]
    for thread in (*tasks, *evictions):
        thread.start()
    for thread in tasks:
        thread.join()
    stop.set()
    for thread in evictions:
        thread.join()
    assert failures == []
    assert sum(deleted) > 2_000  # more than were there at first: rows of the tasks were evicted while they ran


def risks(admin: Connection) -> list[str]:
    """The requests whose risk is kept."""
    return [k for (k,) in admin.execute("SELECT request_id FROM business_risks ORDER BY 1")]


def score(admin: Connection, *requests: str) -> None:
    """Record a risk for each of these."""
    record_risks(
        admin, request_risks(requests, [0.5] * len(requests), ["medium"] * len(requests), [[]] * len(requests))
    )


def test_risks_go_with_their_contexts(postgres_connection: Connection, connection: Connection) -> None:
    """Whatever the reason that a context has gone, or if it never came, its risk goes; the others stay. In chunks, and
    counted apart from the rows of the cache; a dry run counts those that it can foresee."""
    for name, expires, used in [
        ("old", "-2 days", "0"), ("old too", "-2 days", "0"), ("grace", "-1 hour", "0"), ("fresh", "1 hour", "0"),
        ("unused", "1 hour", "9 hours"),
    ]:  # fmt: skip
        put(postgres_connection, "business", name, expires, used=used)
    score(postgres_connection, "old", "old too", "grace", "fresh", "unused", "", "never cached", "nor this")
    dry = run(connection, "business", max_rows=2, dry_run=True)
    assert (dry.found, dry.surplus, dry.orphans) == (2, 1, 5)
    assert len(risks(postgres_connection)) == 8
    evicted = run(connection, "business", max_rows=2)
    assert risks(postgres_connection) == ["fresh", "grace"]
    assert (evicted.found, evicted.surplus, evicted.orphans, evicted.chunks) == (2, 1, 6, 5)
    assert run(connection, "business", max_rows=2).orphans == 0


def test_risks_go_when_nothing_else_does(postgres_connection: Connection, connection: Connection) -> None:
    """A risk whose context was not cached at all is no reason to wait for the cache to be evicted."""
    put(postgres_connection, "business", "fresh", "1 hour")
    score(postgres_connection, "fresh", "never cached")
    assert run(connection, "business").orphans == 1
    assert risks(postgres_connection) == ["fresh"]
    assert run(connection, "geo").orphans == 0


def test_locked_risks_are_passed_over(
    postgres_connection: Connection, connection: Connection, postgres_uri: str
) -> None:
    """Risks that a task is writing stay, all others go, and neither waits."""
    score(postgres_connection, "a", "busy", "c", "d", "e")
    with psycopg.connect(postgres_uri) as writer:
        writer.execute("UPDATE business_risks SET risk_score = 0 WHERE request_id = 'busy'")
        assert run(connection, "business").orphans == 4
        assert risks(postgres_connection) == ["busy"]


def test_report_says_what_the_caches_hold(postgres_connection: Connection, connection: Connection) -> None:
    """Statistics of each cache, and the largest groups of places, users and risks, hand-counted."""
    for address, country in [("a", "France"), ("b", "France"), ("c", "Spain"), ("d", None)]:
        put(postgres_connection, "geo", address, "1 hour", state="found" if country else "absent")
        postgres_connection.execute("UPDATE geo_ip_cache SET country = %s WHERE ip_address = %s", [country, address])
    put(postgres_connection, "geo", "expired", "-1 hour")
    for user, expires, company in [("a", "1 hour", "Acme"), ("b", "-1 hour", "Other")]:
        put(postgres_connection, "user", user, expires)
        postgres_connection.execute(
            "UPDATE user_profile_cache SET subscription_tier = 'premium', account_age_days = 400, company = %s"
            " WHERE user_id = %s",
            [company, user],
        )
    put(postgres_connection, "business", "r", "1 hour")
    record_risks(
        postgres_connection, request_risks(["r", "gone"], [0.25, 0.5], ["low", "medium"], [["new-account"], []])
    )
    report = eviction.report(connection)
    assert {c["cache"]: (c["entries"], c["expired"], c["absent"]) for c in report["caches"]} == {
        "geo": (5, 1, 1), "user": (2, 1, 0), "business": (1, 0, 0),
    }  # fmt: skip
    assert report["places"] == [
        {"country": "France", "addresses": 2}, {"country": "Spain", "addresses": 1},
        {"country": "unknown", "addresses": 1},
    ]  # fmt: skip
    assert report["segments"] == [
        {"subscription_tier": "premium", "account_age": "365 days and more", "users": 2, "users_active": 1}
    ]
    assert report["risks"] == [
        {"risk_level": "low", "unit": "unknown", "requests": 1, "average_score": 0.25, "requests_with_indicators": 1}
    ]
