"""How the texts of a query's columns become values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.sources import sql_query

written = st.one_of(
    st.none(),
    st.floats().map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=6).map(str),
    st.integers().map(str),
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "+1", " 1 ", "1_000", "0x10", "much", "", "1."]
    ),
    st.text(max_size=5),
)


def plainly(value: str | None) -> float | None:
    """A number as Python reads it, one by one."""
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


@given(column=st.lists(written))
def test_numbers_are_read_as_python_reads_them(column: list[str | None]) -> None:
    """A column is read at once where that is possible, with the same outcome for each value."""
    assert sql_query._numbers(column).to_pylist() == [plainly(value) for value in column]


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("-7.0", -7), ("9223372036854775807", 2**63 - 1), ("9223372036854775808", None), ("7.5", None),
     ("NaN", None), ("Infinity", None), ("seven", None), ("", None), (None, None)],
)  # fmt: skip
def test_whole_numbers_are_those_of_64_bits(text: str | None, value: int | None) -> None:
    """Anything else is null."""
    assert sql_query._whole_numbers([text]).to_pylist() == [value]


def test_flags_are_as_postgresql_writes_them() -> None:
    """Of type boolean, or as a text made of one; anything else is null."""
    assert sql_query._flags(["t", "f", "true", "false", "yes", "", None]).to_pylist() == [
        True, False, True, False, None, None, None,
    ]  # fmt: skip
