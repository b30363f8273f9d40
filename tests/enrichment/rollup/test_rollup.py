"""Hours and days from batches: sums against figures worked out by hand, and that a day is what all its batches say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.caches.base import LookupCounts
from enrichment.rollup.rollup import BatchRow, Rollup, StageRow, percentiles, sum_up
from enrichment.store.histogram import Histogram

START = datetime(2024, 1, 15, 10, tzinfo=UTC)


def batch(seconds: float = 2.0, enriched: int = 10, partial: int = 0, dead: int = 0, **values: Any) -> BatchRow:
    """A batch that took so long from claim to publication."""
    defaults: dict[str, Any] = {"value_bytes": 0, "errors_by_reason": {}, "cache_counts": {}, "lag": {}, "stages": {}}
    return BatchRow(
        claimed_at=START,
        published_at=START + timedelta(seconds=seconds),
        messages_read=enriched + partial + dead,
        messages_enriched=enriched,
        messages_partial=partial,
        messages_dead=dead,
        **defaults | values,
    )


def test_hour_says_what_its_batches_came_to() -> None:
    """Counts, rates by cache, tier and reason, largest lag, figures of each stage."""
    hour = Rollup.of_hour(
        [
            batch(
                seconds=1, enriched=80, partial=15, dead=5, value_bytes=1_000,
                errors_by_reason={"user-not-found": 15, "invalid-json": 5},
                cache_counts={"geo": LookupCounts(messages=90, memory=60, postgres=21, misses=9)},
                lag={0: 7, 1: 0},
                stages={"geo": StageRow(100, 0.5), "publish": StageRow(100, 0.25, Histogram.of([3.0] * 100))},
            ),
            batch(
                seconds=4, enriched=900, value_bytes=9_000,
                cache_counts={
                    "geo": LookupCounts(messages=10, misses=10), "user": LookupCounts(messages=100, memory=100),
                },
                lag={0: 5, 1: 4},
                stages={"geo": StageRow(900, 1.5)},
            ),
        ],
        failed=3,
    )  # fmt: skip
    assert (hour.hours, hour.batches, hour.batches_failed, hour.metric_rows) == (1, 2, 3, 3)
    assert (hour.messages, hour.messages_enriched, hour.messages_partial, hour.messages_dead) == (1000, 980, 15, 5)
    assert hour.value_bytes == 10_000
    assert hour.messages_per_second == pytest.approx(1000 / 3600)
    assert hour.hit_rate == (60 + 21 + 100) / 200
    assert hour.hit_rates == {
        "geo": {"memory": 0.6, "postgres": 0.21, "all": 0.81},
        "user": {"memory": 1.0, "postgres": 0.0, "all": 1.0},
    }
    assert (hour.error_rate, hour.dead_letter_rate) == (0.02, 0.005)
    assert hour.error_rates == {"user-not-found": 0.015, "invalid-json": 0.005}
    assert (hour.lag, hour.lag_max) == ({0: 7, 1: 4}, 9)
    geo = hour.stage_figures["geo"]
    assert (geo["messages"], geo["seconds"], geo["messages_per_second"]) == (1000, 2.0, 500.0)
    assert geo["p50"] == pytest.approx(0.5, rel=0.01)
    assert geo["p99"] == pytest.approx(1.5, rel=0.01)


def test_latency_counts_batches_and_messages_apart() -> None:
    """Half of the batches took a second, nearly all messages four: each percentile says whose it is."""
    hour = Rollup.of_hour([batch(seconds=1, enriched=100), batch(seconds=4, enriched=900)])
    assert percentiles(hour.batch_latency) == {
        "p50": pytest.approx(1, rel=0.01), "p95": pytest.approx(4, rel=0.01), "p99": pytest.approx(4, rel=0.01),
    }  # fmt: skip
    assert hour.message_latency.quantile(0.1) == pytest.approx(1, rel=0.01)
    assert hour.message_latency.quantile(0.5) == pytest.approx(4, rel=0.01)
    assert hour.message_latency.count == 1000


def test_hour_without_a_batch_is_zeros_and_unknowns() -> None:
    """Nothing happened: that is known of messages, and nothing is known of rates, lag and freshness."""
    hour = Rollup.of_hour([])
    assert (hour.hours, hour.batches, hour.messages, hour.messages_per_second) == (1, 0, 0, 0.0)
    assert [hour.hit_rate, hour.error_rate, hour.dead_letter_rate, hour.lag_max] == [None] * 4
    assert (hour.hit_rates, hour.error_rates, hour.lag) == ({}, {}, {})
    assert percentiles(hour.freshness) == {"p50": None, "p95": None, "p99": None}


def test_lag_of_nothing_left_is_zero_and_not_unknown() -> None:
    """A claim that took all says so; an hour without a claim takes nothing away from it."""
    assert (Rollup.of_hour([batch(lag={0: 0, 1: 0})]) + Rollup.of_hour([])).lag_max == 0


batches = st.builds(
    batch,
    seconds=st.floats(min_value=0.01, max_value=3_000),
    enriched=st.integers(0, 1_000),
    partial=st.integers(0, 50),
    dead=st.integers(0, 5),
    errors_by_reason=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 9)),
    cache_counts=st.dictionaries(
        st.sampled_from(["geo", "user"]),
        st.builds(LookupCounts, messages=st.integers(1, 9), memory=st.integers(0, 9), misses=st.integers(0, 9)),
    ),
    lag=st.dictionaries(st.integers(0, 3), st.integers(0, 10_000)),
    stages=st.dictionaries(
        st.sampled_from(["drain", "publish"]),
        st.builds(
            StageRow,
            messages=st.integers(0, 9),
            # Sums of these are exact, in whatever order.
            seconds=st.integers(0, 64).map(lambda n: n / 64),
            freshness=st.none() | st.lists(st.floats(0, 1e6), max_size=9).map(Histogram.of),
        ),
    ),
)


@given(st.lists(st.lists(batches, max_size=4), max_size=24))
def test_day_is_what_all_its_batches_say(hours: list[list[BatchRow]]) -> None:
    """Adding up hours gives what the day's batches give at once, each count, rate and percentile: no average of
    averages."""
    day = sum_up(Rollup.of_hour(hour) for hour in hours)
    whole = Rollup.of_hour([row for hour in hours for row in hour])
    assert day == msgspec.structs.replace(whole, hours=len(hours))
    assert percentiles(day.message_latency) == percentiles(whole.message_latency)


@given(st.lists(batches, max_size=5))
def test_rollup_survives_the_database(rows: list[BatchRow]) -> None:
    """What is kept as JSON is read back as it was: later hours are added to it."""
    hour = Rollup.of_hour(rows)
    kept = msgspec.json.decode(msgspec.json.encode(hour))
    assert msgspec.convert(kept, Rollup, str_keys=True) == hour
