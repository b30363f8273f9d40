"""Durations in, a histogram out that can be merged: the percentiles of a day are those of its hours' messages, not an
average of averages.

Buckets grow by a constant factor, so a quantile is off by at most `RELATIVE_ERROR` for any durations. Merging adds
counts: exact, in any order. Stored as a JSON object from bucket to count. (The idea is DDSketch's. Its Python library
takes values one by one and stores protobuf, which SQL cannot read.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

# Stored histograms are merged with new ones: neither of these may ever change.
RELATIVE_ERROR = 0.01
SMALLEST_SECONDS = 0.001  # bucket 0 has durations up to this, including the negative ones of skewed clocks
_GROWTH = math.log((1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR))


class Histogram(msgspec.Struct, frozen=True):
    """How many durations fall into each bucket. Bucket n > 0 has those in `(SMALLEST * g^(n-1), SMALLEST * g^n]`."""

    buckets: dict[int, int] = {}

    @classmethod
    def of(cls, seconds: npt.ArrayLike, weight: int = 1) -> Histogram:
        """Count durations, each `weight` times."""
        values = np.maximum(np.asarray(seconds, dtype=np.float64), SMALLEST_SECONDS)
        counts = weight * np.bincount(np.ceil(np.log(values / SMALLEST_SECONDS) / _GROWTH).astype(np.int64).ravel())
        return cls({number: int(counts[number]) for number in np.flatnonzero(counts).tolist()})

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.buckets.values())

    def count_within(self, seconds: float) -> int:
        """How many durations are at most this, which is off as `quantile` is."""
        return sum(count for number, count in self.buckets.items() if _middle(number) <= seconds)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram.total([self, other])

    @classmethod
    def total(cls, histograms: Iterable[Histogram]) -> Histogram:
        """The sum of histograms."""
        merged: dict[int, int] = {}
        for histogram in histograms:
            for number, count in histogram.buckets.items():
                merged[number] = merged.get(number, 0) + count
        return cls(merged)

    def quantile(self, q: float) -> float | None:
        """The duration that a share `q` of all do not exceed (nearest rank), or None without any.

        Off by `RELATIVE_ERROR` at most, or by `SMALLEST_SECONDS` where it is shorter than that.
        """
        left = max(1, math.ceil(q * self.count))
        for number in sorted(self.buckets):
            left -= self.buckets[number]
            if left <= 0:
                return _middle(number)
        return None


def _middle(number: int) -> float:
    """The value that is within the error of both ends of a bucket."""
    upper = SMALLEST_SECONDS * math.exp(number * _GROWTH)
    return upper * (1 - RELATIVE_ERROR) if number else SMALLEST_SECONDS
