"""Messages on their way out: headers that say where they came from, and dead letters in the order of their offsets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numba import njit

from enrichment.batch import Batch
from enrichment.codec.buffers import BYTES, ENDS, NUMBERS, Bytes, Ends, Numbers, binary_column, memcpy, parts_of
from enrichment.codec.headers import FIRST_VERSION, mark_own, origin_header
from enrichment.codec.records import Chunk, Header, pack_headers
from enrichment.messages import HEADER_ORIGIN, REDRIVE_HEADERS, MessageOrigin

_NAME = np.frombuffer(HEADER_ORIGIN.encode(), np.uint8)


@njit((BYTES, ENDS, NUMBERS, BYTES, ENDS, BYTES, ENDS, NUMBERS, BYTES), nogil=True, cache=True)
def _put_together(
    own: Bytes, own_ends: Ends, codes: Numbers, alike: Bytes, alike_ends: Ends, said: Bytes, said_ends: Ends,
    offsets: Numbers, name: Bytes,
) -> tuple[Bytes, Ends]:  # fmt: skip
    """Each row's own headers, those that its code shares, and the origin: what its code shares of it, the offset's
    digits, and a closing brace."""
    rows, lengths = len(codes), np.empty(2, np.int32)
    digits, ends = np.ones(rows, np.int64), np.zeros(rows + 1, np.int32)
    for row in range(rows):
        rest, code = offsets[row] // 10, codes[row]
        while rest:
            digits[row] += 1
            rest //= 10
        size = own_ends[row + 1] - own_ends[row] + alike_ends[code + 1] - alike_ends[code]
        size += lengths.nbytes + len(name) + said_ends[code + 1] - said_ends[code] + digits[row] + 1
        ends[row + 1] = ends[row] + size
    content = np.empty(ends[rows], np.uint8)
    for row in range(rows):
        at, code = content.ctypes.data + ends[row], codes[row]
        size = own_ends[row + 1] - own_ends[row]
        memcpy(at, own.ctypes.data + own_ends[row], size)
        at += size
        size = alike_ends[code + 1] - alike_ends[code]
        memcpy(at, alike.ctypes.data + alike_ends[code], size)
        at += size
        size = said_ends[code + 1] - said_ends[code]
        lengths[0], lengths[1] = len(name), size + digits[row] + 1
        memcpy(at, lengths.ctypes.data, lengths.nbytes)
        memcpy(at + lengths.nbytes, name.ctypes.data, len(name))
        memcpy(at + lengths.nbytes + len(name), said.ctypes.data + said_ends[code], size)
        rest, last = offsets[row], ends[row + 1] - 1
        content[last] = ord("}")
        for place in range(last - 1, last - 1 - digits[row], -1):
            content[place] = ord("0") + rest % 10
            rest //= 10
    return content, ends


def origin_headers(messages: pa.RecordBatch, batch: Batch) -> pa.Array:
    """Each message's own headers as they came, then those of the batch's purpose, then its origin; packed.

    Own headers that could be taken for the pipeline's are followed by a mark (`enrichment.codec.headers`).
    """
    partitions, codes = np.unique(messages["partition"].to_numpy(), return_inverse=True)
    # A redrive's messages come with its headers after their own.
    behind = len(REDRIVE_HEADERS) if batch.purpose.letters is not None else 0
    headers, marked = mark_own(messages["headers"], behind)
    versions = (False, True) if marked.any() else (False,)
    shared = [_alike(batch, partition, versioned=stated) for stated in versions for partition in partitions.tolist()]
    columns = (pa.array([each[part] for each in shared], pa.binary()) for part in (0, 1))
    alike, said = map(parts_of, columns)
    codes = codes + marked * np.int64(len(partitions))
    own, offsets = parts_of(headers), messages["offset"].to_numpy()
    return binary_column(*_put_together(*own, codes, *alike, *said, offsets, _NAME))


@lru_cache
def _alike(batch: Batch, partition: int, *, versioned: bool) -> tuple[bytes, bytes]:
    """What all messages of a batch and partition share: headers, packed, and the origin up to the offset. `versioned`
    says that they state their version."""
    purpose: list[Header] = [(name, text.encode()) for name, text in batch.purpose.headers]
    _, origin = origin_header(MessageOrigin(batch.source_topic, partition, batch.batch_id, 0))
    return pack_headers([*purpose, *([FIRST_VERSION] if versioned else [])]), (origin or b"")[: -len("0}")]


def in_order(messages: Sequence[Chunk]) -> Chunk:
    """The same messages as one, each partition in the order of its offsets."""
    columns = pa.concat_batches([chunk.columns for chunk in messages])
    order = np.lexsort((columns["offset"].to_numpy(), columns["partition"].to_numpy()))
    return Chunk(columns.take(pa.array(order)))
