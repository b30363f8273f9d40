"""Messages on their way out: headers that say where they came from, and dead letters in the order of their offsets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numba import njit

from enrichment.batch import Batch
from enrichment.codec.buffers import BYTES, ENDS, NUMBERS, Bytes, Ends, Numbers, binary_column, memcpy, parts_of
from enrichment.codec.headers import FIRST_VERSION, mark_own
from enrichment.codec.records import LENGTHS, Chunk, Header, pack_headers
from enrichment.messages import HEADER_BATCH, HEADER_OFFSET, HEADER_PARTITION, HEADER_TOPIC, REDRIVE_HEADERS

_OFFSET_NAME = HEADER_OFFSET.encode()
# The head of a packed offset header, by how many digits its value has.
_HEADS = np.frombuffer(b"".join(LENGTHS.pack(len(_OFFSET_NAME), n) + _OFFSET_NAME for n in range(20)), np.uint8)


@njit((BYTES, ENDS, NUMBERS, BYTES, ENDS, NUMBERS, BYTES), nogil=True, cache=True)
def _put_together(
    own: Bytes, own_ends: Ends, codes: Numbers, alike: Bytes, alike_ends: Ends, offsets: Numbers, heads: Bytes
) -> tuple[Bytes, Ends]:
    """Each row's own headers, those that its code shares, and its offset's head and digits."""
    rows, head_bytes = len(codes), len(heads) // 20
    digits, ends = np.ones(rows, np.int64), np.zeros(rows + 1, np.int32)
    for row in range(rows):
        rest = offsets[row] // 10
        while rest:
            digits[row] += 1
            rest //= 10
        size = own_ends[row + 1] - own_ends[row] + alike_ends[codes[row] + 1] - alike_ends[codes[row]]
        ends[row + 1] = ends[row] + size + head_bytes + digits[row]
    content = np.empty(ends[rows], np.uint8)
    for row in range(rows):
        at = content.ctypes.data + ends[row]
        size = own_ends[row + 1] - own_ends[row]
        memcpy(at, own.ctypes.data + own_ends[row], size)
        at += size
        size = alike_ends[codes[row] + 1] - alike_ends[codes[row]]
        memcpy(at, alike.ctypes.data + alike_ends[codes[row]], size)
        memcpy(at + size, heads.ctypes.data + digits[row] * head_bytes, head_bytes)
        rest = offsets[row]
        for place in range(ends[row + 1] - 1, ends[row + 1] - 1 - digits[row], -1):
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
    packed = [_alike(batch, partition, versioned=said) for said in versions for partition in partitions.tolist()]
    alike = pa.array(packed, pa.binary())
    codes = codes + marked * np.int64(len(partitions))
    own, offsets = parts_of(headers), messages["offset"].to_numpy()
    return binary_column(*_put_together(*own, codes, *parts_of(alike), offsets, _HEADS))


@lru_cache
def _alike(batch: Batch, partition: int, *, versioned: bool) -> bytes:
    """The headers that all messages of a batch and partition share; `versioned` says that they state their version."""
    purpose: list[Header] = [(name, text.encode()) for name, text in batch.purpose.headers]
    purpose += [FIRST_VERSION] if versioned else []
    topic, batch_id = (HEADER_TOPIC, batch.source_topic.encode()), (HEADER_BATCH, batch.batch_id.encode())
    return pack_headers([*purpose, topic, (HEADER_PARTITION, b"%d" % partition), batch_id])


def in_order(messages: Sequence[Chunk]) -> Chunk:
    """The same messages as one, each partition in the order of its offsets."""
    columns = pa.concat_batches([chunk.columns for chunk in messages])
    order = np.lexsort((columns["offset"].to_numpy(), columns["partition"].to_numpy()))
    return Chunk(columns.take(pa.array(order)))
