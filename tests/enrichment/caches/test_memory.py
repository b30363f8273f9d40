"""The memory tier, beyond what every layer promises."""

from __future__ import annotations

from enrichment.caches.base import Entry, State
from enrichment.caches.memory import MemoryLayer
from enrichment.enrichers.testing import FixedClock


def entries(clock: FixedClock, *keys: str, seconds: float = 60) -> dict[str, Entry]:
    """Absent entries of these keys that live for some seconds."""
    return {key: Entry(State.ABSENT, reason="user-not-found", expires_at=clock() + seconds) for key in keys}


def test_put_many_evicts_the_entry_used_longest_ago_when_full(clock: FixedClock) -> None:
    """A full layer keeps the entries that were read or written last."""
    layer = MemoryLayer(4, clock)
    for key in "abcd":
        layer.put_many(entries(clock, key))
    layer.get_many(["a"])
    layer.put_many(entries(clock, "e"))
    assert set(layer.get_many(list("abcde"))) == {"a", "c", "d", "e"}


def test_put_many_takes_in_a_quarter_when_given_more(clock: FixedClock) -> None:
    """Many keys at once do not push out those that come again: the last of them stay, as many as a quarter."""
    layer = MemoryLayer(8, clock)
    for key in "abcdefgh":
        layer.put_many(entries(clock, key))
    layer.put_many(entries(clock, *"uvwxyz"))
    assert set(layer.get_many(list("abcdefghuvwxyz"))) == set("cdefghyz")


def test_get_many_forgets_an_entry_when_it_expires(clock: FixedClock) -> None:
    """Each entry expires at its own time, to the second, and is not returned then."""
    layer = MemoryLayer(8, clock)
    layer.put_many(entries(clock, "short", seconds=10) | entries(clock, "long", seconds=20))
    clock.advance(10)
    assert set(layer.get_many(["short", "long"])) == {"long"}


def test_get_many_returns_failed_and_stale_entries_when_put(clock: FixedClock) -> None:
    """Memory is where a failure, or an answer served stale, is remembered between chunks."""
    failed = Entry(State.FAILED, reason="user-lookup-timeout", expires_at=clock() + 5)
    stale = Entry(State.ABSENT, reason="user-not-found", expires_at=clock() + 5, stale=True)
    layer = MemoryLayer(8, clock)
    layer.put_many({"failed": failed, "stale": stale})
    assert layer.get_many(["failed", "stale"]) == {"failed": failed, "stale": stale}
