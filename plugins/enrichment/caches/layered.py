"""Keys in, an answer for each out: memory, PostgreSQL, then the source, each asked at once for what is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import pyarrow.compute as pc

from enrichment.caches.base import CacheLayer, Entry, GradualSource, LookupSource, State, Tier
from enrichment.caches.entries import EXPIRES_AT, STATE, VERSION, Answers, Entries, lasting
from enrichment.errors import EnrichmentError, LayerUnavailable, SourceUnavailable
from enrichment.messages import Reason

log = logging.getLogger(__name__)

# Keys that a source is asked for at once. Until its answers are columns they are objects, several for each, which take
# many times what the columns do.
MOST_KEYS = 10_000


class TimeToLive(msgspec.Struct, frozen=True):
    """How long, in seconds, an answer of the source may be served, by its state."""

    found_seconds: float
    absent_seconds: float
    failed_seconds: float

    def expiries(self, now: float) -> dict[State, float]:
        """When answers that are given `now` expire."""
        return {
            State.FOUND: now + self.found_seconds,
            State.ABSENT: now + self.absent_seconds,
            State.FAILED: now + self.failed_seconds,
        }


class LayeredLookup:
    """The `KeyLookup` of an enricher. Layers do not know each other; what one answers is written into those before it.

    - An entry is served until it expires. An expired one that a layer still has (found or absent) is served, marked as
      stale, when the source fails for its key; how long after its expiry is the layer's to say. Its tier is the source,
      which had to be asked. Memory keeps it for `failed_seconds`, so that the next chunk does not ask again.
    - A key for which the source failed and nothing stale is there is FAILED with the source's reason; only memory keeps
      that.
    - A source that leaves a key out has failed for it, with the reason `processing-failed`.
    - An entry of another version than the source's is a miss (an empty version takes any).
    - A source is asked for at most `MOST_KEYS` at once. When it fails for all of those, it is not asked for the rest.
    - What it answers goes into the lasting layers part by part, as it was asked, or as a `GradualSource` answers: a
      killed task leaves it to its next try. Memory, which ends with the task, takes all of it at the end.
    - A layer that does not answer is skipped, and not written to, until the next call. The log names the
      first failure of each tier.
    """

    def __init__(
        self,
        layers: Sequence[CacheLayer],
        source: LookupSource,
        ttl: TimeToLive,
        clock: Callable[[], float],
    ) -> None:
        self._layers = layers
        self._source = source
        self._ttl = ttl
        self._clock = clock
        self._failed: set[Tier] = set()

    def answer_many(self, keys: Sequence[str]) -> Answers:
        """One answer per key, in the order of `keys`, which are distinct. Never raises for a tier that is down."""
        answers: list[Answers] = []
        expired: dict[str, Entry] = {}
        reached: list[CacheLayer] = []
        missing = keys
        for layer in self._layers:
            if not missing:
                break
            found = self._ask(layer, missing)
            if found is None:
                continue
            fresh = self._take_fresh(found, expired)
            answers.append(fresh.from_tier(layer.tier))
            self._tell(reached, fresh)
            reached.append(layer)
            missing = fresh.others(missing)
        if missing:
            fetched = self._fetch(missing, expired, [layer for layer in reached if layer.tier is not Tier.MEMORY])
            answers.append(fetched.from_tier(Tier.SOURCE))
            self._tell([layer for layer in reached if layer.tier is Tier.MEMORY], fetched)
        return Answers.in_order(keys, answers)

    def _ask(self, layer: CacheLayer, keys: Sequence[str]) -> Mapping[str, Entry] | None:
        try:
            return layer.get_many(keys)
        except LayerUnavailable as error:
            self._report(layer.tier, error)
            return None

    def _tell(self, layers: Iterable[CacheLayer], entries: Mapping[str, Entry]) -> list[CacheLayer]:
        """Write entries into these layers; returns those that took them."""
        reached = []
        for layer in layers:
            kept = entries if layer.tier is Tier.MEMORY else lasting(entries)
            try:
                if kept:
                    layer.put_many(kept)
                reached.append(layer)
            except LayerUnavailable as error:
                self._report(layer.tier, error)
        return reached

    def _take_fresh(self, found: Mapping[str, Entry], expired: dict[str, Entry]) -> Entries:
        """Those entries that may be served; the others of the right version are added to `expired`."""
        entries, version = Entries.of(found), self._source.version
        if version:
            entries = entries.filter(pc.equal(entries.column(VERSION), version))
        is_fresh = pc.greater(entries.column(EXPIRES_AT), self._clock())
        expired.update(entries.filter(pc.invert(is_fresh)))
        return entries.filter(is_fresh)

    def _fetch(self, keys: Sequence[str], expired: Mapping[str, Entry], layers: Iterable[CacheLayer]) -> Entries:
        """The source's answers for these keys, written into these layers as they come."""
        reason: str = Reason.PROCESSING_FAILED
        parts: list[Entries] = []
        try:
            for part in self._parts(keys):
                parts.append(self._dated(part))
                layers = self._tell(layers, parts[-1])
        except SourceUnavailable as error:
            self._report(Tier.SOURCE, error)
            reason = error.reason
        fetched = Entries.latest(keys, parts)
        has_failed = fetched.have(STATE, State.FAILED)
        failures, answered = fetched.filter(has_failed), fetched.filter(pc.invert(has_failed))
        if not (missing := answered.others(keys)):
            return answered
        failure = Entry(State.FAILED, reason=reason)
        # The clock is read again: a source that is down may have taken longer than a failure is remembered.
        failed = self._dated({key: failures.get(key, failure) for key in missing})
        served = {key: _or_stale(entry, expired.get(key)) for key, entry in failed.items()}
        return Entries.concat([answered, Entries.of(served)])

    def _parts(self, keys: Sequence[str]) -> Iterator[Mapping[str, Entry]]:
        for first in range(0, len(keys), MOST_KEYS):
            portion = keys[first : first + MOST_KEYS]
            if isinstance(self._source, GradualSource):
                yield from self._source.fetch_parts(portion)
            else:
                yield self._source.fetch_many(portion)

    def _dated(self, entries: Mapping[str, Entry]) -> Entries:
        """The entries with the source's version and the expiry that they have if they are of now."""
        return Entries.of(entries).dated(self._ttl.expiries(self._clock()), self._source.version)

    def _report(self, tier: Tier, error: EnrichmentError) -> None:
        if tier not in self._failed:
            log.warning("lookup.tier_failed tier=%s error=%s", tier, error)
            self._failed.add(tier)


def _or_stale(failed: Entry, old: Entry | None) -> Entry:
    """The answer for a key for which the source has failed: its stale entry, marked, if there is one."""
    if old is None:
        return failed
    return Entry(old.state, old.value, old.reason, failed.expires_at, old.version, stale=True)
