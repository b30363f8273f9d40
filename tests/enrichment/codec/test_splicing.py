"""Fragments behind messages, many at once: the same as one by one in Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.codec.splicing import Splicer


@given(st.data())
def test_fragments_stand_behind_their_message(data: st.DataObject) -> None:
    """Each row has the fragments that its codes name, in order; a row of the slow path has its own value instead."""
    rows = data.draw(st.integers(0, 8))
    fragments = data.draw(st.lists(st.lists(st.binary(), min_size=1, max_size=4), min_size=1, max_size=4))
    codes = [data.draw(st.lists(st.integers(0, len(own) - 1), min_size=rows, max_size=rows)) for own in fragments]
    inputs = data.draw(st.lists(st.binary(min_size=1), min_size=rows, max_size=rows))
    fast = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    first = data.draw(st.integers(0, rows))
    plain = [b"plain %d" % row for row in range(first, rows) if not fast[row]]
    splicer = Splicer(
        [(np.array(c, dtype=np.int32), pa.array(own, pa.binary())) for c, own in zip(codes, fragments, strict=True)]
    )
    column = pa.array(inputs, pa.binary()).slice(first)
    spliced = splicer.splice(column, np.array(fast[first:], dtype=bool), first, plain)
    assert spliced.to_pylist() == [
        b",".join([inputs[row][:-1], *(own[c[row]] for c, own in zip(codes, fragments, strict=True))])
        if fast[row]
        else b"plain %d" % row
        for row in range(first, rows)
    ]


CODES, FRAGMENTS = np.zeros(2, dtype=np.int32), pa.array([b"x"], pa.binary())


@pytest.mark.parametrize(
    ("values", "fast", "first", "plain"),
    [(3, 3, 0, 0), (2, 2, 1, 0), (1, 2, 0, 0), (2, 2, 0, 1)],
    ids=["more values", "from too far", "more flags", "more plain values"],
)
def test_rows_that_do_not_fit_are_refused(values: int, fast: int, first: int, plain: int) -> None:
    """A compiled loop does not look where its arrays end: it is never started then."""
    splicer = Splicer([(CODES, FRAGMENTS)])
    with pytest.raises(ValueError, match=f"{values} values from row {first}"):
        splicer.splice(pa.array([b"{}"] * values, pa.binary()), np.ones(fast, dtype=bool), first, [b"p"] * plain)


@pytest.mark.parametrize("code", [-1, 1])
def test_codes_of_no_fragment_are_refused(code: int) -> None:
    """Likewise."""
    with pytest.raises(ValueError, match="into 1 fragments"):
        Splicer([(np.array([0, code], dtype=np.int32), FRAGMENTS)])
