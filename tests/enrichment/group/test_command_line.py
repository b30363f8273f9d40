"""What the shell's arguments of `python -m enrichment.group` may be."""

from __future__ import annotations

import argparse

import pytest

from enrichment.group.__main__ import lane_count, placed


def test_arguments_are_numbers() -> None:
    """As the guide has them."""
    assert placed("3=1200") == (3, 1200)
    assert (lane_count("1"), lane_count("10000")) == (1, 10_000)


@pytest.mark.parametrize("text", ["foo", "0", "-1", "10001", "1.5", ""])
def test_number_of_lanes_is_refused_by_its_range(text: str) -> None:
    """Not by naming all ten thousand that there are."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"^'.*' is no number of lanes from 1 to 10,000$"):
        lane_count(text)


@pytest.mark.parametrize("text", ["foo", "0", "0=", "=1", "a=b", "0=1=2"])
def test_offset_is_refused_with_an_example(text: str) -> None:
    """And with what was given."""
    with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' is no PARTITION=OFFSET, such as 0=1200$"):
        placed(text)
