"""Claim: from the group's committed offsets to the last stable ones, cut into batches of one lane each.

The group's committed offsets are the only record of progress (`enrichment.group.progress` compares them with what was
published). What is read here is planned once and then fixed in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from enrichment.batch import OffsetRange
from enrichment.errors import RunRefused, SettingsError, TransactionOpen
from enrichment.kafka.asking import EARLIEST, LATEST, log_offsets, partitions_of, with_retries
from enrichment.kafka.clients import Clients
from enrichment.kafka.settled import await_stable
from enrichment.kafka.stamps import Committed, Stamp

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 3.0  # a healthy transaction commits well within it
# How long a claim waits for committed messages to be visible. What a longer transaction hides is left to a later run.
VISIBLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in one partition: `committed` (None: never), the log's `low` and its last stable offset `high`.

    `stamp` names the batch that was published up to `committed`; None where publishing did not commit it.
    """

    partition: int
    committed: int | None
    low: int
    high: int
    stamp: Stamp | None = None

    @property
    def start(self) -> int:
        """The first offset to read."""
        return self.low if self.committed is None else max(self.committed, self.low)

    @property
    def lost(self) -> int:
        """The number of offsets that were never read and have left the log."""
        return max(0, self.low - self.committed) if self.committed is not None else 0

    @property
    def span(self) -> int:
        """The number of offsets that wait: an upper bound of the messages."""
        return max(0, self.high - self.start)


def input_partitions(consumer: Consumer, topic: str, timeout: float) -> list[int]:
    """The partitions of the topic that is drained. Raises `SettingsError` when there is no such topic."""
    try:
        return partitions_of(consumer, topic, timeout)
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        raise SettingsError(
            f"KAFKA_INPUT_TOPIC={topic!r}: the brokers have no such topic; `python -m enrichment.kafka` creates it"
        ) from refused


def committed_offsets(
    consumer: Consumer, topic: str, partitions: Iterable[int], timeout: float
) -> dict[int, int | None]:
    """The group's committed offset of each partition, None where it has none."""
    found = read_committed(consumer, topic, partitions, timeout)
    return {partition: committed.offset for partition, committed in found.items()}


def read_committed(consumer: Consumer, topic: str, partitions: Iterable[int], timeout: float) -> dict[int, Committed]:
    """What the group has committed in each partition. Raises `TransactionOpen` when the brokers do not answer: they
    hold the answer back from a `read_committed` consumer while a transaction on these offsets is open."""
    asked = [TopicPartition(topic, partition) for partition in partitions]
    try:
        answers = with_retries(lambda seconds: consumer.committed(asked, timeout=seconds), timeout)
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError._TIMED_OUT:
            raise
        raise TransactionOpen(
            f"the brokers did not say within {timeout:g} s what the group has committed in {topic}: a transaction on "
            "its offsets is open that no lane of it owns, or the group's coordinator does not answer. It is tried "
            "again; `kafka-transactions.sh --bootstrap-server <brokers> list` shows what is open"
        ) from refused
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {
        answer.partition: Committed(answer.offset, Stamp.read(answer.metadata, answer.offset))
        if answer.offset >= 0
        else Committed(None)
        for answer in answers
    }


def read_backlog(
    consumer: Consumer, admin: AdminClient, topic: str, timeout: float, partitions: Sequence[int] | None = None
) -> list[Backlog]:
    """What waits in the partitions (all of the topic's, or those named). Raises `SettingsError` when there is no such
    topic, `RunRefused` when it has no such partition."""
    chosen = input_partitions(consumer, topic, timeout)
    if partitions:
        unknown = sorted(set(partitions) - set(chosen))
        if unknown:
            raise RunRefused(f"topic {topic} has no partitions {unknown}; it has {chosen[0]} to {chosen[-1]}")
        chosen = sorted(set(partitions))
    committed = read_committed(consumer, topic, chosen, timeout)
    homes = [TopicPartition(topic, partition) for partition in chosen]
    lows, highs = (log_offsets(admin, homes, which, timeout) for which in (EARLIEST, LATEST))
    return [Backlog(p, committed[p].offset, lows[topic, p], highs[topic, p], committed[p].stamp) for p in chosen]


def watermarks(consumer: Consumer, topic: str, partition: int, timeout: float) -> tuple[int, int]:
    """The start of a partition's log and, for a `read_committed` consumer, its last stable offset."""
    where = TopicPartition(topic, partition)
    return with_retries(lambda seconds: consumer.get_watermark_offsets(where, timeout=seconds, cached=False), timeout)


def held_ranges(clients: Clients, topic: str, isolation: str = "read_committed") -> tuple[OffsetRange, ...]:
    """The range of each partition of a topic, as far as a consumer of this isolation sees it."""
    timeout = clients.settings.request_timeout_sec
    with clients.offsets_reader(isolation) as consumer:
        partitions = partitions_of(consumer, topic, timeout)
        return tuple(OffsetRange(p, *watermarks(consumer, topic, p, timeout)) for p in partitions)


def log_ends(clients: Clients, topic: str) -> tuple[OffsetRange, ...]:
    """Empty ranges at the end of each partition's log, open transactions included: later messages lie after them."""
    return tuple(OffsetRange(r.partition, r.end, r.end) for r in held_ranges(clients, topic, "read_uncommitted"))


def read_settled_backlog(
    clients: Clients, partitions: Sequence[int] | None = None, reader: Consumer | None = None
) -> list[Backlog]:
    """What waits in the input topic, once no open transaction hides it.

    While a transaction on the group's offsets is open, the broker holds the answer back. A publisher that died leaves
    one open until its timeout: taking over its lane aborts it. Messages of transactions committed before are in the
    backlog; those hidden by one that stays open are not. `reader` is an existing consumer to use.
    """
    settings = clients.settings
    with clients.offsets_reader() if reader is None else nullcontext(reader) as consumer:
        # Asked first: it names a topic that does not exist.
        known = input_partitions(consumer, settings.input_topic, settings.request_timeout_sec)
        await_stable(clients, settings.input_topic, seconds=VISIBLE_SECONDS, partitions=partitions)
        try:
            backlog = read_backlog(consumer, clients.admin(), settings.input_topic, PATIENCE_SECONDS, partitions)
        except TransactionOpen:
            log.warning("offsets.held_back group=%s taking_over_lanes=%d", settings.consumer_group, settings.lanes)
            fence_lanes(clients, range(min(settings.lanes, 1 + max(known))))
            backlog = read_backlog(
                consumer, clients.admin(), settings.input_topic, settings.request_timeout_sec, partitions
            )
    return backlog


def commit(consumer: Consumer, offsets: Sequence[TopicPartition], timeout: float) -> None:
    """Commit offsets for the consumer's group, all of them. Raises `KafkaException`."""
    for partition in with_retries(lambda _: consumer.commit(offsets=list(offsets), asynchronous=False), timeout):
        if partition.error is not None:
            raise KafkaException(partition.error)


def commit_as(producer: Producer, consumer: Consumer, offsets: Sequence[TopicPartition], timeout: float) -> None:
    """Commit offsets for the consumer's group in a transaction of its own; fails if the publisher has been fenced."""
    group = consumer.consumer_group_metadata()
    producer.begin_transaction()
    with_retries(lambda seconds: producer.send_offsets_to_transaction(list(offsets), group, seconds), timeout)
    with_retries(producer.commit_transaction, timeout)


def fence_lanes(clients: Clients, lanes: Iterable[int]) -> None:
    """Fence the publishers of these lanes and abort their open transactions."""
    settings = clients.settings
    for lane in lanes:
        with clients.lane_producer(lane, settings.max_message_bytes) as producer:
            take_over(producer, settings.request_timeout_sec)


def take_over(producer: Producer, timeout: float) -> None:
    """Fence any earlier publisher of the lane and abort its open transaction. Raises `SettingsError` when the brokers
    do not allow transactions of the configured length."""
    # Without a connection that is already up, `init_transactions` waits half a second for one.
    with_retries(lambda seconds: producer.list_topics(timeout=seconds), timeout)
    try:
        with_retries(producer.init_transactions, timeout)
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.INVALID_TRANSACTION_TIMEOUT:
            raise
        raise SettingsError(
            "KAFKA_TRANSACTION_TIMEOUT_SEC is longer than the brokers' transaction.max.timeout.ms: lower the one or "
            "raise the other"
        ) from refused


def look_back(backlog: Sequence[Backlog], messages: int) -> list[Backlog]:
    """The backlog as if the group were so far back that this many offsets wait, as far as the log still holds them.
    Each partition goes back by an equal part of what is missing, or by all that it has."""
    lack = messages - sum(b.span for b in backlog)
    read = {b.partition: b for b in backlog}
    for left, b in zip(range(len(backlog), 0, -1), sorted(backlog, key=lambda b: b.start - b.low), strict=True):
        take = min(b.start - b.low, -(-max(0, lack) // left))
        lack -= take
        read[b.partition] = replace(b, committed=b.start - take) if take else b
    return list(read.values())


def plan_ranges(
    backlog: Sequence[Backlog], lanes: int, batch_size: int, batches: int
) -> dict[int, tuple[OffsetRange, ...]]:
    """Ranges by lane: of the `batches` lanes that have most to read, each with `batch_size` offsets at most.

    A batch is divided so that no partition has to wait: each gets an equal part, and what one does not need goes to the
    others.
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
