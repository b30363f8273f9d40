"""Messages on their way out: their parts in columns, where they came from, and how large they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.messages import (
    HEADER_BATCH,
    HEADER_OFFSET,
    HEADER_PARTITION,
    HEADER_TOPIC,
    Batch,
)

Header = tuple[str, bytes | None]
# What a record costs beside its key, value and headers: lengths, deltas, and the head of a set of its own.
RECORD_OVERHEAD = 256
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[str, bytes | None]] | None).decode


class Outgoing(NamedTuple):
    """Messages for one topic, a list for each part of a message, in the order in which they are to be produced."""

    partitions: list[int]
    keys: list[bytes | None]
    values: list[bytes]
    timestamps: list[int]  # milliseconds since the epoch; 0, which the client takes for now, where there never was one
    headers: list[list[Header]]


def pack_headers(headers: Iterable[Any]) -> list[bytes]:
    """Each message's headers (a list of name and value, or None) as one value of a column."""
    return list(map(_pack, headers))


def unpack_headers(packed: bytes) -> list[Header]:
    """The reverse of `pack_headers`, for one message."""
    return _unpack(packed) or []


def origin_headers(messages: pa.RecordBatch, batch: Batch) -> list[list[Header]]:
    """Each message's own headers as they came, then those of the batch's purpose, then where it came from."""
    purpose = [(name, text.encode()) for name, text in batch.purpose.headers]
    topic, batch_id = (HEADER_TOPIC, batch.source_topic.encode()), (HEADER_BATCH, batch.batch_id.encode())
    # The same few headers stand on most messages: all but the offset is made once for each distinct set.
    own, partitions = messages["headers"].dictionary_encode(), messages["partition"].dictionary_encode()
    before: list[list[Header]] = [
        [*unpack_headers(packed), *purpose, topic, (HEADER_PARTITION, b"%d" % partition), batch_id]
        for packed in own.dictionary.to_pylist()
        for partition in partitions.dictionary.to_pylist()
    ]
    sets = own.indices.to_numpy() * len(partitions.dictionary) + partitions.indices.to_numpy()
    offsets = messages["offset"].cast(pa.string()).cast(pa.binary()).to_pylist()
    return [before[same] + [(HEADER_OFFSET, offset)] for same, offset in zip(sets.tolist(), offsets, strict=True)]


def message_size(value: bytes, key: bytes | None, headers: Sequence[Header]) -> int:
    """An upper bound of what a message takes in the log, uncompressed."""
    return (
        len(value)
        + len(key or b"")
        + sum(len(name.encode()) + len(content or b"") + 10 for name, content in headers)
        + RECORD_OVERHEAD
    )


def oversized(
    messages: pa.RecordBatch, values: Sequence[bytes], headers: Sequence[Sequence[Header]], limit: int
) -> list[tuple[int, int]]:
    """Rows larger than a topic takes, and their sizes; `values` and `headers` are what is sent of the messages."""
    if not values:
        return []
    # Most chunks are far from any limit: a message with the longest of each part would fit. A packed header takes three
    # bytes at least, and `message_size` adds ten; the offset of another row may have a few digits more.
    own = 5 * _longest(messages["headers"])
    bound = max(map(len, values)) + _longest(messages["key"]) + own + message_size(b"", None, headers[0]) + 64
    if bound <= limit:
        return []
    sizes = map(message_size, values, messages["key"].to_pylist(), headers)
    return [(row, size) for row, size in enumerate(sizes) if size > limit]


def _longest(column: pa.Array) -> int:
    return pc.max(pc.binary_length(column)).as_py() or 0


def without(messages: Outgoing, dead: Mapping[int, Any]) -> Outgoing:
    """All but the dead ones."""
    if not dead:
        return messages
    return _rows(messages, [row for row in range(len(messages.values)) if row not in dead])


def _rows(messages: Outgoing, rows: Sequence[int]) -> Outgoing:
    parts: Sequence[list[Any]] = messages
    return Outgoing(*([part[row] for row in rows] for part in parts))


def merge(first: Outgoing, second: Outgoing) -> Outgoing:
    """Two lists of dead letters as one; each partition in the order of its offsets."""
    if not second.values:
        return first
    parts: Iterable[tuple[list[Any], list[Any]]] = zip(first, second, strict=True)
    together = Outgoing(*([*early, *late] for early, late in parts))
    offsets = [int(dict(headers)[HEADER_OFFSET] or b"0") for headers in together.headers]
    return _rows(together, sorted(range(len(offsets)), key=lambda row: (together.partitions[row], offsets[row])))
