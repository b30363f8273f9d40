"""Durations as histograms: how exact their quantiles are, and that merging loses nothing."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.store.histogram import RELATIVE_ERROR, SMALLEST_SECONDS, Histogram

# From less than the smallest bucket to a message of thirty years ago.
durations = st.floats(min_value=0, max_value=1e9)
QUANTILES = (0.0, 0.5, 0.95, 0.99, 1.0)


@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from(QUANTILES))
def test_quantile_is_within_the_error(seconds: list[float], q: float) -> None:
    """A quantile is one percent off at most; below a millisecond, a millisecond."""
    exact = sorted(seconds)[max(1, math.ceil(q * len(seconds))) - 1]
    seen = Histogram.of(seconds).quantile(q)
    assert seen is not None
    assert abs(seen - exact) <= max(RELATIVE_ERROR * exact * (1 + 1e-9), SMALLEST_SECONDS)


@given(st.lists(st.lists(durations, max_size=30), max_size=24))
def test_merged_parts_are_the_whole(parts: list[list[float]]) -> None:
    """The histograms of hours add up to that of the day, to the last message, in any order."""
    whole = Histogram.of([seconds for part in parts for seconds in part])
    assert reduce(add, map(Histogram.of, parts), Histogram()) == whole
    assert reduce(add, map(Histogram.of, reversed(parts)), Histogram()) == whole


@given(st.lists(durations, max_size=50))
def test_json_gives_back_the_same(seconds: list[float]) -> None:
    """What the database keeps is what was put in."""
    histogram = Histogram.of(seconds)
    assert msgspec.json.decode(msgspec.json.encode(histogram), type=Histogram) == histogram


def test_weight_counts_a_value_many_times() -> None:
    """A batch's latency counts once for each of its messages; a batch of none counts nothing."""
    assert Histogram.of([2.0], weight=500_000) + Histogram.of([9.0], weight=0) == Histogram({381: 500_000})


def test_buckets_stay_where_they_are() -> None:
    """Kept histograms are merged with later ones: a value's bucket never changes. A clock ahead counts as no time."""
    seconds = [-5.0, 0.0, 0.001, 0.0011, 1.0, 60.0, 86_400.0]
    assert Histogram.of(seconds).buckets == {0: 3, 5: 1, 346: 1, 551: 1, 914: 1}


@pytest.mark.parametrize(("seconds", "expected"), [(0.0005, 0), (0.001, 1), (1, 3), (1.5, 3), (100, 4), (1e9, 5)])
def test_durations_up_to_a_bound_are_counted(seconds: float, expected: int) -> None:
    """Those of the bound itself, too, as far as the error allows to tell."""
    assert Histogram.of([0.0, 0.98, 0.98, 98.0, 1e6]).count_within(seconds) == expected


def test_quantile_of_nothing_is_unknown() -> None:
    """No message, no percentile."""
    assert Histogram.of([]).quantile(0.5) is None
    assert Histogram().count == 0


@pytest.mark.parametrize(("q", "expected"), [(0.5, 1.0), (0.9, 1.0), (0.95, 100.0), (1.0, 100.0)])
def test_quantile_is_the_nearest_rank(q: float, expected: float) -> None:
    """Of nine ones and a hundred: the ninth value is the 90th percentile, the tenth any above."""
    assert Histogram.of([1.0] * 9 + [100.0]).quantile(q) == pytest.approx(expected, rel=RELATIVE_ERROR)
