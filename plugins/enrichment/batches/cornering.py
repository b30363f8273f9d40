"""After batches that failed because of a message in them: smaller batches of the lane, until that message is cornered.

Only the partitions that may hold it are suspects. They take turns with the others, which go on in full batches: a batch
fails as a whole, so the two never share one. A suspect takes less after each failure; a message that has failed alone
for an unknown reason is quarantined.
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
    """What a batch takes; it is `quarantined` when it has failed alone before."""

    ranges: tuple[OffsetRange, ...]
    quarantined: bool = False


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
    """Divide a lane's batch among its suspects or, if the lane's `latest` batch read one of them, among the other
    partitions, if messages wait there."""
    waiting = [b for b in backlog if b.span]
    others = [b for b in waiting if b.partition not in suspicions]
    suspects = [b for b in waiting if b.partition in suspicions]
    if others and (not suspects or not suspicions.keys().isdisjoint(latest)):
        return Share(share_out(others, size))
    # Where the smallest batch has failed comes first.
    depths = {b.partition: _depth(suspicions[b.partition], size) for b in suspects}
    alone, limit = deepest = max(depths.values(), key=lambda depth: (depth[0], -depth[1]))
    return Share(share_out([b for b in suspects if depths[b.partition] == deepest], limit), quarantined=alone)


def _depth(suspicion: Suspicion, size: int) -> tuple[bool, int]:
    """Whether the next offset has failed alone, and how many offsets the next batch takes, of `size` at most: fewer
    than failed last, but at least one."""
    smaller = min(size // SHRINK**suspicion.failures, suspicion.span // 2)
    return suspicion.is_alone, max(1, smaller)
