"""PostgreSQL arrays in binary format in, Arrow columns out: a column of any length is one value of a row.

Elements follow one another, each preceded by its length (-1: null); see `array_send` in PostgreSQL's
`src/backend/utils/adt/arrayfuncs.c`.
"""

from __future__ import annotations

from struct import Struct
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit, types

from enrichment.codec.buffers import BYTES, Bytes, Ends, Flags, binary_column, memcpy

# How many dimensions, whether there are nulls, the type of the elements; of the one dimension the length and where
# counting starts.
_HEAD = Struct(">iiIii")
_LENGTH = 4
# The types that the cache tables have (`pg_type.dat`): text, and as they are sent and as they become, boolean, bigint,
# double.
_TEXT = 25
_NUMBERS: dict[int, tuple[np.dtype[Any], pa.DataType]] = {
    16: (np.dtype(">i1"), pa.bool_()),
    20: (np.dtype(">i8"), pa.int64()),
    701: (np.dtype(">f8"), pa.float64()),
}


@njit((BYTES, types.int64, types.int64), nogil=True, cache=True)
def _take_apart(array: Bytes, at: int, count: int) -> tuple[Bytes, Ends, Flags]:
    """The bytes of all elements from `at` on, where each ends, and which are not null."""
    starts, ends, there = np.zeros(count, np.int64), np.zeros(count + 1, np.int32), np.zeros(count, np.bool_)
    for row in range(count):
        if at + _LENGTH > len(array):
            raise ValueError("the array ends before its last element")
        size = 0
        for place in range(at, at + _LENGTH):
            size = size << 8 | array[place]
        there[row] = size < 1 << 31
        if not there[row]:
            size = 0
        starts[row] = at + _LENGTH
        ends[row + 1] = ends[row] + size
        at = starts[row] + size
        if at > len(array):
            raise ValueError("the array ends before its last element")
    content = np.empty(ends[count], np.uint8)
    for row in range(count):
        memcpy(content.ctypes.data + ends[row], array.ctypes.data + starts[row], ends[row + 1] - ends[row])
    return content, ends, there


def column_of(array: bytes) -> pa.Array:
    """The elements of a one-dimensional array, not empty, of text, double, bigint or boolean.

    Raises `ValueError` for anything else.
    """
    if len(array) < _HEAD.size:
        raise ValueError(f"{len(array)} bytes are no array with elements")
    dimensions, _, kind, count, _ = _HEAD.unpack_from(array)
    if dimensions != 1 or kind not in (_TEXT, *_NUMBERS):
        raise ValueError(f"an array of {dimensions} dimensions of type {kind} (pg_type)")
    content, ends, there = _take_apart(np.frombuffer(array, np.uint8), _HEAD.size, count)
    if kind == _TEXT:
        return binary_column(content, ends, there).view(pa.string())
    sent, becomes = _NUMBERS[kind]
    numbers = np.zeros(count, sent.newbyteorder("="))
    numbers[there] = content.view(sent)
    return pa.array(numbers, mask=~there).cast(becomes)
