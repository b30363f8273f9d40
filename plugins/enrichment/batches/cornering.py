"""After batches that failed by what they held: what of a lane the next one takes, until what breaks them is cornered.

Only the partitions that may hold it are suspects. They take turns with the others, which go on in full batches: a batch
fails as a whole, so the two never share one. A suspect takes less after each failure; a message that has failed alone,
and nobody knows why, is set aside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from enrichment.batch import OffsetRange
from enrichment.kafka.offsets import Backlog, share_out
from enrichment.settings import KafkaSettings
from enrichment.store.jobs import Ledger, Suspicion

# How much smaller the next batch is where one failed: half a million messages are cornered in four steps.
SHRINK = 32


class Share(NamedTuple):
    """What a batch takes; `set_aside` says that it has failed alone before."""

    ranges: tuple[OffsetRange, ...]
    set_aside: bool = False


def shares_of(
    plan: Mapping[int, tuple[OffsetRange, ...]], backlog: Sequence[Backlog], ledger: Ledger, kafka: KafkaSettings,
    size: int,
) -> dict[int, Share]:  # fmt: skip
    """What the batch of each planned lane takes: what was planned, unless some of its partitions are suspects."""
    topic, group_id = kafka.input_topic, kafka.consumer_group
    suspicions = ledger.suspicions(topic, group_id, {b.partition: b.start for b in backlog if b.span})
    shares = {lane: Share(ranges) for lane, ranges in plan.items()}
    for lane in plan.keys() & {partition % kafka.lanes for partition in suspicions}:
        own = [b for b in backlog if b.partition % kafka.lanes == lane]
        shares[lane] = corner(own, suspicions, ledger.latest_partitions(topic, group_id, lane), size)
    return shares


def corner(
    backlog: Sequence[Backlog], suspicions: Mapping[int, Suspicion], latest: Collection[int], size: int
) -> Share:
    """Share a batch of a lane out: among its suspects, or, if the lane's `latest` batch was over one of them, among the
    other partitions, if something waits there."""
    waiting = [b for b in backlog if b.span]
    others = [b for b in waiting if b.partition not in suspicions]
    suspects = [b for b in waiting if b.partition in suspicions]
    if others and (not suspects or not suspicions.keys().isdisjoint(latest)):
        return Share(share_out(others, size))
    # Where the smallest batch has failed comes first.
    depths = {b.partition: _depth(suspicions[b.partition], size) for b in suspects}
    alone, limit = deepest = max(depths.values(), key=lambda depth: (depth[0], -depth[1]))
    return Share(share_out([b for b in suspects if depths[b.partition] == deepest], limit), set_aside=alone)


def _depth(suspicion: Suspicion, size: int) -> tuple[bool, int]:
    """Whether the next offset has failed alone, and how many are taken from it on, where a batch takes `size`: fewer
    than have failed, while there are any."""
    smaller = min(size // SHRINK**suspicion.failures, suspicion.span // 2)
    return suspicion.is_alone, max(1, smaller)
