"""Events and what was added to them in, what each topic gets out: enriched messages and dead letters, as bytes.

The value of an enriched message is the input's bytes without the closing brace, then the additions. Each addition was
written once per distinct key; here bytes are only put side by side. A message that must not be spliced takes the plain
road.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.enrichers.base import NO_KEY, OK, STALE
from enrichment.messages import (
    HEADER_ATTEMPTS,
    HEADER_BATCH,
    HEADER_OFFSET,
    HEADER_PARTITION,
    HEADER_TOPIC,
    ORIGIN_HEADERS,
    Batch,
    DeadLetter,
    Provenance,
    Reason,
    Source,
)

Header = tuple[str, bytes | None]
# What a record costs beside its key, value and headers: lengths, deltas, and the head of a set of its own.
RECORD_OVERHEAD = 256
_decode_plain = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Outgoing(NamedTuple):
    """Messages for one topic, a list for each part of a message, in the order in which they are to be produced."""

    partitions: list[int]
    keys: list[bytes | None]
    values: list[bytes]
    timestamps: list[int]  # milliseconds since the epoch; 0, which the client takes for now, where there never was one
    headers: list[list[Header]]


class Counts(msgspec.Struct, frozen=True):
    """What became of messages. `by_source` are the published messages that list the source, `by_reason` the errors of
    published messages and the reasons of dead letters."""

    enriched: int = 0
    partial: int = 0
    dead: int = 0
    by_source: dict[str, int] = {}
    by_reason: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Every message is one of the three."""
        return self.enriched + self.partial + self.dead

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.enriched + other.enriched,
            self.partial + other.partial,
            self.dead + other.dead,
            _sum(self.by_source, other.by_source),
            _sum(self.by_reason, other.by_reason),
        )


def _sum(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in sorted({*left, *right})}


class Routed(NamedTuple):
    """What a chunk becomes."""

    analytics: Outgoing
    dead_letters: Outgoing
    counts: Counts


class Addition(NamedTuple):
    """One enricher's staged work on a chunk: row numbers into `status` and `json`, and the name that it goes by."""

    source: Source
    codes: np.ndarray[Any, np.dtype[np.int32]]
    status: list[str]
    json: pa.Array


@dataclass(frozen=True, slots=True)
class Router:
    """Routes the chunks of one batch. `max_bytes` are the largest messages that the two topics take."""

    batch: Batch
    now: str  # processing time, RFC 3339 with milliseconds
    max_output_bytes: int
    max_dlq_bytes: int
    required: frozenset[Source] = field(default_factory=frozenset)

    def route(self, events: pa.RecordBatch, additions: Sequence[Addition], refused: pa.RecordBatch) -> Routed:
        """Route a chunk: its events with their additions (in the order of the columns), and its refused messages."""
        words = Statuses.of(additions, self.required, self.now)
        values = self._values(events, additions, words)
        headers = origin_headers(events, self.batch)
        keys = events["key"].to_pylist()
        fatal = {row: (words.fatal[code], "the source is required") for row, code in words.fatal_rows()}
        large = {row: (Reason.MESSAGE_TOO_LARGE, f"{size} bytes enriched; {self.max_output_bytes} at most")
                 for row, size in oversized(values, keys, headers, self.max_output_bytes)}  # fmt: skip
        dead = large | fatal
        messages = Outgoing(events["partition"].to_pylist(), keys, values, events["timestamp"].to_pylist(), headers)
        letters = self._letters(events, headers, "enrich", dead)
        refusals = dict(enumerate(zip(refused["reason"].to_pylist(), refused["detail"].to_pylist(), strict=True)))
        early = self._letters(refused, origin_headers(refused, self.batch), "decode", refusals)
        counts = words.counts(dead) + Counts(
            dead=len(dead) + len(refusals), by_reason=_tally([*dead.values(), *refusals.values()])
        )
        return Routed(_without(messages, dead), _merge(early, letters), counts)

    def _values(self, events: pa.RecordBatch, additions: Sequence[Addition], words: Statuses) -> list[bytes]:
        spliced = pc.binary_join_element_wise(
            pc.binary_slice(events["value"], 0, -1),
            *(a.json.take(pa.array(a.codes)) for a in additions),
            pa.array(words.tails, pa.binary()).take(pa.array(words.codes)),
            pa.scalar(b","),
        )
        values: list[bytes] = spliced.to_pylist()
        for row in np.flatnonzero(~events["fast"].to_numpy(zero_copy_only=False)).tolist():
            fragments = [a.json[int(a.codes[row])].as_py() for a in additions]
            values[row] = plain_road(events["value"][row].as_py(), fragments, words.tails[words.codes[row]])
        return values

    def _letters(
        self, messages: pa.RecordBatch, headers: Sequence[list[Header]], stage: str, dead: Mapping[int, tuple[str, str]]
    ) -> Outgoing:
        rows = sorted(dead)
        chosen = messages.take(pa.array(rows, pa.int64())).to_pylist() if rows else []
        values = [
            self._letter(message, headers[row], stage, *dead[row]) for row, message in zip(rows, chosen, strict=True)
        ]
        return Outgoing(
            [m["partition"] for m in chosen],
            [m["key"] for m in chosen],
            values,
            [m["timestamp"] for m in chosen],
            [headers[row] for row in rows],
        )

    def _letter(self, message: dict[str, Any], headers: list[Header], stage: str, reason: str, detail: str) -> bytes:
        value: bytes | None = message["value"]
        key, key_encoding = as_text(message["key"])
        original, encoding = self._original(value, reason)
        letter = DeadLetter(
            original_message=original,
            original_encoding=encoding,
            original_size_bytes=len(value or b""),
            original_truncated=False,
            error_reason=reason,
            error_detail=detail,
            stage=stage,
            source_topic=self.batch.topic,
            source_partition=message["partition"],
            source_offset=message["offset"],
            source_timestamp=message["timestamp"] or None,
            source_key=key,
            source_key_encoding=key_encoding,
            batch_id=self.batch.batch_id,
            attempts=attempts_of(headers),
            sent_to_dlq_at=self.now,
        )
        encoded = _encode(letter)
        room = self.max_dlq_bytes - message_size(encoded, message["key"], headers)
        if room >= 0 or value is None:
            return encoded
        # Too large for the dead letters as well: as much of it as fits, and where the whole stands.
        rest = (
            len(encoded)
            + room
            - len(_encode(msgspec.structs.replace(letter, original_message="", original_truncated=True)))
        )
        head = base64.b64encode(value[: max(0, rest) // 4 * 3]).decode()
        return _encode(
            msgspec.structs.replace(letter, original_message=head, original_encoding="base64", original_truncated=True)
        )

    @staticmethod
    def _original(value: bytes | None, reason: str) -> tuple[Any, str]:
        if value is None:
            return None, "null"
        return as_text(value) if reason in AS_TEXT else (msgspec.Raw(value), "json")


# With these reasons the value need not be a JSON object: its dead letter carries it as text.
AS_TEXT = frozenset(
    {
        Reason.INVALID_JSON,
        Reason.INVALID_ENCODING,
        Reason.NOT_AN_OBJECT,
        Reason.EMPTY_MESSAGE,
        Reason.NESTED_TOO_DEEP,
        Reason.PROCESSING_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Statuses:
    """Which combinations of the enrichers' statuses occur in a chunk: a code per row, the tail of the JSON per code."""

    codes: np.ndarray[Any, np.dtype[np.int64]]
    rows: np.ndarray[Any, np.dtype[np.int64]]
    tails: list[bytes | None]
    provenance: dict[int, Provenance]
    fatal: dict[int, Reason]

    @classmethod
    def of(cls, additions: Sequence[Addition], required: frozenset[Source], now: str) -> Statuses:
        """Find the combinations and write each one's tail once."""
        count = len(additions[0].codes)
        codes = np.zeros(count, dtype=np.int64)
        vocabularies: list[list[str]] = []
        for addition in additions:
            vocabulary = sorted(set(addition.status))
            number = {word: n for n, word in enumerate(vocabulary)}
            by_row = np.array([number[word] for word in addition.status], dtype=np.int64)[addition.codes]
            codes = codes * len(vocabulary) + by_row
            vocabularies.append(vocabulary)
        rows = np.bincount(codes, minlength=int(np.prod([len(v) for v in vocabularies])))
        tails: list[bytes | None] = [None] * len(rows)
        provenance, fatal = {}, {}
        for code in np.flatnonzero(rows).tolist():
            words = _words(code, vocabularies)
            provenance[code] = provenance_of(additions, words, now)
            tails[code] = _encode(provenance[code])[1:]
            failed = [w for a, w in zip(additions, words, strict=True) if a.source in required and _failed(w)]
            if failed:
                fatal[code] = Reason(failed[0])
        return cls(codes, rows, tails, provenance, fatal)

    def fatal_rows(self) -> list[tuple[int, int]]:
        """Rows that miss a required source, each with its code."""
        if not self.fatal:
            return []
        rows = np.flatnonzero(np.isin(self.codes, list(self.fatal)))
        return [(row, int(self.codes[row])) for row in rows.tolist()]

    def counts(self, dead: Mapping[int, Any]) -> Counts:
        """Count the rows that are published: all but the dead ones."""
        gone = self.codes[sorted(dead)] if dead else np.empty(0, dtype=np.int64)
        published = self.rows - np.bincount(gone, minlength=len(self.rows))
        counts = Counts()
        for code, provenance in self.provenance.items():
            n = int(published[code])
            errors = provenance.enrichment_errors or ()
            counts = counts + Counts(
                enriched=0 if errors else n,
                partial=n if errors else 0,
                by_source=dict.fromkeys(provenance.enrichment_sources, n),
                by_reason=dict.fromkeys(errors, n),
            )
        return counts


def _words(code: int, vocabularies: Sequence[Sequence[str]]) -> list[str]:
    words = []
    for vocabulary in reversed(vocabularies):
        code, word = divmod(code, len(vocabulary))
        words.append(vocabulary[word])
    return words[::-1]


def _failed(word: str) -> bool:
    return word not in (NO_KEY, OK, STALE)


def provenance_of(additions: Sequence[Addition], words: Sequence[str], now: str) -> Provenance:
    """Sources that answered, errors of those that did not, and who was served past its expiry."""
    by_source = list(zip([a.source for a in additions], words, strict=True))
    errors = tuple(dict.fromkeys(word for _, word in by_source if _failed(word)))
    stale = tuple(source for source, word in by_source if word == STALE)
    return Provenance(
        tuple(source for source, word in by_source if word in (OK, STALE)), errors or None, stale or None, now
    )


def plain_road(value: bytes, fragments: Sequence[bytes], tail: bytes | None) -> bytes:
    """Parse, update, encode. Values stay the bytes they were; a key of the output that the input holds is replaced, one
    that stands twice in the input keeps its last value."""
    message = _decode_plain(value)
    message.update(_decode_plain(b"{" + b",".join([*fragments, tail or b""])))
    return _encode(message)


def origin_headers(messages: pa.RecordBatch, batch: Batch) -> list[list[Header]]:
    """Each message's own headers as they came, then where it came from."""
    topic, batch_id = (HEADER_TOPIC, batch.topic.encode()), (HEADER_BATCH, batch.batch_id.encode())
    partition = {r.partition: (HEADER_PARTITION, b"%d" % r.partition) for r in batch.ranges}
    origins: list[list[Header]] = [
        [topic, partition[p], (HEADER_OFFSET, b"%d" % offset), batch_id]
        for p, offset in zip(messages["partition"].to_pylist(), messages["offset"].to_pylist(), strict=True)
    ]
    own = messages["headers"]
    if own.null_count == len(own):
        return origins
    return [
        [*((h["name"], h["value"]) for h in headers or ()), *origin]
        for headers, origin in zip(own.to_pylist(), origins, strict=True)
    ]


def attempts_of(headers: Sequence[Header]) -> int:
    """How often the message has been tried, this time included; a redrive says so in a header."""
    tried = next((value for name, value in headers if name == HEADER_ATTEMPTS), None)
    return int(tried) + 1 if tried is not None and tried.isdigit() else 1


def as_text(data: bytes | None) -> tuple[str | None, str]:
    """Bytes as a JSON string: the text where they are UTF-8, else base64, and which of the two."""
    if data is None:
        return None, "null"
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"


def message_size(value: bytes, key: bytes | None, headers: Sequence[Header]) -> int:
    """An upper bound of what a message takes in the log, uncompressed."""
    return (
        len(value)
        + len(key or b"")
        + sum(len(name.encode()) + len(content or b"") + 10 for name, content in headers)
        + RECORD_OVERHEAD
    )


def oversized(
    values: Sequence[bytes], keys: Sequence[bytes | None], headers: Sequence[Sequence[Header]], limit: int
) -> list[tuple[int, int]]:
    """Rows larger than a topic takes, and their sizes."""
    largest = len(max(values, key=len, default=b"")) + max(map(len, filter(None, keys)), default=0)
    # Most chunks are far from the limit: then one look at the largest parts spares the sums.
    if largest + RECORD_OVERHEAD < limit // 2 and max(map(len, headers), default=0) <= len(ORIGIN_HEADERS):
        return []
    sizes = [message_size(*message) for message in zip(values, keys, headers, strict=True)]
    return [(row, size) for row, size in enumerate(sizes) if size > limit]


def _tally(reasons: Sequence[tuple[str, str]]) -> dict[str, int]:
    tally: dict[str, int] = {}
    for reason, _ in reasons:
        tally[str(reason)] = tally.get(str(reason), 0) + 1
    return tally


def _without(messages: Outgoing, dead: Mapping[int, Any]) -> Outgoing:
    if not dead:
        return messages
    return _rows(messages, [row for row in range(len(messages.values)) if row not in dead])


def _rows(messages: Outgoing, rows: Sequence[int]) -> Outgoing:
    parts: Sequence[list[Any]] = messages
    return Outgoing(*([part[row] for row in rows] for part in parts))


def _merge(first: Outgoing, second: Outgoing) -> Outgoing:
    """Two lists of dead letters as one; each partition in the order of its offsets."""
    if not second.values:
        return first
    parts: Iterable[tuple[list[Any], list[Any]]] = zip(first, second, strict=True)
    together = Outgoing(*([*early, *late] for early, late in parts))
    offsets = [int(dict(headers)[HEADER_OFFSET] or b"0") for headers in together.headers]
    return _rows(together, sorted(range(len(offsets)), key=lambda row: (together.partitions[row], offsets[row])))
