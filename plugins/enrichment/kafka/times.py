"""A time window in, the offsets that hold all of its messages out, and what of it has left the log.

Messages need not stand in the order of their times. What the broker proves is one side: `offsets_for_times(t)` is the
first message of `t` or later, so everything before it is earlier. The other side is the log's end, as it is when it is
asked for: a straggler of the window may stand anywhere before it. Who is in the window is then said by each message's
own timestamp, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import partitions_of, watermarks, with_retries
from enrichment.kafka.source import read_ranges
from enrichment.messages import OffsetRange, Window


class Bound(NamedTuple):
    """A partition's log, `[low, high)`, and its first message (as far as committed) at or after the window's start:
    `first`, or `high` where there is none."""

    partition: int
    low: int
    high: int
    first: int

    @property
    def range(self) -> OffsetRange:
        """All offsets at which a message of the window can be."""
        return OffsetRange(self.partition, self.first, self.high)


def find_bounds(consumer: Consumer, topic: str, start: int, timeout: float) -> list[Bound]:
    """The bounds of each of the topic's partitions for windows that begin at `start` (milliseconds)."""
    bounds = []
    for partition in partitions_of(consumer, topic, timeout):
        low, high = watermarks(consumer, topic, partition, timeout)
        offset = _first_at(consumer, TopicPartition(topic, partition, start), timeout)
        # A message that came in since the end was read is not of this plan.
        bounds.append(Bound(partition, low, high, min(offset, high) if offset >= 0 else high))
    return bounds


def _first_at(consumer: Consumer, asked: TopicPartition, timeout: float) -> int:
    """The broker's answer; negative when no message is that late."""
    answers = with_retries(lambda seconds: consumer.offsets_for_times([asked], timeout=seconds), timeout)
    if answers[0].error is not None:
        raise KafkaException(answers[0].error)
    return int(answers[0].offset)


class Loss(NamedTuple):
    """A partition whose log begins within or after the window: what stood before may have been of the window."""

    partition: int
    low: int
    first_at: int | None  # milliseconds; None where nothing is left
    whole: bool

    def __str__(self) -> str:
        left = "is empty" if self.first_at is None else f"begins at {to_text(self.first_at)}"
        return f"partition {self.partition} {left} (offset {self.low})"


def find_losses(clients: Clients, topic: str, bounds: list[Bound], window: Window) -> Iterator[Loss]:
    """The partitions that may have lost messages of the window.

    Nothing says what time a deleted message had. Where the log begins with a message from before the window, retention,
    which takes the oldest first, has not come to the window; where it never lost anything, neither.
    """
    for bound in bounds:
        if bound.low == 0:
            continue
        first_at = _first_time(clients, topic, OffsetRange(bound.partition, bound.low, bound.high))
        if first_at is None or first_at >= window.start:
            yield Loss(bound.partition, bound.low, first_at, first_at is None or first_at >= window.end)


def _first_time(clients: Clients, topic: str, log: OffsetRange) -> int | None:
    for chunk in read_ranges(clients, topic, [log]) if log.span else ():
        if len(chunk):
            return chunk.timestamps[0]
    return None


def to_text(milliseconds: int) -> str:
    """A time as people write it, to the millisecond; the number where no calendar goes so far."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms since 1970"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
