"""What is claimed after failures: suspects take less and less, the others go on in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.batch import OffsetRange
from enrichment.batches.cornering import SHRINK, Share, corner
from enrichment.kafka.offsets import Backlog
from enrichment.store.jobs import Suspicion

SIZE = 1_000


def waiting(*spans: int) -> list[Backlog]:
    """Partitions with so many messages each."""
    return [Backlog(partition, 0, 0, span) for partition, span in enumerate(spans)]


def suspected(alone: tuple[int, ...] = (), **found: tuple[int, int]) -> dict[int, Suspicion]:
    """Failures and smallest span by partition, which is named `p0` and so on; those that failed `alone`."""
    partitions = {int(name[1:]): numbers for name, numbers in found.items()}
    return {p: Suspicion(p, *numbers, is_alone=p in alone) for p, numbers in partitions.items()}


def test_partitions_without_fault_have_the_next_turn() -> None:
    """They are claimed in full, and the suspects afterwards, each time in turn."""
    backlog, suspicions = waiting(500, 500, 500), suspected(p1=(1, 500))
    others = Share((OffsetRange(0, 0, 500), OffsetRange(2, 0, 500)))
    assert corner(backlog, suspicions, {0, 1, 2}, SIZE) == others
    assert corner(backlog, suspicions, {0, 2}, SIZE) == Share((OffsetRange(1, 0, SIZE // SHRINK),))
    assert corner(backlog, suspicions, {1}, SIZE) == others


def test_suspect_goes_on_when_nothing_else_waits() -> None:
    """Nobody waits for partitions that have nothing to read."""
    assert corner(waiting(0, 500, 0), suspected(p1=(1, 500)), {1}, SIZE) == Share((OffsetRange(1, 0, 31),))


def test_others_go_on_when_the_suspects_have_nothing_to_read() -> None:
    """As after a batch that was over them."""
    assert corner(waiting(9, 0), suspected(p1=(1, 5)), {0}, SIZE) == Share((OffsetRange(0, 0, 9),))


@pytest.mark.parametrize(
    ("failures", "span", "taken"), [(1, 1000, 31), (2, 31, 1), (1, 40, 20), (1, 3, 1), (2, 2, 1), (9, 5, 1)]
)
def test_each_failure_makes_the_next_batch_smaller(failures: int, span: int, taken: int) -> None:
    """By the declared factor, and to less than half of what failed: a short backlog is no smaller by itself."""
    assert corner(waiting(5_000), suspected(p0=(failures, span)), (), SIZE) == Share((OffsetRange(0, 0, taken),))


def test_message_that_failed_alone_is_quarantined() -> None:
    """It alone, whatever else is suspected or waits more shortly."""
    suspicions = suspected(alone=(1,), p0=(4, 2), p1=(5, 1), p2=(1, 500))
    assert corner(waiting(2, 900, 500), suspicions, (), SIZE) == Share((OffsetRange(1, 0, 1),), quarantined=True)


def test_message_that_a_broker_refuses_in_every_form_is_not_quarantined() -> None:
    """What it would become is what is refused: it is tried alone, until it is taken."""
    assert corner(waiting(5), suspected(p0=(5, 1)), (), SIZE) == Share((OffsetRange(0, 0, 1),))


def test_message_that_failed_with_others_is_not_quarantined() -> None:
    """However often: nobody knows which of them it was."""
    assert corner(waiting(2, 900), suspected(p0=(9, 2), p1=(9, 2)), (), SIZE) == Share((OffsetRange(0, 0, 1),))


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=5).flatmap(
        lambda spans: st.tuples(
            st.just(spans),
            st.sets(
                st.integers(0, len(spans) - 1).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, spans[p] - 1))),
                max_size=3,
            ),
        )
    ),
    st.integers(1, 400),
    st.booleans(),
)
def test_whatever_breaks_batches_is_cornered(
    case: tuple[list[int], set[tuple[int, int]]], size: int, named: bool
) -> None:
    """Every message is published except those that break every batch, which are quarantined, whether or not a failure
    tells the partition; and those of partitions without fault wait for no more than every other run."""
    spans, breaking = case
    at = [0] * len(spans)
    failed: list[tuple[dict[int, tuple[int, int]], set[int]]] = []
    quarantined: set[tuple[int, int]] = set()
    latest: set[int] = set()
    for _ in range(3_000):
        backlog = [Backlog(p, at[p], 0, span) for p, span in enumerate(spans)]
        if not any(b.span for b in backlog):
            break
        suspicions = {}
        for b in backlog:
            over = [
                sum(end - start for q, (start, end) in ranges.items() if q in suspects)
                for ranges, suspects in failed
                if b.partition in suspects and ranges[b.partition][0] <= b.start < ranges[b.partition][1]
            ]
            if over and b.span:
                suspicions[b.partition] = Suspicion(b.partition, len(over), min(over), min(over) == 1)
        share = corner(backlog, suspicions, latest, size)
        latest = {r.partition for r in share.ranges}
        assert latest
        culprits = {(p, o) for p, o in breaking for r in share.ranges if r.partition == p and r.start <= o < r.end}
        if culprits and not share.quarantined:
            ranges = {r.partition: (r.start, r.end) for r in share.ranges}
            failed.append((ranges, {p for p, _ in culprits} if named else set(ranges)))
            continue
        if share.quarantined:
            assert {(r.partition, o) for r in share.ranges for o in range(r.start, r.end)} <= breaking
            quarantined |= culprits
        for r in share.ranges:
            at[r.partition] = r.end
    assert at == spans
    assert quarantined == breaking
