"""Binary Arrow columns as compiled loops (Numba) take and return them: one data buffer and the offsets into it."""

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
    """The data buffer of a binary column and its Arrow offsets.

    A column without bytes gets a buffer of one byte: an empty value needs an address, or it would look like null.
    """
    _, ends, content = column.buffers()
    found = np.frombuffer(ends, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(content if content is not None and content.size else b"\0", np.uint8), found


def binary_column(content: Bytes, ends: Ends, there: Flags | None = None) -> pa.Array:
    """The reverse of `parts_of`; `there` says which values are not null (default: all)."""
    bits = None if there is None or there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(pa.binary(), len(ends) - 1, [bits, pa.py_buffer(ends), pa.py_buffer(content)])
