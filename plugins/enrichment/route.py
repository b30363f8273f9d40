"""Events and what was added to them in, what each topic gets out: enriched messages and dead letters, as bytes.

The value of an enriched message is the input's bytes without the closing brace, then the additions. Each addition was
written once per distinct key; here bytes are only put side by side. A message that must not be spliced takes the plain
road.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.dead_letters import DeadLetters
from enrichment.messages import Batch, Reason, Source
from enrichment.outgoing import Outgoing, merge, origin_headers, oversized, without
from enrichment.provenance import Addition, Counts, Statuses

Death = tuple[Any, str]  # reason and detail
NOTHING = Outgoing([], [], [], [], [])
SLICE = 2000  # messages put together at once: their outputs fit into a processor's cache
_decode_plain = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Routed(NamedTuple):
    """What a chunk becomes."""

    analytics: Outgoing
    dead_letters: Outgoing
    counts: Counts


@dataclass(frozen=True, slots=True)
class Router:
    """Routes the chunks of one batch. `max_bytes` are the largest messages that the two topics take."""

    batch: Batch
    now: str  # processing time, RFC 3339 with milliseconds
    max_output_bytes: int
    max_dlq_bytes: int
    required: frozenset[Source] = field(default_factory=frozenset)

    def route(self, events: pa.RecordBatch, additions: Sequence[Addition], refused: pa.RecordBatch) -> Iterator[Routed]:
        """Route a chunk: its events with their additions (in the order of the columns), and its refused messages.

        In slices, so that an output is still in the processor's cache when it is handed on; the last one has the dead
        letters, in the order of their offsets, and the counts of all.
        """
        words = Statuses.of(additions, self.required, self.now)
        letters = DeadLetters(self.batch, self.now, self.max_dlq_bytes)
        refusals = dict(enumerate(zip(refused["reason"].to_pylist(), refused["detail"].to_pylist(), strict=True)))
        dead_letters = letters.write(refused, origin_headers(refused, self.batch), "decode", refusals)
        dead: dict[int, Death] = {}
        for start in range(0, events.num_rows, SLICE):
            part = events.slice(start, SLICE)
            messages, dying = self._enrich(part, additions, words, start)
            dead_letters = merge(dead_letters, letters.write(part, messages.headers, "enrich", dying))
            dead |= {start + row: death for row, death in dying.items()}
            yield Routed(without(messages, dying), NOTHING, Counts())
        reasons = _tally([*dead.values(), *refusals.values()])
        lost = Counts(dead=len(dead) + len(refusals), by_reason=reasons, dead_by_reason=reasons)
        yield Routed(NOTHING, dead_letters, words.counts(dead) + lost)

    def _enrich(
        self, events: pa.RecordBatch, additions: Sequence[Addition], words: Statuses, start: int
    ) -> tuple[Outgoing, dict[int, Death]]:
        """The enriched messages of a slice that begins at row `start`, and which of them are dead after all."""
        rows = slice(start, start + events.num_rows)
        values = self._values(events, [a._replace(codes=a.codes[rows]) for a in additions], words, words.codes[rows])
        headers = origin_headers(events, self.batch)
        large = {
            row: (Reason.MESSAGE_TOO_LARGE, f"{size} bytes enriched; {self.max_output_bytes} at most")
            for row, size in oversized(events, values, headers, self.max_output_bytes)
        }
        fatal = {row: (reason, "the source is required") for row, reason in words.fatal_rows(rows)}
        partitions, timestamps = events["partition"].to_pylist(), events["timestamp"].to_pylist()
        return Outgoing(partitions, events["key"].to_pylist(), values, timestamps, headers), large | fatal

    @staticmethod
    def _values(
        events: pa.RecordBatch, additions: Sequence[Addition], words: Statuses, codes: np.ndarray[Any, Any]
    ) -> list[bytes]:
        spliced = pc.binary_join_element_wise(
            pc.binary_slice(events["value"], 0, -1),
            *(a.json.take(pa.array(a.codes)) for a in additions),
            pa.array(words.tails, pa.binary()).take(pa.array(codes)),
            pa.scalar(b","),
        )
        values: list[bytes] = spliced.to_pylist()
        for row in np.flatnonzero(~events["fast"].to_numpy(zero_copy_only=False)).tolist():
            fragments = [a.json[int(a.codes[row])].as_py() for a in additions]
            values[row] = plain_road(events["value"][row].as_py(), fragments, words.tails[codes[row]])
        return values


def plain_road(value: bytes, fragments: Sequence[bytes], tail: bytes | None) -> bytes:
    """Parse, update, encode. Values stay the bytes they were; a key of the output that the input holds is replaced, one
    that stands twice in the input keeps its last value."""
    message = _decode_plain(value)
    message.update(_decode_plain(b"{" + b",".join([*fragments, tail or b""])))
    return _encode(message)


def _tally(deaths: Sequence[Death]) -> dict[str, int]:
    tally: dict[str, int] = {}
    for reason, _ in deaths:
        tally[str(reason)] = tally.get(str(reason), 0) + 1
    return tally
