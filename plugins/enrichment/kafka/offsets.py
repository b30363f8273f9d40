"""Claim: from the group's committed offsets to the last stable ones, cut into batches of one lane each.

Progress is nothing but the group's committed offsets. What is read here is planned once and then fixed in the ledger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from enrichment.errors import OffsetsLost, OffsetsMoved
from enrichment.kafka.clients import Clients
from enrichment.messages import OffsetRange

log = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE_SECONDS = 3.0  # a transaction in good health commits well within it
SLICE_SECONDS = 1.0  # no longer inside a C call: signals (a stop from the UI, a timeout) are only seen between calls


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one partition: `committed` (None: never), the log's `low` and its last stable offset `high`."""

    partition: int
    committed: int | None
    low: int
    high: int

    @property
    def start(self) -> int:
        """The first offset to read."""
        return self.low if self.committed is None else max(self.committed, self.low)

    @property
    def lost(self) -> int:
        """Offsets that were never read and have left the log."""
        return max(0, self.low - self.committed) if self.committed is not None else 0

    @property
    def span(self) -> int:
        """Offsets that wait: an upper bound of the messages."""
        return max(0, self.high - self.start)


def with_retries(call: Callable[[float], T], timeout: float) -> T:
    """Repeat `call(seconds)` in short slices while the broker answers with a retriable error, `timeout` seconds at
    most.

    A new broker's first `committed()` can answer NOT_COORDINATOR; a `read_committed` one waits while a transaction on
    the offsets is open. Both are over soon or not at all.
    """
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            return call(max(0.1, min(SLICE_SECONDS, left)))
        except KafkaException as refused:
            error = refused.args[0]
            transient = error.retriable() or error.code() in (
                KafkaError._TIMED_OUT,
                KafkaError._TRANSPORT,
                KafkaError._WAIT_COORD,
                KafkaError.NOT_COORDINATOR,
                KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
                KafkaError.COORDINATOR_NOT_AVAILABLE,
            )
            if not transient or left <= 0:
                raise
            time.sleep(0.05)


def partitions_of(consumer: Consumer, topic: str, timeout: float) -> list[int]:
    """The topic's partitions in order. Raises `KafkaException` when there is no such topic."""
    metadata = with_retries(lambda seconds: consumer.list_topics(topic, timeout=seconds), timeout).topics[topic]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    return sorted(metadata.partitions)


def committed_offsets(
    consumer: Consumer, topic: str, partitions: Iterable[int], timeout: float
) -> dict[int, int | None]:
    """The group's committed offset of each partition, None where it has none."""
    asked = [TopicPartition(topic, partition) for partition in partitions]
    answers = with_retries(lambda seconds: consumer.committed(asked, timeout=seconds), timeout)
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {answer.partition: answer.offset if answer.offset >= 0 else None for answer in answers}


def read_backlog(
    consumer: Consumer, topic: str, timeout: float, partitions: Sequence[int] | None = None
) -> list[Backlog]:
    """What waits in the partitions (all of the topic's, or those named)."""
    chosen = partitions_of(consumer, topic, timeout)
    if partitions is not None:
        unknown = sorted(set(partitions) - set(chosen))
        if unknown:
            raise ValueError(f"topic {topic} has no partitions {unknown}; it has {chosen[0]} to {chosen[-1]}")
        chosen = sorted(set(partitions))
    committed = committed_offsets(consumer, topic, chosen, timeout)
    ends = {partition: watermarks(consumer, topic, partition, timeout) for partition in chosen}
    return [Backlog(partition, committed[partition], *ends[partition]) for partition in chosen]


def watermarks(consumer: Consumer, topic: str, partition: int, timeout: float) -> tuple[int, int]:
    """Where a partition's log starts and, for a `read_committed` consumer, its last stable offset."""
    where = TopicPartition(topic, partition)
    return with_retries(lambda seconds: consumer.get_watermark_offsets(where, timeout=seconds, cached=False), timeout)


def log_ends(clients: Clients, topic: str) -> tuple[OffsetRange, ...]:
    """Empty ranges at the end of each partition's log, open transactions included: what is sent later lies behind."""
    timeout = clients.settings.request_timeout_sec
    with clients.offsets_reader("read_uncommitted") as consumer:
        ends = {p: watermarks(consumer, topic, p, timeout)[1] for p in partitions_of(consumer, topic, timeout)}
    return tuple(OffsetRange(partition, end, end) for partition, end in ends.items())


def read_settled_backlog(clients: Clients, partitions: Sequence[int] | None = None) -> list[Backlog]:
    """What waits in the input topic, once nothing is in between any more.

    While a transaction on the group's offsets is open, the broker holds the answer back. A publisher that died leaves
    one behind until its timeout: taking over its lane ends it.
    """
    settings = clients.settings
    with clients.offsets_reader() as consumer:
        try:
            backlog = read_backlog(consumer, settings.input_topic, PATIENCE_SECONDS, partitions)
        except KafkaException as refused:
            if refused.args[0].code() != KafkaError._TIMED_OUT:
                raise
            log.warning("offsets.held_back group=%s taking_over_lanes=%d", settings.consumer_group, settings.lanes)
            for lane in range(settings.lanes):
                with clients.lane_producer(lane, settings.max_message_bytes) as producer:
                    take_over(producer, settings.request_timeout_sec)
            backlog = read_backlog(consumer, settings.input_topic, settings.request_timeout_sec, partitions)
        if settle_lost(consumer, settings.input_topic, backlog, settings.offsets_lost_policy):
            backlog = read_backlog(consumer, settings.input_topic, settings.request_timeout_sec, partitions)
    return backlog


def take_over(producer: Producer, timeout: float) -> None:
    """Become the lane's only publisher: whoever was is fenced, and what it left open is aborted."""
    # Without a connection that is already up, `init_transactions` waits half a second for one.
    with_retries(lambda seconds: producer.list_topics(timeout=seconds), timeout)
    with_retries(producer.init_transactions, timeout)


def settle_lost(consumer: Consumer, topic: str, backlog: Sequence[Backlog], policy: str) -> int:
    """Deal with unread offsets that have left the log, by the declared policy; returns how many there are.

    `fail` raises `OffsetsLost`. `earliest` moves the group to the log's start, so that what is claimed next is what
    publishing will find the group at.
    """
    lost = [b for b in backlog if b.lost]
    if not lost:
        return 0
    where = ", ".join(f"partition {b.partition}: committed {b.committed}, log starts at {b.low}" for b in lost)
    count = sum(b.lost for b in lost)
    if policy == "fail":
        raise OffsetsLost(
            f"{count} unread offsets of {topic} have left the log ({where}). Set KAFKA_OFFSETS_LOST_POLICY=earliest to "
            "go on at the log's start and report the gap, or move the group yourself."
        )
    log.error("offsets.lost topic=%s offsets=%d going_on_at=earliest (%s)", topic, count, where)
    consumer.commit(offsets=[TopicPartition(topic, b.partition, b.low) for b in lost], asynchronous=False)
    return count


def check_progress(topic: str, group_id: str, backlog: Sequence[Backlog], published: Mapping[int, int]) -> None:
    """Refuse to publish again what `published` says that the group has: up to which offset, by partition.

    Kafka forgets the offsets of a group that has not committed for long (`offsets.retention.minutes`), and people move
    groups. A log that ends before what was published from it is another one: the topic was made anew. Raises
    `OffsetsMoved`.
    """
    astray = [
        (b, end)
        for b in backlog
        if (end := published.get(b.partition)) is not None
        and end <= b.high
        and (b.start < end or (b.committed is None and b.start != end))
    ]
    if astray:
        where = ", ".join(f"partition {b.partition}: at {b.committed}, published to {end}" for b, end in astray)
        commands = "\n".join(
            f"kafka-consumer-groups.sh --bootstrap-server <brokers> --group {group_id} --topic {topic}:{b.partition} "
            f"--reset-offsets --to-offset {end} --execute"
            for b, end in astray
        )
        raise OffsetsMoved(
            f"group {group_id} is not where it has published to ({where}): nobody committed for longer than the "
            "brokers' offsets.retention.minutes, or somebody moved it. Nothing was claimed. To publish the past again, "
            f"use stacklens_replay; to go on, set the offsets:\n{commands}"
        )


def plan_ranges(
    backlog: Sequence[Backlog], lanes: int, batch_size: int, batches: int
) -> dict[int, tuple[OffsetRange, ...]]:
    """Ranges by lane: those `batches` lanes that have most to read, each `batch_size` offsets at most.

    A batch is shared out so that no partition is left to wait: each gets an equal part, and what one does not need goes
    to the others.
    """
    waiting: dict[int, list[Backlog]] = {}
    for b in backlog:
        if b.span:
            waiting.setdefault(b.partition % lanes, []).append(b)
    fullest = sorted(waiting, key=lambda lane: (-sum(b.span for b in waiting[lane]), lane))[:batches]
    return {lane: share_out(waiting[lane], batch_size) for lane in sorted(fullest)}


def share_out(backlog: Sequence[Backlog], size: int) -> tuple[OffsetRange, ...]:
    """Give `size` offsets to the partitions, the shortest first, each at most its equal part of what is left."""
    ranges, left = [], size
    shortest_first = sorted(backlog, key=lambda b: (b.span, b.partition))
    for served, b in enumerate(shortest_first):
        take = min(b.span, -(-left // (len(shortest_first) - served)))
        left -= take
        if take:
            ranges.append(OffsetRange(b.partition, b.start, b.start + take))
    return tuple(sorted(ranges))
