"""The contract of a cache layer, which every implementation passes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from enrichment.caches.base import CacheLayer, Entry, State
from enrichment.caches.memory import MemoryLayer
from enrichment.caches.postgres import PostgresLayer
from enrichment.enrichers.business import Context
from enrichment.enrichers.geo import Place
from enrichment.enrichers.testing import FixedClock
from enrichment.enrichers.user import Profile
from tests.fixtures.postgres import TABLES

FULL = {
    "geo_ip_cache": Place(
        "United States", "US", "California", "Mountain View", 37.386, -122.0838, "America/Los_Angeles"
    ),
    "user_profile_cache": Profile("premium", 365, "Acme Corp"),
    "business_context_cache": Context("payments", "purchase", 120.55, "USD"),
}
KINDS = ["memory", *FULL]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Memory, or the table that is behind the layer."""
    return str(request.param)


@pytest.fixture
def layer(kind: str, clock: FixedClock, request: pytest.FixtureRequest) -> Iterator[CacheLayer]:
    """An empty layer of the kind."""
    if kind == "memory":
        yield MemoryLayer(40_000, clock)
        return
    connection = request.getfixturevalue("postgres_connection")
    yield PostgresLayer(lambda: connection, TABLES[kind], clock=clock)


@pytest.fixture
def value(kind: str) -> msgspec.Struct:
    """A value with a different content in each field."""
    return FULL.get(kind, FULL["geo_ip_cache"])


def test_get_many_returns_what_was_put_when_not_expired(
    layer: CacheLayer, value: msgspec.Struct, clock: FixedClock
) -> None:
    """Found and absent entries come back as they were put, field by field, values that are unknown included."""
    entries = {
        "full": Entry(State.FOUND, value, None, clock() + 60.25, "build-1"),
        "empty": Entry(State.FOUND, type(value)(), None, clock() + 60, "build-1"),
        "gone": Entry(State.ABSENT, None, "user-not-found", clock() + 60, "build-1"),
    }
    layer.put_many(entries)
    assert layer.get_many(["full", "empty", "gone"]) == entries


def test_get_many_leaves_keys_out_when_unknown(layer: CacheLayer, value: msgspec.Struct, clock: FixedClock) -> None:
    """A key that the layer does not know is missing from the answer, whatever else is asked with it."""
    layer.put_many({"known": Entry(State.FOUND, value, None, clock() + 60)})
    assert list(layer.get_many(["unknown", "known"])) == ["known"]
    assert layer.get_many(["unknown"]) == {}
    assert layer.get_many([]) == {}


def test_put_many_replaces_when_key_is_known(layer: CacheLayer, value: msgspec.Struct, clock: FixedClock) -> None:
    """The last entry of a key is the one that is kept, all of it."""
    newer = Entry(State.ABSENT, None, "user-not-found", clock() + 90, "build-2")
    layer.put_many({"key": Entry(State.FOUND, value, None, clock() + 60, "build-1")})
    layer.put_many({"key": newer})
    assert layer.get_many(["key"]) == {"key": newer}


def test_put_many_does_nothing_when_empty(layer: CacheLayer) -> None:
    """Nothing to keep is no error."""
    layer.put_many({})
    assert layer.get_many(["key"]) == {}


def test_get_many_leaves_an_entry_out_when_it_expired_without_grace(
    layer: CacheLayer, value: msgspec.Struct, clock: FixedClock
) -> None:
    """A layer that is given no grace does not return what has expired."""
    layer.put_many({"key": Entry(State.FOUND, value, None, clock() + 60)})
    clock.advance(61)
    assert layer.get_many(["key"]) == {}


@pytest.mark.parametrize(
    "key", ["nul\0", "x" * 1_000_000, 'quote " \\ {},', "日本語", ""], ids=lambda key: ascii(key[:16])
)
def test_other_keys_are_served_when_one_is_odd(
    layer: CacheLayer, value: msgspec.Struct, clock: FixedClock, key: str
) -> None:
    """A key is whatever a message holds: an odd one is kept or unknown, and costs no other key its entry."""
    entry = Entry(State.FOUND, value, None, clock() + 60)
    layer.put_many({"plain": entry, key: entry})
    found = dict(layer.get_many([key, "plain"]))
    assert found.pop("plain") == entry
    assert found in ({}, {key: entry})


def test_many_keys_come_back_when_asked_together(layer: CacheLayer, value: msgspec.Struct, clock: FixedClock) -> None:
    """Thousands of keys are one question."""
    entries = {f"key-{n}": Entry(State.FOUND, value, None, clock() + 60) for n in range(5_000)}
    layer.put_many(entries)
    assert layer.get_many(list(entries)) == entries
