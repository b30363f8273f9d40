"""Events and their additions in, the messages of each topic out: enriched messages and dead letters, as bytes.

The value of an enriched message is the input's bytes without the closing brace, then the additions. Each addition was
written once per distinct key; here bytes are only put side by side. A message that must not be spliced takes the slow
path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from enrichment.batch import Batch
from enrichment.batches.provenance import Counts, StagedEnrichment, Statuses
from enrichment.codec.buffers import Flags
from enrichment.codec.outgoing import in_order, origin_headers
from enrichment.codec.records import MESSAGE_SCHEMA, Chunk
from enrichment.codec.splicing import Splicer
from enrichment.dead_letters.writer import DeadLetters, milliseconds, normalised
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.store.contents import shown

Death = tuple[Any, str]  # reason and detail
NOTHING = Chunk.of([], [], [], [], [], [])
_decode_plain = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Routed(NamedTuple):
    """What a chunk becomes: messages for the two topics, with the offsets of their input messages."""

    analytics: Chunk
    dead_letters: Chunk
    counts: Counts
    fingerprints: Mapping[str, int]  # of the dead letters: reason, and detail without what differs


@dataclass(frozen=True, slots=True)
class Router:
    """Routes the chunks of one batch, each message to the topic that takes it."""

    batch: Batch
    now: str  # processing time, RFC 3339 with milliseconds
    output: TopicLimits
    dead_letters: TopicLimits
    required: frozenset[str] = field(default_factory=frozenset)

    def route(
        self, events: Iterator[pa.RecordBatch], additions: Sequence[StagedEnrichment], refused: pa.RecordBatch
    ) -> Iterator[Routed]:
        """Route a chunk: its events with their additions (in the order of the columns), and its refused messages.

        `events` come in slices, as many as the additions are for, and leave in slices, so that an output is still in
        the processor's cache when it is handed on; the last one has the dead letters, in the order of their offsets,
        and the counts of all.
        """
        statuses = Statuses.of(additions, self.required, self.now)
        tails = statuses.codes, pa.array(statuses.tails, pa.binary())
        splicer = Splicer([*((addition.codes, addition.json) for addition in additions), tails])
        letters = DeadLetters(self.batch, self.now, self.dead_letters)
        refusals = dict(enumerate(zip(refused["reason"].to_pylist(), refused["detail"].to_pylist(), strict=True)))
        dead_letters = [letters.write(refused, origin_headers(refused, self.batch), "decode", refusals)]
        dead: dict[int, Death] = {}
        first = 0
        while first < len(statuses.codes):
            part = next(events)
            values = splicer.splice(part["value"], *self._slow_path_values(part, additions, statuses, first))
            messages, dying = self._enriched(part, values, statuses, first)
            if dying:
                dead_letters.append(letters.write(part, messages.columns["headers"], "enrich", dying))
                dead |= {first + row: death for row, death in dying.items()}
                messages = messages.take(sorted(set(range(part.num_rows)) - dying.keys()))
            yield Routed(messages, NOTHING, Counts(), {})
            first += part.num_rows
        reasons = _tally([*dead.values(), *refusals.values()])
        lost = Counts(dead=len(dead) + len(refusals), by_reason=reasons, dead_by_reason=reasons)
        fingerprints = Counter(shown((reason, normalised(d))) for reason, d in [*dead.values(), *refusals.values()])
        yield Routed(NOTHING, in_order(dead_letters), statuses.counts(dead) + lost, fingerprints)

    @staticmethod
    def _slow_path_values(
        events: pa.RecordBatch, additions: Sequence[StagedEnrichment], statuses: Statuses, first: int
    ) -> tuple[Flags, int, list[bytes]]:
        """Which events are spliced, the row number of the first, and the values of the others."""
        fast = events["fast"].to_numpy(zero_copy_only=False)
        slow = []
        for row in np.flatnonzero(~fast).tolist():
            fragments = [a.json[int(a.codes[first + row])].as_py() for a in additions]
            tail = statuses.tails[statuses.codes[first + row]]
            slow.append(slow_path(events["value"][row].as_py(), fragments, tail))
        return fast, first, slow

    def _enriched(
        self, events: pa.RecordBatch, values: pa.Array, statuses: Statuses, first: int
    ) -> tuple[Chunk, dict[int, Death]]:
        """The enriched messages of a slice that begins at row `first`, and which of them are dead after all."""
        parts = [events[name] for name in ("partition", "offset", "timestamp", "key")]
        headers = origin_headers(events, self.batch)
        messages = Chunk(pa.record_batch([*parts, headers, values], schema=MESSAGE_SCHEMA))
        refused = self.output.refusals(messages, milliseconds(self.now))
        rows = slice(first, first + events.num_rows)
        fatal = {row: (reason, "the source is required") for row, reason in statuses.fatal_rows(rows)}
        return messages, {**refused, **fatal}


def slow_path(value: bytes, fragments: Sequence[bytes], tail: bytes | None) -> bytes:
    """Parse, update, encode. Values keep their bytes; a key of the output that the input holds is replaced, a duplicate
    key in the input keeps its last value."""
    message = _decode_plain(value)
    message.update(_decode_plain(b"{" + b",".join(filter(None, [*fragments, tail]))))
    return _encode(message)


def _tally(deaths: Sequence[Death]) -> dict[str, int]:
    tally: dict[str, int] = {}
    for reason, _ in deaths:
        tally[str(reason)] = tally.get(str(reason), 0) + 1
    return tally
