"""A time window in, the offsets that hold all of its messages out, and what of it has left the log.

Messages need not be in the order of their times. The broker proves one side: `offsets_for_times(t)` is the first
message of `t` or later, so everything before it is earlier. The other side is the end of the log at the time of asking:
a late message of the window may be anywhere before it. Within these bounds only a message's own timestamp decides
whether it is in the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from enrichment.batch import OffsetRange, ReplayWindow
from enrichment.kafka.asking import partitions_of, with_retries
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import watermarks
from enrichment.kafka.source import read_ranges


class Bound(NamedTuple):
    """A partition's log, `[low, high)`, and its first committed message at or after the window's start: `first`, or
    `high` without such a message."""

    partition: int
    low: int
    high: int
    first: int

    @property
    def range(self) -> OffsetRange:
        """All offsets at which a message of the window may be."""
        return OffsetRange(self.partition, self.first, self.high)


def find_bounds(consumer: Consumer, topic: str, start: int, timeout: float) -> list[Bound]:
    """The bounds of each of the topic's partitions for windows that begin at `start` (milliseconds)."""
    logs = {p: watermarks(consumer, topic, p, timeout) for p in partitions_of(consumer, topic, timeout)}
    first = _first_since(consumer, topic, logs, start, timeout)
    # A message that came in after the end was read is not in this plan.
    return [Bound(p, low, high, min(first.get(p, high), high)) for p, (low, high) in logs.items()]


def _first_since(consumer: Consumer, topic: str, partitions: Iterable[int], at: int, timeout: float) -> dict[int, int]:
    """The offset of each partition's first message of that time (milliseconds) or later, where there is one."""
    asked = [TopicPartition(topic, partition, at) for partition in partitions]
    answers = with_retries(lambda seconds: consumer.offsets_for_times(asked, timeout=seconds), timeout)
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {answer.partition: answer.offset for answer in answers if answer.offset >= 0}


class Loss(NamedTuple):
    """A partition whose log begins within or after the window: messages before may have been in the window."""

    partition: int
    low: int
    first_at: int | None  # milliseconds; None where nothing is left
    whole: bool

    def __str__(self) -> str:
        left = "is empty" if self.first_at is None else f"begins at {to_text(self.first_at)}"
        return f"partition {self.partition} {left} (offset {self.low})"


def find_losses(clients: Clients, topic: str, bounds: list[Bound], window: ReplayWindow) -> Iterator[Loss]:
    """The partitions that may have lost messages of the window.

    The times of deleted messages are unknown. Where the log begins with a message from before the window, or never lost
    any, retention, which deletes the oldest first, has not reached the window.
    """
    for bound in bounds:
        if bound.low == 0:
            continue
        first_at = _first_time(clients, topic, OffsetRange(bound.partition, bound.low, bound.high))
        if first_at is None or first_at >= window.start:
            yield Loss(bound.partition, bound.low, first_at, first_at is None or first_at >= window.end)


def _first_time(clients: Clients, topic: str, log: OffsetRange) -> int | None:
    for chunk in read_ranges(clients, topic, [log]):
        if len(chunk):
            return chunk.timestamps[0]
    return None


def to_text(milliseconds: int) -> str:
    """A time in ISO format, to the millisecond; the bare number where no calendar has it."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # a message's time may be anything, such as microseconds
        return f"{milliseconds} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
