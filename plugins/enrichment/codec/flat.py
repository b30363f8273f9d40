"""Message values in; which of them are flat, and the lookup keys in these, out.

A value is flat when it is one JSON object with fields of `event_type` only, each at most once and the required ones
among them, whose values are strings (null too where optional), and when its last byte is the closing brace. Nearly all
are. A compiled loop (Numba) proves it in one pass over the bytes, and makes no object for any of it.

Anything that the loop does not understand is not flat: `enrichment.codec.decode` reads it with a JSON library. That
includes keys with escapes and surrogates.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numba import njit, types
from numba.extending import register_jitable

from enrichment.codec.buffers import (
    BYTES,
    ENDS,
    FLAGS,
    NUMBERS,
    Bytes,
    Ends,
    Flags,
    Numbers,
    binary_column,
    memcpy,
    parts_of,
)
from enrichment.messages import event_type

# The loop records in the bits of an integer which fields it found.
MAX_FIELDS = 60
# Positions are unsigned: for signed ones Numba checks each time whether they count from the end.
Position = np.uint64
_ONE = Position(1)

_QUOTE, _COMMA, _COLON, _OPENING, _CLOSING = (np.uint8(ord(character)) for character in '",:{}')
_NULL, _NULL_SIZE = np.frombuffer(b"null", np.uint8), Position(4)
_BACKSLASH, _SPACE_BAR, _ASCII = np.uint8(ord("\\")), np.uint8(ord(" ")), np.uint8(0x7F)
_BEYOND_ASCII, _ODD = 1, 2  # what a survey finds
_SPACE = np.zeros(256, np.bool_)
_SPACE[np.frombuffer(b" \t\r\n", np.uint8)] = True
# How many bytes an escape has, by the letter after its backslash; 0: not an escape.
_ESCAPES = np.zeros(256, Position)
_ESCAPES[np.frombuffer(b'"\\/bfnrt', np.uint8)], _ESCAPES[ord("u")] = 2, 6
_DIGITS = np.full(256, -1, np.int64)
_DIGITS[np.frombuffer(b"0123456789ABCDEF", np.uint8)] = range(16)
_DIGITS[np.frombuffer(b"abcdef", np.uint8)] = range(10, 16)
_SURROGATES = 0xD8, 0xDF  # by the higher byte of their number

_FLAT, _FLAT_IF_UTF8 = 1, 2
# From address, byte, how many bytes: the address where it is found, 0 for nowhere.
memchr: Any = types.ExternalFunction("memchr", types.int64(types.int64, types.int32, types.int64))
_PLACES = types.Array(types.int32, 1, "C")
_POSITIONS = types.Array(types.uint64, 1, "C", readonly=True)


@register_jitable
def _behind_space(values: Bytes, at: Position, end: Position) -> Position:
    while at < end and _SPACE[values[at]]:
        at += _ONE
    return at


@register_jitable
def _escape_size(values: Bytes, at: Position, end: Position) -> Position:
    """How many bytes the escape at `at` has; 0 for a surrogate or no escape."""
    size = _ESCAPES[values[at + _ONE]] if at + _ONE < end else Position(0)
    if at + size > end:
        return Position(0)
    if size == Position(6):
        high = _DIGITS[values[at + Position(2)]] << 4 | _DIGITS[values[at + Position(3)]]
        low = _DIGITS[values[at + Position(4)]] << 4 | _DIGITS[values[at + Position(5)]]
        if high < 0 or low < 0 or _SURROGATES[0] <= high <= _SURROGATES[1]:
            return Position(0)
    return size


@register_jitable
def _survey(value: Bytes) -> int:
    """Whether a value goes beyond ASCII, and whether its strings need a closer look: for escapes, or for control
    characters, which must not stand in them."""
    beyond, odd = np.uint8(0), np.uint8(0)
    for place in range(len(value)):
        beyond |= np.uint8(value[place] > _ASCII)
        odd |= np.uint8(value[place] < _SPACE_BAR) | np.uint8(value[place] == _BACKSLASH)
    return (_BEYOND_ASCII if beyond else 0) | (_ODD if odd else 0)


@register_jitable
def _string_end(values: Bytes, at: Position, end: Position, survey: int) -> Position:
    """The position of the closing quote of the string that starts at `at`; the end where it has none or holds something
    that is not understood."""
    if not survey & _ODD:
        start = values.ctypes.data
        found = memchr(start + np.int64(at), np.int32(_QUOTE), np.int64(end - at))
        return Position(found - start) if found else end
    while at < end and values[at] != _QUOTE and values[at] >= _SPACE_BAR:
        size = _escape_size(values, at, end) if values[at] == _BACKSLASH else _ONE
        if size == Position(0):
            return end
        at += size
    return at if at < end and values[at] == _QUOTE else end


@register_jitable
def _stands(values: Bytes, at: Position, end: Position, wanted: Bytes, start: Position, stop: Position) -> bool:
    """Whether the bytes from start to stop of `wanted` stand there."""
    if at + (stop - start) > end:
        return False
    while start < stop:
        if values[at] != wanted[start]:
            return False
        at += _ONE
        start += _ONE
    return True


@register_jitable
def _field(values: Bytes, at: Position, end: Position, guess: int, names: Bytes, name_ends: Any) -> int:
    """The number of the field whose quoted name stands there, -1 for none. Mostly the guess is right: the next one in
    `event_type`."""
    count = len(name_ends) - 1
    if guess < count and _stands(values, at, end, names, name_ends[guess], name_ends[guess + 1]):
        return guess
    for field in range(count):
        if _stands(values, at, end, names, name_ends[field], name_ends[field + 1]):
            return field
    return -1


@register_jitable
def _read_row(  # noqa: C901, PLR0911, PLR0912  taken apart it takes a third longer
    values: Bytes, at: Position, end: Position, row: int, starts: Any, sizes: Any, names: Bytes, name_ends: Any,
    required: Flags, keys: Numbers, all_required: int,
) -> int:  # fmt: skip
    """The kind of a value (0: not flat). Records where its keys are; meaningless for a value that is not flat."""
    if not (at < end and values[at] == _OPENING and values[end - _ONE] == _CLOSING):
        return 0
    survey, found, field = _survey(values[at:end]), 0, -1
    while True:
        at = _behind_space(values, at + _ONE, end)  # after the brace, or the comma
        field = _field(values, at, end, field + 1, names, name_ends)
        if field < 0 or found >> field & 1:
            return 0
        found |= 1 << field
        at = _behind_space(values, at + (name_ends[field + 1] - name_ends[field]), end)
        if not (at < end and values[at] == _COLON):
            return 0
        at = _behind_space(values, at + _ONE, end)
        if at < end and values[at] == _QUOTE:
            start, key = at + _ONE, keys[field]
            at = _string_end(values, start, end, survey)
            if at == end:
                return 0
            if key >= 0:
                if survey & _ODD and np.any(values[start:at] == _BACKSLASH):
                    return 0
                starts[key, row], sizes[key, row] = start, at - start
            at += _ONE
        elif not required[field] and _stands(values, at, end, _NULL, Position(0), _NULL_SIZE):
            at += _NULL_SIZE
        else:
            return 0
        at = _behind_space(values, at, end)
        if at + _ONE == end:  # the closing brace
            if found & all_required != all_required:
                return 0
            return _FLAT_IF_UTF8 if survey & _BEYOND_ASCII else _FLAT
        if not (at < end and values[at] == _COMMA):
            return 0


@njit((BYTES, ENDS, BYTES, _POSITIONS, FLAGS, NUMBERS), nogil=True, cache=True)
def _read(
    values: Bytes, ends: Ends, names: Bytes, name_ends: Any, required: Flags, keys: Numbers
) -> tuple[Bytes, Any, Any]:
    """The kind of each value, where its keys begin, and their sizes in bytes (0: absent or empty)."""
    rows = len(ends) - 1
    kinds = np.zeros(rows, np.uint8)
    starts, sizes = np.zeros((keys.max() + 1, rows), np.int32), np.zeros((keys.max() + 1, rows), np.int32)
    all_required = 0
    for field in range(len(required)):
        all_required |= required[field] << field
    for row in range(rows):
        kinds[row] = _read_row(
            values, Position(ends[row]), Position(ends[row + 1]), row, starts, sizes,
            names, name_ends, required, keys, all_required,
        )  # fmt: skip
    return kinds, starts, sizes


@njit((BYTES, _PLACES, _PLACES), nogil=True, cache=True)
def _cut_out(values: Bytes, starts: Ends, sizes: Ends) -> tuple[Bytes, Ends]:
    ends = np.zeros(len(sizes) + 1, np.int32)
    for row in range(len(sizes)):
        ends[row + 1] = ends[row] + sizes[row]
    content = np.empty(ends[-1], np.uint8)
    for row in range(len(sizes)):
        memcpy(content.ctypes.data + ends[row], values.ctypes.data + starts[row], sizes[row])
    return content, ends


class _Tables(NamedTuple):
    """What the loop must know of the fields, in their order.

    The loop takes them as arguments: constants of other modules would be kept in its cached compiled form and outlive a
    change there.
    """

    names: Bytes  # with their quotes, one after the other
    name_ends: Any
    required: Flags
    keys: Numbers  # the field's number among the keys, -1 if it is not a key


@lru_cache
def _tables(keys: tuple[str, ...]) -> _Tables:
    fields = msgspec.structs.fields(event_type(keys))
    if len(fields) > MAX_FIELDS:
        raise ValueError(f"with {len(keys)} keys a message has {len(fields)} known fields; {MAX_FIELDS} at most")
    names = [f'"{field.encode_name}"'.encode() for field in fields]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(keys))}
    return _Tables(
        np.frombuffer(b"".join(names), np.uint8),
        np.cumsum([0, *map(len, names)]).astype(Position),
        np.array([field.required for field in fields]),
        np.array([numbers.get(field.encode_name, -1) for field in fields], np.int64),
    )


def read_flat(column: pa.Array, keys: tuple[str, ...]) -> tuple[Flags, dict[str, pa.Array]]:
    """Which values (binary) are flat, and these keys of them by column, null where absent or empty, and where a value
    is not flat.

    Raises `ValueError` where the keys make too many fields.
    """
    content, ends = parts_of(column)
    kinds, starts, sizes = _read(content, ends, *_tables(keys))
    doubtful = np.flatnonzero(kinds == _FLAT_IF_UTF8)
    values = column.take(pa.array(doubtful))
    if len(doubtful) and not _are_utf8(values):
        # Checking all at once is quickest; one invalid value must not send the others to the JSON library.
        kinds[doubtful[[not _is_utf8(value) for value in values.to_pylist()]]] = 0
    flat = kinds != 0
    sizes[:, ~flat] = 0
    columns = {
        name: binary_column(*_cut_out(content, starts[key], sizes[key]), sizes[key] > 0).view(pa.string())
        for key, name in enumerate(dict.fromkeys(keys))
    }
    return flat, columns


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _are_utf8(values: pa.Array) -> bool:
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True
