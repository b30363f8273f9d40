"""What a cache is: entries, the protocol of a lookup and of a layer, and how their answers are counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import msgspec


class State(StrEnum):
    """What is known about a key."""

    FOUND = "found"
    ABSENT = "absent"  # the source says that there is no such key
    FAILED = "failed"  # the source could not be asked


class Tier(StrEnum):
    """The tier that answered."""

    MEMORY = "memory"
    POSTGRES = "postgres"
    SOURCE = "source"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One answer. `value` is a struct of an enrichment's columns when found, else None; `reason` names why not.

    `expires_at` is in seconds since the epoch: after it the entry may be served only while the source is down, and is
    `stale` then. `version` is the source's (such as the build of a database); an entry of another version is a miss.
    """

    state: State
    value: Any = None
    reason: str | None = None
    expires_at: float = 0.0
    version: str = ""
    stale: bool = False


class Lookup(Protocol):
    """Answers for keys. A key without an answer is missing from the result."""

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """The entries of those keys that are known, expired ones included; asks once for all keys."""
        ...


class CacheLayer(Lookup, Protocol):
    """A lookup that can also be written to. Raises `LayerUnavailable` on failure; the caller goes on without it."""

    tier: Tier

    def put_many(self, entries: Mapping[str, Entry]) -> None:
        """Keep these entries, replacing older ones of the same keys."""
        ...


class LookupSource(Protocol):
    """The source behind the caches.

    Returns an entry for every key that it could ask about, found or absent or failed with its reason; `expires_at` is
    left to the caller. Raises `SourceUnavailable` when it can answer none of them.
    """

    version: str

    def fetch_many(self, keys: Sequence[str]) -> Mapping[str, Entry]:
        """Ask the source once for all keys."""
        ...


@runtime_checkable
class GradualSource(LookupSource, Protocol):
    """A source whose answers come one after the other, some of them perhaps much later than the first."""

    def fetch_parts(self, keys: Sequence[str]) -> Iterator[Mapping[str, Entry]]:
        """What `fetch_many` returns, in parts, as they come; raises `SourceUnavailable` when it can answer none."""
        ...


class Answer(msgspec.Struct, frozen=True, gc=False):
    """One key's entry and the tier that it came from; the source's own answer is a miss of the caches."""

    entry: Entry
    tier: Tier


class KeyLookup(Protocol):
    """What an enricher sees of the caches: an answer for every key, even when tiers fail."""

    def answer_many(self, keys: Sequence[str]) -> Sequence[Answer]:
        """One answer per key, in the order of `keys`, which are distinct. Never raises for a source that is down."""
        ...


class LookupCounts(msgspec.Struct, frozen=True):
    """How a chunk's messages were answered. The first message of a key counts for the tier that answered, every further
    one for memory; `misses` are the messages for which the source had to be asked. `stale`, `absent` and `failed` count
    the kinds of answers, from any tier."""

    messages: int = 0
    memory: int = 0
    postgres: int = 0
    misses: int = 0
    stale: int = 0
    absent: int = 0
    failed: int = 0
    distinct: int = 0

    def __add__(self, other: LookupCounts) -> LookupCounts:
        names = self.__struct_fields__
        return LookupCounts(*(getattr(self, name) + getattr(other, name) for name in names))

    @property
    def hit_rate(self) -> float | None:
        """Share of the messages that no source was asked for; None without messages."""
        return (self.memory + self.postgres) / self.messages if self.messages else None
