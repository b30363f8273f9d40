"""What lookups answer to the keys of the backlog: from memory alone, or from the pipeline's cache tables at first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import psycopg
from cachetools import TTLCache
from psycopg.sql import SQL, Identifier

from benchmarks.backlog import Seen
from benchmarks.stand import Stand
from enrichment.caches.base import KeyLookup, LookupSource, State
from enrichment.caches.layered import LayeredLookup, TimeToLive
from enrichment.enrichers.registry import NO_KEY, OK, REGISTRY

AT_ONCE = 2_000  # keys: what the user service is asked within one deadline
TTL_SECONDS = 3_600
BY_KEY = {enricher.key: enricher for enricher in REGISTRY.enrichers}


class Known(NamedTuple):
    """The answer to a key: its status word, and the columns that it gives, under the output's names."""

    status: str | None
    columns: dict[str, Any]


class Answers:
    """A time-to-live cache for each kind of key, large enough for all keys, and filled."""

    def __init__(self, stand: Stand, seen: Seen) -> None:
        self._nothing = {key: Known(NO_KEY, msgspec.to_builtins(e.columns())) for key, e in BY_KEY.items()}
        self._sources: dict[str, Mapping[str, Known]] = {
            name: dict(_ask(lookup, seen.distinct[name], BY_KEY[name].columns)) for name, lookup in _lookups(stand)
        }
        self._caches: dict[str, TTLCache[str, Known]] = {
            name: TTLCache(len(source) + 1, TTL_SECONDS) for name, source in self._sources.items()
        }
        for name, cache in self._caches.items():
            cache.update(self._sources[name])

    def look_up(self, name: str, key: str | None) -> Known:
        """From the cache, else from what stands for the source."""
        if not key:
            return self._nothing[name]
        cache = self._caches[name]
        try:
            known = cache[key]
        except KeyError:
            known = cache[key] = self._ask_source(name, key)
        return known

    def _ask_source(self, name: str, key: str) -> Known:
        return self._sources[name][key]


class TableAnswers(Answers):
    """The same caches, empty at first: a key that is missing is asked of its table, one by one, as the pipeline's
    stages find theirs when the caches are warm. Where the table has no row (addresses that no database is asked for),
    the source's answer is taken from memory."""

    def __init__(self, stand: Stand, seen: Seen) -> None:
        super().__init__(stand, seen)
        for cache in self._caches.values():
            cache.clear()
        self._connection = psycopg.connect(stand.dsn, autocommit=True)
        self._selects = {
            name: SQL("SELECT reason, {} FROM {} WHERE {} = %s AND expires_at > now()")
            .format(
                SQL(", ").join(Identifier(field) for field in enricher.columns.__struct_fields__),
                Identifier(enricher.table),
                Identifier(enricher.key_column),
            )
            .as_string()
            for name, enricher in BY_KEY.items()
        }

    def _ask_source(self, name: str, key: str) -> Known:
        row = self._connection.execute(self._selects[name], (key,), prepare=True).fetchone()
        if row is None:
            return super()._ask_source(name, key)
        reason, *value = row
        return Known(reason or OK, msgspec.to_builtins(BY_KEY[name].columns(*value)))


def _lookups(stand: Stand) -> Iterator[tuple[str, KeyLookup]]:
    """The pipeline's own sources, without caches."""
    with stand.resources(stand.settings) as r:
        for enricher in REGISTRY.enrichers:
            opened = r.enrichers.source(enricher)
            lookup = _uncached(opened.source)
            yield enricher.key, lookup if opened.front is None else opened.front(lookup)


def _uncached(source: LookupSource) -> KeyLookup:
    return LayeredLookup([], source, TimeToLive(TTL_SECONDS, TTL_SECONDS, TTL_SECONDS), time.time)


def _ask(lookup: KeyLookup, keys: Iterable[str], words: type[msgspec.Struct]) -> Iterator[tuple[str, Known]]:
    ordered = sorted(keys)
    nothing = words()
    for first in range(0, len(ordered), AT_ONCE):
        asked = ordered[first : first + AT_ONCE]
        for key, answer in zip(asked, lookup.answer_many(asked), strict=True):
            entry = answer.entry
            status = OK if entry.state is State.FOUND else entry.reason
            yield key, Known(status, msgspec.to_builtins(nothing if entry.value is None else entry.value))
