"""Published partial messages in, their corrections out: the same message, with what its source could not answer then.

Only the missing stages are run again: the keys of messages that name an outage of a source are looked up, in bulk, as
in any batch; all other columns are taken from the message. The risk is computed anew wherever there is a context, with
the rules of now, since it reads place and profile. A permanent answer (`user-not-found`) is a correction too: the
message says then what is so, not what was in the way. A message for which the source fails again has no correction,
and neither has one that its topic would not take.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa

from enrichment.batches.provenance import StagedEnrichment, Statuses
from enrichment.batches.route import slow_path
from enrichment.caches.base import LookupCounts
from enrichment.codec.decode import key_text
from enrichment.codec.headers import marked_own
from enrichment.codec.records import Chunk, Header, pack_headers, unpack_headers
from enrichment.codec.struct_columns import Words, columns_of, fragments
from enrichment.dead_letters.writer import milliseconds
from enrichment.enrichers.base import (
    JSON,
    NO_KEY,
    OK,
    STALE,
    STALE_REASONS,
    STATUS,
    UNANSWERED,
    Enrichment,
    frame_of,
)
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import (
    HEADER_REVISION,
    KEY_COLUMNS,
    KEYS,
    ORIGIN_HEADERS,
    OUTAGES,
    Context,
    Place,
    Profile,
    Reason,
    Refusal,
    Source,
)

log = logging.getLogger(__name__)

KEY_OF = {Source.GEO: KEYS["geo"], Source.USER: KEYS["user"], Source.BUSINESS: KEYS["business"]}
WORDS: dict[Source, Words] = {Source.GEO: Place, Source.USER: Profile, Source.BUSINESS: Context}
# Whose answer a reason is. `processing-failed` may be anybody's.
SOURCE_OF = {
    **OUTAGES,
    Reason.INVALID_IP: Source.GEO,
    Reason.GEO_NOT_FOUND: Source.GEO,
    Reason.USER_NOT_FOUND: Source.USER,
    Reason.BUSINESS_NOT_FOUND: Source.BUSINESS,
}


NULL = msgspec.Raw(b"null")


class PublishedMessage(msgspec.Struct, gc=False):
    """What a published message says of its keys and of who answered."""

    source_ip: msgspec.Raw = NULL
    user_id: msgspec.Raw = NULL
    request_id: msgspec.Raw = NULL
    enrichment_sources: tuple[str, ...] = ()
    enrichment_errors: tuple[str, ...] | None = None
    enrichment_stale: tuple[str, ...] | None = None

    def key(self, source: Source) -> str | None:
        """What the source is asked for."""
        return key_text(getattr(self, KEY_OF[source])) or None

    @property
    def missing(self) -> frozenset[Source]:
        """The sources that were down for it, those included that are only known to have had no answer once."""
        failed = frozenset(OUTAGES[Reason(e)] for e in self.enrichment_errors or () if e in OUTAGES)
        stale = self.enrichment_stale or ()
        return failed.union(s for s in Source if s in stale and s not in self.enrichment_sources)

    def status(self, source: Source) -> str:
        """What the enricher of a source said of it."""
        is_stale = source in (self.enrichment_stale or ())
        if source in self.enrichment_sources:
            return STALE if is_stale else OK
        if self.key(source) is None:
            return NO_KEY
        errors = self.enrichment_errors or ()
        own = [error for error in errors if SOURCE_OF.get(error, source) == source]  # type: ignore[call-overload]
        if not own:
            return NO_KEY
        return stale if is_stale and (stale := f"{STALE} {own[0]}") in STALE_REASONS else own[0]


_decode = msgspec.json.Decoder(PublishedMessage).decode
_decode_columns = {source: msgspec.json.Decoder(words).decode for source, words in WORDS.items()}


# Looks a chunk's keys up; scores contexts by contexts, places and profiles.
LookUp = Callable[[pd.DataFrame], Enrichment]
Score = Callable[[Enrichment, Enrichment, Enrichment], Enrichment]


class Tally(msgspec.Struct, frozen=True):
    """What became of messages that miss a source: by source, those corrected, those for which it failed again, those
    whose correction is too large to be published, and those whose correction is refused otherwise, for `why`.
    `messages` is how many corrections there are."""

    corrected: dict[Source, int] = {}
    failed: dict[Source, int] = {}
    too_large: dict[Source, int] = {}
    messages: int = 0
    refused: dict[Source, int] = {}
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


def _sum(left: Mapping[Source, int], right: Mapping[Source, int]) -> dict[Source, int]:
    return {source: left.get(source, 0) + right.get(source, 0) for source in sorted({*left, *right})}


def missing_of(value: bytes | None) -> frozenset[Source]:
    """The sources that were down for a published message; none for what is no such message."""
    try:
        return _decode(value or b"").missing
    except msgspec.MsgspecError:
        return frozenset()


class Corrector:
    """Corrects chunks of published messages, for those sources that it can look up."""

    def __init__(self, lookups: Mapping[Source, LookUp], score: Score) -> None:
        self._lookups = lookups
        self._score = score

    def correct(self, chunk: Chunk, now: str, limits: TopicLimits) -> tuple[Chunk, Tally]:
        """The corrections of a chunk, each message of which misses one of the sources, and what became of all.

        What their topic does not take is logged, by the place of its message.
        """
        messages = [_decode(value or b"") for value in chunk.values]
        missing = [message.missing & self._lookups.keys() for message in messages]
        added = {source: self._again(source, chunk, messages, missing) for source in WORDS}
        business = self._score(added[Source.BUSINESS], added[Source.GEO], added[Source.USER])
        final = {**added, Source.BUSINESS: business}
        additions = [
            StagedEnrichment(
                source, a.codes, pa.array(a.values[STATUS].tolist(), pa.string()), pa.array(a.values[JSON].array)
            )
            for source, a in final.items()
        ]
        failing = {s: a.values[STATUS].isin(UNANSWERED).to_numpy(dtype=bool)[a.codes] for s, a in final.items()}
        repaired = [
            frozenset(source for source in sources if not failing[source][row]) for row, sources in enumerate(missing)
        ]
        rows = [row for row, sources in enumerate(repaired) if sources]
        written = self._written(chunk, rows, additions, now)
        refusals = _refusals(written, now, limits)
        fitting = [n for n in range(len(rows)) if n not in refusals]
        large = [n for n, refusal in refusals.items() if refusal.reason is Reason.MESSAGE_TOO_LARGE]
        refused = [n for n, refusal in refusals.items() if refusal.reason is not Reason.MESSAGE_TOO_LARGE]
        tally = Tally(
            self._count(repaired[rows[n]] for n in fitting),
            self._count(m - r for m, r in zip(missing, repaired, strict=True)),
            self._count(repaired[rows[n]] for n in large),
            len(fitting),
            self._count(repaired[rows[n]] for n in refused) if refused else {},
            refusals[refused[0]].detail if refused else "",
        )
        return written.take(fitting), tally

    def _count(self, found: Iterable[frozenset[Source]]) -> dict[Source, int]:
        """In how many of these each source is."""
        counted = Counter(source for sources in found for source in sources)
        return {source: counted[source] for source in sorted(self._lookups)}

    def _again(
        self, source: Source, chunk: Chunk, messages: Sequence[PublishedMessage], missing: Sequence[frozenset[Source]]
    ) -> Enrichment:
        """A source's columns of each message: the answer of now where it was missing, the message's own elsewhere."""
        words = WORDS[source]
        own = [_decode_columns[source](value or b"") for value in chunk.values]
        columns = columns_of([None, *own], words)
        statuses = pa.array([NO_KEY, *(message.status(source) for message in messages)], pa.string())
        before = Enrichment(
            np.arange(1, len(own) + 1, dtype=np.int32),
            frame_of({**columns, STATUS: statuses, JSON: fragments(columns)}),
            np.zeros(len(own) + 1, dtype=bool),
            LookupCounts(),
        )
        asked = np.array([source in sources for sources in missing], dtype=bool)
        if not asked.any():
            return before
        keys = [m.key(source) if ask else None for m, ask in zip(messages, asked, strict=True)]
        nothing: list[str | None] = [None] * len(keys)
        columns = {name: pd.Series(keys if name == KEY_OF[source] else nothing, dtype="str") for name in KEY_COLUMNS}
        answered = self._lookups[source](pd.DataFrame({name: c.astype("category") for name, c in columns.items()}))
        return Enrichment(
            np.where(asked, answered.codes + np.int32(len(before.values)), before.codes).astype(np.int32),
            pd.concat([before.values, answered.values], ignore_index=True),
            np.concatenate([before.fetched, answered.fetched]),
            answered.counts,
        )

    @staticmethod
    def _written(chunk: Chunk, rows: Sequence[int], additions: Sequence[StagedEnrichment], now: str) -> Chunk:
        """Those rows of the chunk as they are published again."""
        words = Statuses.of(additions, frozenset(), now)
        values: list[bytes | None] = []
        for row in rows:
            pieces = [a.json[int(a.codes[row])].as_py() for a in additions]
            values.append(slow_path(chunk.values[row] or b"", pieces, words.tails[words.codes[row]]))
        chosen = chunk.take(rows)
        headers = [pack_headers(revised(unpack_headers(packed))) for packed in chosen.headers]
        return Chunk.of(chosen.partitions, chosen.offsets, chosen.timestamps, chosen.keys, headers, values)


def _refusals(corrections: Chunk, now: str, limits: TopicLimits) -> dict[int, Refusal]:
    """Which corrections their topic does not take, logged by the place of the version that each would correct."""
    refusals = limits.refusals(corrections, milliseconds(now))
    for row, refusal in refusals.items():
        where = corrections.partitions[row], corrections.offsets[row]
        log.error("repair.refused partition=%d offset=%d reason=%s %s", *where, *refusal)
    return refusals


def revised(headers: Sequence[Header]) -> list[Header]:
    """The headers of the next version: its number stands directly before the origin, which stays behind all others.

    Only there is it the pipeline's: an input may have a header of the same name, and the first version of such a
    message states its number, too.
    """
    before, origin = list(headers[: -len(ORIGIN_HEADERS)]), headers[-len(ORIGIN_HEADERS) :]
    name, stated = before[-1] if before else ("", None)
    number = int(stated) if name == HEADER_REVISION and stated and stated.isdigit() and len(stated) < 10 else 1
    kept = before[:-1] if number > 1 or marked_own(headers) is not None else before
    return [*kept, (HEADER_REVISION, b"%d" % (number + 1)), *origin]
