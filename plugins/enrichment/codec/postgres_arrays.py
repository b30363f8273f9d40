"""PostgreSQL arrays in binary format to Arrow columns and back: a column of any length is one value of a row, or one
parameter.

Elements follow one another, each preceded by its length (-1: null); see `array_send` in PostgreSQL's
`src/backend/utils/adt/arrayfuncs.c`.
"""

from __future__ import annotations

from functools import reduce
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit, types
from psycopg.adapt import Dumper
from psycopg.pq import Format

from enrichment.codec.buffers import BYTES, ENDS, FLAGS, Bytes, Ends, Flags, binary_column, memcpy, parts_of

# How many dimensions, whether there are nulls, the type of the elements; of the one dimension the length and where
# counting starts.
_HEAD = Struct(">iiIii")
_EMPTY_HEAD = Struct(">iiI")  # no dimensions
_LENGTH = 4
# The types that the cache tables have (`pg_type.dat`): text, and as they are sent and as they become, boolean, bigint,
# double.
_TEXT = 25
_NUMBERS: dict[int, tuple[np.dtype[Any], pa.DataType]] = {
    16: (np.dtype(">i1"), pa.bool_()),
    20: (np.dtype(">i8"), pa.int64()),
    701: (np.dtype(">f8"), pa.float64()),
}
_SENT_AS = {kind: oid for oid, (_, kind) in _NUMBERS.items()}


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


@njit((BYTES, ENDS, FLAGS), nogil=True, cache=True)
def _put_together(content: Bytes, ends: Ends, there: Flags) -> Bytes:
    """The reverse of `_take_apart`; `ends` begins with where the first element does."""
    size = _LENGTH * len(there)
    for row in range(len(there)):
        if there[row]:
            size += ends[row + 1] - ends[row]
    array = np.empty(size, np.uint8)
    at = 0
    for row in range(len(there)):
        length = ends[row + 1] - ends[row] if there[row] else 0
        sent = length if there[row] else -1
        for place in range(_LENGTH):
            array[at + place] = sent >> 8 * (_LENGTH - 1 - place) & 0xFF
        at += _LENGTH
        memcpy(array.ctypes.data + at, content.ctypes.data + ends[row], length)
        at += length
    return array


def array_of(column: pa.Array) -> bytes:
    """The reverse of `column_of`; the column may be empty. Raises `TypeError` for another type of column."""
    is_text = pa.types.is_string(column.type)
    if not is_text and column.type not in _SENT_AS:
        raise TypeError(f"a column of the type {column.type} is no array of text, boolean, bigint or double")
    kind = _TEXT if is_text else _SENT_AS[column.type]
    if not len(column):
        return _EMPTY_HEAD.pack(0, 0, kind)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    if is_text:
        content, ends = parts_of(column)
    else:
        sent, becomes = _NUMBERS[kind]
        numbers = column.fill_null(pa.scalar(0).cast(becomes)).to_numpy(zero_copy_only=False).astype(sent)
        content, ends = numbers.view(np.uint8), np.arange(len(column) + 1, dtype=np.int32) * sent.itemsize
    head = _HEAD.pack(1, int(column.null_count > 0), kind, len(column), 1)
    return head + _put_together(content, ends, there).tobytes()


class ArrayParameter(NamedTuple):
    """A column as a parameter of a statement, which says its type (`%(name)s::text[]`). Executed by `array_cursor`."""

    column: pa.Array


def arrays_of(rows: pa.Table) -> dict[str, ArrayParameter]:
    """The columns as parameters by their names, without the rows whose text PostgreSQL cannot hold: sources may answer
    anything."""
    columns = [column.combine_chunks() for column in rows.columns]
    odd = [column for column in columns if pa.types.is_string(column.type) and _has_nul(column)]
    if odd:
        is_odd = reduce(pc.or_, (pc.fill_null(pc.match_substring(column, "\0"), False) for column in odd))
        columns = [column.filter(pc.invert(is_odd)) for column in columns]
    return dict(zip(rows.column_names, map(ArrayParameter, columns), strict=True))


def _has_nul(column: pa.Array) -> bool:
    """Whether a column of text holds a byte 0, which PostgreSQL's text type does not take."""
    if not len(column):
        return False
    content, ends = parts_of(column)
    return not content[ends[0] : ends[-1]].all()


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: ArrayParameter) -> bytes:
        return array_of(obj.column)


def array_cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[Any]:
    """A cursor that takes `ArrayParameter`s, and returns arrays as `column_of` takes them."""
    cursor = connection.cursor(binary=True)
    cursor.adapters.register_dumper(ArrayParameter, _ArrayDumper)
    return cursor
