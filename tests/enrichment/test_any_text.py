"""No text in a message raises anything: in any stage, for any source, every key has one of the declared outcomes."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from enrichment import sql
from enrichment.caches.base import CacheLayer, Entry, LookupSource, State
from enrichment.caches.layered import LayeredLookup, TimeToLive
from enrichment.caches.memory import MemoryLayer
from enrichment.caches.postgres import PostgresLayer
from enrichment.codec.decode import decode
from enrichment.enrichers.base import JSON, STATUS, OpenEnricher
from enrichment.enrichers.business import Context
from enrichment.enrichers.business.query import business_query
from enrichment.enrichers.geo import GEO, Place
from enrichment.enrichers.geo.database import GeoDatabase
from enrichment.enrichers.geo.special_addresses import SpecialAddresses
from enrichment.enrichers.registry import REGISTRY
from enrichment.enrichers.tables import cache_tables
from enrichment.enrichers.testing import FixedClock, look_up_and_enrich, make_events
from enrichment.enrichers.user import USER, Profile
from enrichment.sources.sql_query import SqlSource
from tests.fixtures.postgres import TABLES, Connection
from tests.fixtures.user_api import MakeApi
from tests.fixtures.user_service import UserService

BY_NAME = {table.cache: table for table in cache_tables()}

# What has broken a look-up somewhere, once.
KNOWN = [
    "2001:4860:4860::8888%\0", "2001:4860:4860::8888%eth0", "fe80::1%\0", "8.8.8.8\0", "8.8.8.8%1", "::ffff:8.8.8.8%\n",
    "٨.٨.٨.٨", "1e400", "0x8.8.8.8", "1.2.3", "::", "/", "..", ".", "a/b", "a?b#c", "%", "%2F", "%00", "a%zz", " ",
    "\n", "\r\nHost: x",
    "\0", "\ufeff", "\uffff", "\U0010ffff", "é", "e\u0301", "'; --", "%s", "%(request_ids)s", "{}", "\\",
    "{a,b}", "null", "x" * 2_001, "é" * 1_001, "\u2028", "--", "$1", "a" * 5_000,
]  # fmt: skip
addresses = st.ip_addresses().map(str)
zones = st.builds("{}%{}".format, st.ip_addresses(v=6), st.text(max_size=5))
texts = st.text(max_size=30) | addresses | zones | st.sampled_from(KNOWN)
keys = st.lists(texts.filter(bool), min_size=1, max_size=8, unique=True)
# Also what no Arrow string holds, so that nothing of it comes out of a message.
all_texts = st.lists(st.text(st.characters(exclude_categories=()), max_size=30) | texts, max_size=8, unique=True)

each = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
KEYS = ("source_ip", "user_id", "request_id")
LIVES = TimeToLive(60, 60, 60)


@pytest.fixture(scope="module")
def database() -> GeoDatabase:
    """The package's."""
    return GeoDatabase()


@pytest.fixture
def demo(postgres_connection: Connection) -> Iterator[SqlSource]:
    """The shipped query over demonstration data."""
    postgres_connection.execute("SELECT set_config('demo.requests', '100', false)")
    postgres_connection.execute(sql.load("demo/business").encode())
    with closing(business_query(lambda: postgres_connection, sql.load("business_context/fetch"))) as query:
        yield query


@pytest.fixture
def layered(postgres_uri: str, clock: FixedClock, postgres_connection: Connection) -> Callable[..., LayeredLookup]:
    """Memory and a real table before a source."""

    def make(cache: str, source: LookupSource) -> LayeredLookup:
        rows = PostgresLayer(lambda: postgres_connection, BY_NAME[cache], clock=clock, version=source.version)
        return LayeredLookup([MemoryLayer(100, clock), rows], source, LIVES, clock)

    return make


def assert_answered(entries: Collection[Entry], source: str) -> None:
    """Found, or one of the source's reasons, but not that it could not be asked: no text is a cause for that."""
    assert_declared(entries, source)
    assert {entry.reason for entry in entries} & REGISTRY.outages.keys() == set()


def assert_declared(entries: Collection[Entry], source: str) -> None:
    """Found, or one of the source's reasons."""
    for entry in entries:
        assert (entry.reason is None) == (entry.state is State.FOUND)
        assert entry.state is State.FOUND or entry.reason in REGISTRY.by_source[source].reasons


def message(text: str, *, ascii_only: bool) -> bytes:
    """A message with this text in all of its fields."""
    names = ("timestamp", "service", "level", "message", "trace_id", "span_id", *KEYS)
    return json.dumps(dict.fromkeys(names, text), ensure_ascii=ascii_only).encode()


@each
@given(texts=keys, ascii_only=st.booleans())
@example(texts=KNOWN, ascii_only=True)
@example(texts=KNOWN, ascii_only=False)
def test_key_comes_out_of_a_message_as_it_is(texts: list[str], ascii_only: bool) -> None:
    """Escaped or not: what is looked up is what the message says."""
    decoded = decode(pa.array([message(text, ascii_only=ascii_only) for text in texts], pa.binary()), KEYS)
    assert decoded.refused == {}
    assert {name: column.to_pylist() for name, column in decoded.keys.items()} == dict.fromkeys(KEYS, texts)


@each
@given(texts=all_texts)
@example(texts=KNOWN)
@example(texts=["\ud800", "\udfff%1", "2001:4860:4860::8888%\ud800"])
def test_geo_database_answers_every_text(database: GeoDatabase, texts: list[str]) -> None:
    """A place, none, or no address."""
    entries = database.fetch_many(texts)
    assert list(entries) == texts
    assert_answered(list(entries.values()), "geo-ip")


@each
@given(texts=keys | st.just([]))
@example(texts=KNOWN)
def test_business_query_answers_every_text(demo: SqlSource, texts: list[str]) -> None:
    """A context or none, from the shipped query in a real database; one odd request costs no other."""
    entries = demo.fetch_many(texts)
    assert entries.keys() == set(texts)
    assert_answered(list(entries.values()), "business-context")


@pytest.mark.parametrize("batch_size", [1, 500], ids=["one-by-one", "batch"])
def test_user_api_answers_every_text(user_service: UserService, make_api: MakeApi, batch_size: int) -> None:
    """A profile or none, from a real server, where an id is a text in JSON or a segment of the path, which a server may
    refuse: that costs no user beside it, such as this one."""
    api = make_api(user_service.base_url, batch_size=batch_size)

    @each
    @given(texts=keys)
    @example(texts=KNOWN)
    def check(texts: list[str]) -> None:
        asked = list(dict.fromkeys([*texts, "user-1"]))
        entries = api.fetch_many(asked)
        assert list(entries) == asked
        assert entries["user-1"].state is State.FOUND
        (assert_declared if batch_size == 1 else assert_answered)(list(entries.values()), "user-profile")

    check()


@pytest.mark.parametrize("table", ["memory", "geo_ip_cache", "user_profile_cache", "business_context_cache"])
def test_layer_takes_every_text(postgres_connection: Connection, clock: FixedClock, table: str) -> None:
    """What is kept comes back as it was; what a table cannot hold is unknown to it, and costs no other key."""
    values: dict[str, Any] = {
        "geo_ip_cache": Place(city="Zürich"),
        "user_profile_cache": Profile("free", 1, "é"),
        "business_context_cache": Context("payments", "refund", 1.5, "EUR"),
    }
    value = values.get(table, Place(city="Zürich"))
    layer: CacheLayer = MemoryLayer(10_000, clock)
    if table != "memory":
        layer = PostgresLayer(lambda: postgres_connection, TABLES[table], clock=clock)

    @each
    @given(texts=keys)
    @example(texts=KNOWN)
    def check(texts: list[str]) -> None:
        kept = Entry(State.FOUND, value, expires_at=clock.now + 60)
        layer.put_many(dict.fromkeys(texts, kept))
        found = layer.get_many(texts)
        assert found.keys() <= set(texts)
        assert {text for text in texts if "\0" not in text and len(text.encode()) <= 2_000} <= found.keys()
        assert all(entry.value == value for entry in found.values())

    check()


def test_every_text_comes_through_the_enrichers(
    layered: Callable[..., LayeredLookup], database: GeoDatabase, user_service: UserService, make_api: MakeApi
) -> None:
    """With memory and table before the source, as tasks have them: every row has its status and its JSON."""
    geo = OpenEnricher(GEO, SpecialAddresses(layered("geo", database)))
    user = OpenEnricher(USER, layered("user", make_api(user_service.base_url)))

    @each
    @given(texts=keys)
    @example(texts=KNOWN)
    def check(texts: list[str]) -> None:
        events = make_events(source_ip=texts, user_id=texts)
        for enricher, source in ((geo, "geo-ip"), (user, "user-profile")):
            added = look_up_and_enrich(enricher, events, {})
            assert set(added.take(STATUS)) <= {"ok", *REGISTRY.by_source[source].reasons}
            assert all(isinstance(json.loads(b"{%s}" % columns), dict) for columns in added.take(JSON))

    check()
