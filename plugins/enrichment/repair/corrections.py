"""Published partial messages in, their corrections out: the same message, with the answer that its source had failed to
give.

A correction is the ordinary enrich step. For messages that name an outage of a source its answers come from the source,
asked in bulk as in any batch; for all others, and of all other enrichments, they are what the message says. Computed
columns (the risk) are computed again, by the present rules, since they read what was added before. A permanent answer
(`user-not-found`) is a correction too: the message then carries the real answer instead of the outage. A message for
which the source fails again has no correction, and neither has one that its topic would not take.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Self

import msgspec
import pandas as pd
import pyarrow as pa

from enrichment.batches.provenance import StagedEnrichment, Statuses
from enrichment.batches.route import slow_path
from enrichment.caches.base import Answer, Entry, State, Tier
from enrichment.caches.entries import Answers
from enrichment.codec.decode import key_text
from enrichment.codec.headers import marked_own, origin_header, split_origin
from enrichment.codec.records import Chunk, Header, pack_headers, unpack_headers
from enrichment.dead_letters.writer import milliseconds
from enrichment.enrichers.base import Enrichment, OpenEnricher, events_of
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY, STALE
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import HEADER_REVISION, Provenance, Reason, Refusal

log = logging.getLogger(__name__)


class Said(msgspec.Struct, gc=False):
    """What a published message says about its sources."""

    enrichment_sources: tuple[str, ...] = ()
    enrichment_errors: tuple[str, ...] | None = None
    enrichment_stale: tuple[str, ...] | None = None

    @property
    def missing(self) -> frozenset[str]:
        """The sources that were down for it, including those of which only a stale "not found" was known."""
        failed = frozenset(REGISTRY.outages[e] for e in self.enrichment_errors or () if e in REGISTRY.outages)
        stale = self.enrichment_stale or ()
        return failed.union(s for s in REGISTRY.by_source if s in stale and s not in self.enrichment_sources)

    def tail(self, corrected: Provenance) -> bytes:
        """The tail of its correction, which also keeps what enrichments said that are no longer declared."""
        known = REGISTRY.by_source
        reasons = {*map(str, Reason), *REGISTRY.reasons}
        errors = tuple(error for error in self.enrichment_errors or () if error not in reasons)
        stale = tuple(source for source in self.enrichment_stale or () if source not in known)
        whole = Provenance(
            corrected.enrichment_sources + tuple(s for s in self.enrichment_sources if s not in known),
            (*(corrected.enrichment_errors or ()), *errors) or None,
            (*(corrected.enrichment_stale or ()), *stale) or None,
            corrected.enriched_at,
        )
        return _encode(whole)[1:]


_encode = msgspec.json.Encoder().encode
_decode_said = msgspec.json.Decoder(Said).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class PublishedMessage:
    """The parts of a published message that a correction needs. Raises `msgspec.MsgspecError` for anything else."""

    def __init__(self, value: bytes | None) -> None:
        self._value = value or b""
        self.said = _decode_said(self._value)

    @cached_property
    def _fields(self) -> dict[str, msgspec.Raw]:
        return _decode_fields(self._value)

    def key(self, declaration: LookupEnricher) -> str | None:
        """What the source is asked for."""
        raw = self._fields.get(declaration.key)
        return None if raw is None else key_text(raw) or None

    def answer(self, declaration: LookupEnricher) -> Entry | None:
        """The source's answer by the message, None where the source was not asked."""
        source, said = declaration.source, self.said
        is_stale = source in (said.enrichment_stale or ())
        if source in said.enrichment_sources:
            value = msgspec.json.decode(self._value, type=declaration.columns)
            return Entry(State.FOUND, value=value, stale=is_stale)
        if self.key(declaration) is None:
            return None
        # `processing-failed` and the like may be any source's.
        own = [error for error in said.enrichment_errors or () if _may_be_of(error, source)]
        if not own:
            return None
        return Entry(State.FAILED, reason=own[0], stale=is_stale and f"{STALE} {own[0]}" in REGISTRY.stale_reasons)


def _may_be_of(error: str, source: str) -> bool:
    return REGISTRY.source_of.get(error) == source or error in set(Reason)


class Tally(msgspec.Struct, frozen=True):
    """What became of messages that are missing a source: by source, those corrected, those for which it failed again,
    those whose correction is too large, and those whose correction is refused for another reason, `why`. `messages` is
    the number of corrections."""

    corrected: dict[str, int] = {}
    failed: dict[str, int] = {}
    too_large: dict[str, int] = {}
    messages: int = 0
    refused: dict[str, int] = {}
    why: str = ""

    @property
    def is_answered(self) -> bool:
        """Whether a source had an answer for any message."""
        return bool(self.messages or any(self.too_large.values()) or any(self.refused.values()))

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            _sum(self.corrected, other.corrected),
            _sum(self.failed, other.failed),
            _sum(self.too_large, other.too_large),
            self.messages + other.messages,
            _sum(self.refused, other.refused),
            self.why or other.why,
        )


def _sum(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {source: left.get(source, 0) + right.get(source, 0) for source in sorted({*left, *right})}


def missing_of(value: bytes | None) -> frozenset[str]:
    """The sources that were down for a published message; none for anything that is not one."""
    try:
        return _decode_said(value or b"").missing
    except msgspec.MsgspecError:
        return frozenset()


class _NotAsked:
    """The lookup of an enrichment whose answers are all in the messages."""

    def answer_many(self, keys: Sequence[str]) -> Sequence[Answer]:
        raise AssertionError(f"{len(keys)} keys were to be looked up, but none is missing")


class Corrector:
    """Corrects chunks of published messages, for those `sources` that it asks again. `enrichers` has all that are
    declared, by their names."""

    def __init__(self, enrichers: Mapping[str, OpenEnricher], sources: frozenset[str]) -> None:
        self._enrichers = enrichers
        self._sources = sources

    @classmethod
    def open(cls, open_enricher: Callable[[LookupEnricher], OpenEnricher], sources: frozenset[str]) -> Self:
        """Open the enrichments that are asked again, and those that compute columns."""
        return cls(
            {
                e.name: open_enricher(e) if e.source in sources or e.computed else OpenEnricher(e, _NotAsked())
                for e in REGISTRY.enrichers
            },
            sources,
        )

    def correct(self, chunk: Chunk, now: str, limits: TopicLimits) -> tuple[Chunk, Tally]:
        """The corrections of a chunk, each message of which is missing one of the sources, and the tally of all.

        Corrections that their topic would refuse are logged, with the position of their message.
        """
        messages = [PublishedMessage(value) for value in chunk.values]
        missing = [message.said.missing & self._sources for message in messages]
        added: dict[str, Enrichment] = {}
        for declaration in REGISTRY.enrichers:
            enricher = self._enrichers[declaration.name]
            earlier = {e.name: added[e.name] for e in REGISTRY.earlier(declaration)}
            added[declaration.name] = enricher.enrich(*_answers(enricher, messages, missing), earlier)
        failing = {REGISTRY.by_name[name].source: a.have(REGISTRY.unanswered)[a.codes] for name, a in added.items()}
        repaired = [
            frozenset(source for source in sources if not failing[source][row]) for row, sources in enumerate(missing)
        ]
        rows = [row for row, sources in enumerate(repaired) if sources]
        written = _written(chunk, rows, messages, added, now)
        refusals = _refusals(written, now, limits)
        fitting = [n for n in range(len(rows)) if n not in refusals]
        large = [n for n, refusal in refusals.items() if refusal.reason == Reason.MESSAGE_TOO_LARGE]
        refused = [n for n, refusal in refusals.items() if refusal.reason != Reason.MESSAGE_TOO_LARGE]
        tally = Tally(
            self._count(repaired[rows[n]] for n in fitting),
            self._count(m - r for m, r in zip(missing, repaired, strict=True)),
            self._count(repaired[rows[n]] for n in large),
            len(fitting),
            self._count(repaired[rows[n]] for n in refused) if refused else {},
            refusals[refused[0]].detail if refused else "",
        )
        return written.take(fitting), tally

    def _count(self, found: Iterable[frozenset[str]]) -> dict[str, int]:
        """In how many of these each source is."""
        counted = Counter(source for sources in found for source in sources)
        return {source: counted[source] for source in sorted(self._sources)}


def _answers(
    enricher: OpenEnricher, messages: Sequence[PublishedMessage], missing: Sequence[frozenset[str]]
) -> tuple[pd.DataFrame, Answers]:
    """The answers for a chunk's messages: the source's where it was missing, the message's own elsewhere. To the
    enricher each message has a key of its own, since two with the same key may say different things."""
    declaration = enricher.declaration
    is_asked = [declaration.source in sources for sources in missing]
    keys = [m.key(declaration) if asked else None for m, asked in zip(messages, is_asked, strict=True)]
    asked = list(dict.fromkeys(key for key in keys if key is not None))
    fresh = dict(zip(asked, enricher.look_up(_frame(declaration, asked)), strict=True)) if asked else {}
    answers: dict[str, Answer] = {}
    for row, (message, key) in enumerate(zip(messages, keys, strict=True)):
        if key is not None:
            answers[str(row)] = fresh[key]
        elif not is_asked[row] and (entry := message.answer(declaration)) is not None:
            answers[str(row)] = Answer(entry, Tier.MEMORY)
    rows = [str(row) if str(row) in answers else None for row in range(len(messages))]
    return _frame(declaration, rows), Answers.of(list(answers), list(answers.values()))


def _frame(declaration: LookupEnricher, keys: Sequence[str | None]) -> pd.DataFrame:
    """Keys as enrichers take them."""
    return events_of({declaration.key: pa.array(keys, pa.string())})


def _written(
    chunk: Chunk, rows: Sequence[int], messages: Sequence[PublishedMessage], added: Mapping[str, Enrichment], now: str
) -> Chunk:
    """Those rows of the chunk as they are published again."""
    staged = [StagedEnrichment.of(REGISTRY.by_name[name].source, a) for name, a in added.items()]
    statuses = Statuses.of(staged, frozenset(), now)
    values: list[bytes | None] = []
    for row in rows:
        pieces = [a.json[int(a.codes[row])].as_py() for a in staged]
        tail = messages[row].said.tail(statuses.provenance[int(statuses.codes[row])])
        values.append(slow_path(chunk.values[row] or b"", pieces, tail))
    chosen = chunk.take(rows)
    headers = [pack_headers(revised(unpack_headers(packed))) for packed in chosen.headers]
    return Chunk.of(chosen.partitions, chosen.offsets, chosen.timestamps, chosen.keys, headers, values)


def _refusals(corrections: Chunk, now: str, limits: TopicLimits) -> dict[int, Refusal]:
    """Which corrections their topic would refuse, logged with the position of the version that each would correct."""
    refusals = limits.refusals(corrections, milliseconds(now))
    for row, refusal in refusals.items():
        where = corrections.partitions[row], corrections.offsets[row]
        log.error("repair.refused partition=%d offset=%d reason=%s %s", *where, *refusal)
    return refusals


def revised(headers: Sequence[Header]) -> list[Header]:
    """The headers of the next version: its number stands directly before the origin, which stays last.

    Only there is it the pipeline's: an input may have a header of the same name, and the first version of such a
    message states its number, too. Raises `ValueError` for headers that are not an output's.
    """
    before, origin = split_origin(headers)
    if origin is None:
        raise ValueError(f"headers without an origin: {headers}")
    name, stated = before[-1] if before else ("", None)
    number = int(stated) if name == HEADER_REVISION and stated and stated.isdigit() and len(stated) < 10 else 1
    kept = before[:-1] if number > 1 or marked_own(headers) is not None else before
    return [*kept, (HEADER_REVISION, b"%d" % (number + 1)), origin_header(origin)]
