"""What a group has committed, and whether publishing committed it: publishing stamps each offset.

The stamp is the metadata of the committed offset, so it moves in the transaction with the offset and can never lag
behind it. A tool that moves a group leaves no stamp, or one that names another offset or another topic's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from confluent_kafka import TopicPartition

from enrichment.batch import Batch, Tail
from enrichment.errors import LanesChanged


class Stamp(msgspec.Struct, frozen=True, omit_defaults=True):
    """The batch that committed an offset, the id of its topic, the group's number of lanes, and the last message before
    the offset, if the batch had one."""

    end: int
    batch_id: str
    topic_id: str | None = None
    lanes: int | None = None
    tail: Tail | None = None

    @classmethod
    def read(cls, metadata: str | None, offset: int) -> Stamp | None:
        """The stamp of a committed offset; None without one, or with one that was made for another offset."""
        try:
            stamp = msgspec.json.decode(metadata or "", type=cls)
        except msgspec.DecodeError:
            return None
        return stamp if stamp.end == offset else None

    def to_metadata(self) -> str:
        """As Kafka keeps it."""
        return msgspec.json.encode(self).decode()


class Committed(NamedTuple):
    """A group's offset in a partition, or None."""

    offset: int | None
    stamp: Stamp | None = None


def stamped(batch: Batch) -> list[TopicPartition]:
    """The offsets that publishing a batch commits."""
    tails = {tail.partition: tail for tail in batch.tails}
    stamps = {
        r.partition: Stamp(r.end, batch.batch_id, batch.topic_id, batch.lanes, tails.get(r.partition))
        for r in batch.ranges
    }
    return [TopicPartition(batch.topic, p, stamp.end, stamp.to_metadata()) for p, stamp in stamps.items()]


def is_published(batch: Batch, committed: Mapping[int, Committed]) -> bool:
    """Whether publishing, and nothing else, brought the group to or past the end of each range.

    For a batch claimed by an earlier release, which stamped nothing, the offsets alone decide.
    """
    for r in batch.ranges:
        offset, stamp = committed[r.partition]
        if offset is None or offset < r.end or (batch.topic_id is not None and stamp is None):
            return False
        if stamp is not None and None not in (stamp.topic_id, batch.topic_id) and stamp.topic_id != batch.topic_id:
            return False  # published to, but of another topic of that name
    return True


def check_lanes(batch: Batch, committed: Mapping[int, Committed]) -> None:
    """Raise `LanesChanged` when the group's offsets were published with another number of lanes than the batch's."""
    for partition, (_, stamp) in committed.items():
        if stamp is not None and None not in (stamp.lanes, batch.lanes) and stamp.lanes != batch.lanes:
            raise LanesChanged(
                f"batch {batch.batch_id} was claimed with {batch.lanes} lanes, but {stamp.batch_id} was published to "
                f"partition {partition} with {stamp.lanes}: another installation publishes for group "
                f"{batch.group_id} with another number. Nothing was published. Stop the other one; if there is none, "
                f"`python -m enrichment.group set-lanes {batch.lanes}` makes that the group's number for sure"
            )
