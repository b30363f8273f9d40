"""Claims: from what waits in the partitions to offset ranges by lane."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.batch import OffsetRange
from enrichment.kafka.offsets import Backlog, look_back, plan_ranges

backlogs = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.none() | st.integers(0, 9000)), min_size=1, max_size=12
).map(lambda parts: [Backlog(p, committed, low, low + span) for p, (low, span, committed) in enumerate(parts)])


@given(backlogs, st.integers(1, 5), st.integers(1, 4000), st.integers(1, 5))
def test_plan_stays_within_its_bounds(backlog: list[Backlog], lanes: int, size: int, batches: int) -> None:
    """A claim takes at most `batches` lanes, `size` offsets in each, from where the group is, never past the log's
    end."""
    plan = plan_ranges(backlog, lanes, size, batches)
    assert len(plan) <= batches
    for lane, ranges in plan.items():
        assert 0 < sum(r.span for r in ranges) <= size
        assert {r.partition % lanes for r in ranges} == {lane}
        for r in ranges:
            assert backlog[r.partition].start == r.start < r.end <= backlog[r.partition].high


@given(backlogs, st.integers(1, 5), st.integers(1, 4000))
def test_plan_leaves_nothing_that_fits(backlog: list[Backlog], lanes: int, size: int) -> None:
    """With room for every lane, a batch is smaller than its bound only when its lane has no more to read."""
    plan = plan_ranges(backlog, lanes, size, lanes)
    for lane in range(lanes):
        waiting = sum(b.span for b in backlog if b.partition % lanes == lane)
        assert sum(r.span for r in plan.get(lane, ())) == min(size, waiting)


def test_batch_is_shared_out_so_that_no_partition_waits() -> None:
    """A long partition does not push a short one out of the batch."""
    backlog = [Backlog(0, 0, 0, 1_000_000), Backlog(1, 5, 0, 15)]
    assert plan_ranges(backlog, 1, 100, 1) == {0: (OffsetRange(0, 0, 90), OffsetRange(1, 5, 15))}


def test_fullest_lanes_go_first_when_a_run_takes_few_batches() -> None:
    """A run that may take one batch takes it from the lane with the most to read."""
    backlog = [Backlog(0, 0, 0, 10), Backlog(1, 0, 0, 500)]
    assert list(plan_ranges(backlog, 2, 100, 1)) == [1]


@pytest.mark.parametrize(
    ("committed", "low", "start", "lost"), [(None, 7, 7, 0), (3, 7, 7, 4), (7, 7, 7, 0), (9, 7, 9, 0)]
)
def test_backlog_starts_at_the_group_or_at_the_log(committed: int | None, low: int, start: int, lost: int) -> None:
    """A group without offsets starts at the log's start; one behind it has lost what lies between."""
    backlog = Backlog(0, committed, low, 20)
    assert (backlog.start, backlog.lost, backlog.span) == (start, lost, 20 - start)


@pytest.mark.parametrize(
    ("committed", "messages", "starts"),
    [
        ([50, 50], 10, [45, 45]),
        ([50, 50], 11, [44, 45]),
        ([50, 50], 1_000, [0, 0]),
        ([None, 50], 10, [0, 50]),
        ([None, None], 10, [0, 0]),
        ([50, 50], 0, [50, 50]),
        ([40, 50], 10, [40, 50]),
        ([44, 50], 10, [42, 48]),
    ],
    ids=[
        "equal parts", "an odd one", "all there is", "enough waits", "nothing was read", "none",
        "just enough waits", "some wait",
    ],
)  # fmt: skip
def test_looking_back_takes_what_lacks(committed: list[int | None], messages: int, starts: list[int]) -> None:
    """From each partition as much as it has of an equal part, never what waits or has left the log."""
    backlog = [Backlog(partition, at, 0, 50) for partition, at in enumerate(committed)]
    assert sorted(b.start for b in look_back(backlog, messages)) == sorted(starts)


def test_looking_back_takes_more_from_others_where_one_has_little() -> None:
    """A short partition gives all that it has."""
    found = look_back([Backlog(0, 50, 0, 50), Backlog(1, 3, 0, 3)], 10)
    assert {b.partition: b.start for b in found} == {0: 43, 1: 0}


def test_looking_back_ends_where_the_log_begins() -> None:
    """What has left the log is not there to be tried."""
    assert [b.start for b in look_back([Backlog(0, 50, 48, 50)], 10)] == [48]
