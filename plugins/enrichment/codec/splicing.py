"""Messages in, the same with additions spliced in at their ends out: many at once, by a compiled loop (Numba).

`enrichment.codec.flat` says for which messages that is right, `enrichment.batches.route` what is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit, types

from enrichment.codec.buffers import BYTES, ENDS, FLAGS, Bytes, Ends, Flags, binary_column, memcpy, parts_of

_COMMA = ord(",")
_ROWS = types.Array(types.int32, 2, "C", readonly=True)


@njit((BYTES, ENDS, FLAGS, _ROWS, types.int64, BYTES, ENDS, BYTES, ENDS), nogil=True, cache=True)
def _splice(
    values: Bytes, ends: Ends, fast: Flags, codes: Ends, first: int, fragments: Bytes, fragment_ends: Ends,
    plain: Bytes, plain_ends: Ends,
) -> tuple[Bytes, Ends]:  # fmt: skip
    rows, count = len(ends) - 1, len(codes)
    comma = np.full(1, _COMMA, np.uint8)
    spliced_ends = np.zeros(rows + 1, np.int32)
    others = 0
    for row in range(rows):
        if fast[row]:
            size = ends[row + 1] - ends[row] - 1
            for source in range(count):
                code = codes[source, first + row]
                size += 1 + fragment_ends[code + 1] - fragment_ends[code]
        else:
            size = plain_ends[others + 1] - plain_ends[others]
            others += 1
        spliced_ends[row + 1] = spliced_ends[row] + size
    spliced = np.empty(spliced_ends[rows], np.uint8)
    others = 0
    for row in range(rows):
        at = spliced.ctypes.data + spliced_ends[row]
        if fast[row]:
            size = ends[row + 1] - ends[row] - 1
            memcpy(at, values.ctypes.data + ends[row], size)
            at += size
            for source in range(count):
                code = codes[source, first + row]
                size = fragment_ends[code + 1] - fragment_ends[code]
                memcpy(at, comma.ctypes.data, 1)
                memcpy(at + 1, fragments.ctypes.data + fragment_ends[code], size)
                at += 1 + size
        else:
            memcpy(at, plain.ctypes.data + plain_ends[others], plain_ends[others + 1] - plain_ends[others])
            others += 1
    return spliced, spliced_ends


class Splicer:
    """Appends fragments to a chunk's messages: of each pair (row numbers, fragments) the one of the row's number."""

    def __init__(self, additions: Sequence[tuple[np.ndarray[Any, Any], pa.Array]]) -> None:
        starts = np.cumsum([0, *(len(fragments) for _, fragments in additions)])
        for codes, fragments in additions:
            if len(codes) and not 0 <= codes.min() <= codes.max() < len(fragments):
                raise ValueError(f"row numbers from {codes.min()} to {codes.max()} into {len(fragments)} fragments")
        shifted = [codes + start for (codes, _), start in zip(additions, starts, strict=False)]
        self._codes = np.array(shifted, dtype=np.int32)
        self._fragments = parts_of(pa.concat_arrays([fragments for _, fragments in additions]))

    def splice(self, values: pa.Array, fast: Flags, first: int, plain: Sequence[bytes]) -> pa.Array:
        """The values of the chunk's rows from `first` on: the input without its closing brace, and the fragments, each
        after a comma. Those that are not `fast` are, in their order, what `plain` has.

        Raises `ValueError` where the numbers of rows do not match: the loop itself would read past its arrays.
        """
        if len(values) != len(fast) or first + len(values) > self._codes.shape[1] or len(plain) != (~fast).sum():
            raise ValueError(
                f"{len(values)} values from row {first} of {self._codes.shape[1]}, {len(plain)} plain ones"
            )
        spliced, ends = _splice(
            *parts_of(values), fast, self._codes, first, *self._fragments, *parts_of(pa.array(plain, pa.binary()))
        )
        return binary_column(spliced, ends)
