"""Takes entries, gives those back that have not expired: the fastest tier, as long-lived as the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cachetools import LRUCache

from enrichment.caches.base import Entry, Tier
from enrichment.caches.entries import last


class MemoryLayer:
    """A `CacheLayer` that keeps the `size` entries used last.

    A call stores at most a quarter of its size, the last entries: a chunk with many keys that are seen once (request
    ids) would evict those that come again, and evicting costs more than it saves. The next tier has the others.

    An expired entry is not returned, and is evicted like any unused one. Entries hold their own expiry: the timed
    caches of `cachetools` store it a second time and took four times as long. `clock` gives seconds since the epoch.
    """

    tier = Tier.MEMORY

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._entries = _Recent(size)
        self._clock = clock

    def get_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries of those keys that are known and have not expired."""
        now, entries, known = self._clock(), self._entries, self._entries.known
        return {key: entry for key in keys if key in known and (entry := entries[key]).expires_at > now}

    def put_many(self, entries: Mapping[str, Entry]) -> None:
        """Keep these entries, or the last of them when there are many."""
        self._entries.update(last(entries, max(1, int(self._entries.maxsize) // 4)))


class _Recent(LRUCache[str, Entry]):
    """`known` are its keys: asking `cachetools` for thousands that it does not have takes several times as long."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.known: set[str] = set()

    def __setitem__(self, key: str, entry: Entry) -> None:
        super().__setitem__(key, entry)
        self.known.add(key)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.known.discard(key)
