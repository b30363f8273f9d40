"""Messages on their way out: their parts in columns, where they came from, and how large they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from enrichment.messages import (
    HEADER_BATCH,
    HEADER_OFFSET,
    HEADER_PARTITION,
    HEADER_TOPIC,
    ORIGIN_HEADERS,
    Batch,
)

Header = tuple[str, bytes | None]
# What a record costs beside its key, value and headers: lengths, deltas, and the head of a set of its own.
RECORD_OVERHEAD = 256
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[str, bytes | None]]).decode


class Outgoing(NamedTuple):
    """Messages for one topic, a list for each part of a message, in the order in which they are to be produced."""

    partitions: list[int]
    keys: list[bytes | None]
    values: list[bytes]
    timestamps: list[int]  # milliseconds since the epoch; 0, which the client takes for now, where there never was one
    headers: list[list[Header]]


def pack_headers(headers: Sequence[Header] | None) -> bytes | None:
    """A message's headers as one value of a column; null where there are none."""
    return _pack(headers) if headers else None


def origin_headers(messages: pa.RecordBatch, batch: Batch) -> list[list[Header]]:
    """Each message's own headers as they came, then where it came from."""
    topic, batch_id = (HEADER_TOPIC, batch.topic.encode()), (HEADER_BATCH, batch.batch_id.encode())
    partition = {r.partition: (HEADER_PARTITION, b"%d" % r.partition) for r in batch.ranges}
    origins: list[list[Header]] = [
        [topic, partition[p], (HEADER_OFFSET, b"%d" % offset), batch_id]
        for p, offset in zip(messages["partition"].to_pylist(), messages["offset"].to_pylist(), strict=True)
    ]
    packed = messages["headers"].to_pylist()
    # The same few headers stand on most messages: each distinct set is unpacked once.
    own: dict[bytes | None, list[Header]] = {value: _unpack(value) if value else [] for value in set(packed)}
    if own.keys() <= {None}:
        return origins
    return [own[value] + origin for value, origin in zip(packed, origins, strict=True)]


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
