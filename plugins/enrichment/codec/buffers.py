"""Binary Arrow columns as compiled loops (Numba) take and give them: all bytes one behind the other, and where each
value ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numba import types

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Ends = np.ndarray[Any, np.dtype[np.int32]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

# From address, to address, bytes: assigning one slice to another goes byte by byte.
memcpy: Any = types.ExternalFunction("memcpy", types.int64(types.int64, types.int64, types.int64))
# Their types there: what Arrow owns is read-only.
BYTES = types.Array(types.uint8, 1, "C", readonly=True)
ENDS = types.Array(types.int32, 1, "C", readonly=True)
NUMBERS = types.Array(types.int64, 1, "C", readonly=True)
FLAGS = types.Array(types.boolean, 1, "C", readonly=True)


def parts_of(column: pa.Array) -> tuple[Bytes, Ends]:
    """The bytes of a binary column, and where each value ends, from the end of the one before the first on.

    There is an address even where there are no bytes: an empty value must not look like none.
    """
    _, ends, content = column.buffers()
    found = np.frombuffer(ends, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(content if content is not None and content.size else b"\0", np.uint8), found


def binary_column(content: Bytes, ends: Ends, there: Flags | None = None) -> pa.Array:
    """The reverse; `there` says which values are not null (all, if not given)."""
    bits = None if there is None or there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(pa.binary(), len(ends) - 1, [bits, pa.py_buffer(ends), pa.py_buffer(content)])
