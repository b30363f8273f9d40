"""Kafka messages as Arrow columns: their schema, their headers as one value each, and how large they are in the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import Any, Self

import numpy as np
import pyarrow as pa

from enrichment.codec.buffers import parts_of

Header = tuple[str, bytes | None]

# A timestamp is in milliseconds since the epoch, -1 if missing, as in Kafka; headers are packed, empty for a message
# without any, and null where the client could not read them.
MESSAGE_FIELDS = [
    ("partition", pa.int32()), ("offset", pa.int64()), ("timestamp", pa.int64()),
    ("key", pa.binary()), ("headers", pa.binary()), ("value", pa.binary()),
]  # fmt: skip
NO_TIMESTAMP = -1
MESSAGE_SCHEMA = pa.schema(MESSAGE_FIELDS)
# What a record costs beside its key, value and headers: lengths, deltas, and the head of a set of its own.
RECORD_OVERHEAD = 256
# Headers are packed one after the other: the lengths of name and value (-1: null), then both. Compiled loops read and
# write this format, too (`enrichment.kafka.librdkafka`).
LENGTHS = Struct("<ii")
NO_HEADERS = b""
# Up to this many rows are dropped or replaced by concatenating the slices between them: Arrow's filter and take copy
# value by value.
FEW = 16


def pack_headers(headers: Iterable[Header] | None) -> bytes:
    """A message's headers as one value."""
    packed = []
    for name, value in headers or ():
        encoded = name.encode(errors="surrogateescape")  # Kafka does not require names to be UTF-8
        packed += [LENGTHS.pack(len(encoded), -1 if value is None else len(value)), encoded, value or b""]
    return b"".join(packed)


def unpack_headers(packed: bytes) -> list[Header]:
    """The reverse of `pack_headers`."""
    headers: list[Header] = []
    start = 0
    while start < len(packed):
        name_size, value_size = LENGTHS.unpack_from(packed, start)
        name_end = start + LENGTHS.size + name_size
        name = packed[start + LENGTHS.size : name_end].decode(errors="surrogateescape")
        start = name_end + max(value_size, 0)
        headers.append((name, None if value_size < 0 else packed[name_end:start]))
    return headers


@dataclass(frozen=True)
class Chunk:
    """Some messages, in order: `columns` has `MESSAGE_SCHEMA`, the properties are its columns as lists.

    `appended` says that some of the timestamps may be those at which the broker appended the messages to the log.
    """

    columns: pa.RecordBatch
    appended: bool = False

    @classmethod
    def of(
        cls, partitions: Sequence[int], offsets: Sequence[int], timestamps: Sequence[int],
        keys: Sequence[bytes | None], headers: Sequence[bytes], values: Sequence[bytes | None],
    ) -> Self:  # fmt: skip
        """Messages whose parts are given as lists; headers are packed."""
        parts: Sequence[Sequence[Any]] = (partitions, offsets, timestamps, keys, headers, values)
        arrays = [pa.array(part, kind) for part, (_, kind) in zip(parts, MESSAGE_FIELDS, strict=True)]
        return cls(pa.record_batch(arrays, schema=MESSAGE_SCHEMA))

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @cached_property
    def partitions(self) -> list[int]:
        """Of the topic that was read; also of what is published of it."""
        return self._list("partition")

    @cached_property
    def offsets(self) -> list[int]:
        """Within each partition."""
        return self._list("offset")

    @cached_property
    def timestamps(self) -> list[int]:
        """Milliseconds since the epoch, -1 without a timestamp."""
        return self._list("timestamp")

    @cached_property
    def keys(self) -> list[bytes | None]:
        """None for a message without a key."""
        return self._list("key")

    @cached_property
    def headers(self) -> list[bytes]:
        """Packed (`unpack_headers`); None where they could not be read (`enrichment.batches.drain` refuses these)."""
        return self._list("headers")

    @cached_property
    def values(self) -> list[bytes | None]:
        """None is a tombstone."""
        return self._list("value")

    def _list(self, part: str) -> list[Any]:
        found: list[Any] = self.columns[part].to_pylist()
        return found

    def take(self, rows: Sequence[int]) -> Chunk:
        """The messages at these positions, in this order."""
        if len(rows) == len(self):
            return self
        return Chunk(self.columns.take(pa.array(rows, pa.int64())), self.appended)


def without(columns: pa.RecordBatch, rows: Sequence[int]) -> pa.RecordBatch:
    """All rows but these, which are in order."""
    if not rows:
        return columns
    if len(rows) <= FEW:
        ends, starts = [*rows, columns.num_rows], [0, *(row + 1 for row in rows)]
        return pa.concat_batches([columns.slice(start, end - start) for start, end in zip(starts, ends, strict=True)])
    kept = np.ones(columns.num_rows, dtype=bool)
    kept[rows] = False
    return columns.filter(pa.array(kept))


def replaced(column: pa.Array, rows: Sequence[int], values: pa.Array) -> pa.Array:
    """The column with these values at these rows, which are in order."""
    if len(rows) <= FEW:
        parts, start = [], 0
        for place, row in enumerate(rows):
            parts += [column.slice(start, row - start), values.slice(place, 1)]
            start = row + 1
        return pa.concat_arrays([*parts, column.slice(start)])
    places = np.arange(len(column))
    places[rows] = len(column) + np.arange(len(rows))
    return pa.concat_arrays([column, values]).take(pa.array(places))


def message_size(value: bytes, key: bytes | None, headers: bytes) -> int:
    """An upper bound of a message's size in the log, in bytes, uncompressed; `headers` are packed.

    There the two lengths of a header take at most 8 bytes, too, if both parts are smaller than 128 MiB.
    """
    return len(value) + len(key or b"") + len(headers) + RECORD_OVERHEAD


def message_sizes(messages: Chunk) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`message_size` of each message."""
    sizes = np.full(len(messages), RECORD_OVERHEAD, dtype=np.int64)
    for part in ("key", "headers", "value"):
        sizes += np.diff(parts_of(messages.columns[part])[1])
    return sizes
