"""Read exact offsets of a topic as `read_committed` sees them, without joining a group or moving anything.

Made for checking the pipeline, so it shares no code with the pipeline's own reader, whose faults it must find.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from enrichment.batch import OffsetRange
from enrichment.errors import OffsetsLost, TransactionOpen

Kafka = str | Mapping[str, Any]  # bootstrap servers, or a whole librdkafka configuration

READING = {
    "group.id": "stacklens-observer",  # librdkafka wants one; it is never joined
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "allow.auto.create.topics": False,
    "queued.max.messages.kbytes": 16_384,
    "fetch.queue.backoff.ms": 1,
    "fetch.wait.max.ms": 100,
}
POLL_MESSAGES, POLL_SECONDS = 1_000, 0.1
SETTLE_POLL_SECONDS = 0.02


def log_ranges(kafka: Kafka, topic: str, timeout: float = 30, settle_seconds: float = 10) -> list[OffsetRange]:
    """The range of each partition of the topic: from the log's start to its last stable offset.

    A transaction becomes visible a moment after its commit: this waits for those that are open now, `settle_seconds`
    at most; what is still open then is not in the ranges. Raises `KafkaException` when the topic is missing or the
    broker does not answer within `timeout` seconds.
    """
    return _settled(kafka, topic, timeout, settle_seconds)[0]


def whole_log_ranges(kafka: Kafka, topic: str, timeout: float = 30, settle_seconds: float = 10) -> list[OffsetRange]:
    """As `log_ranges`, for callers to whom hidden messages would look lost: raises `TransactionOpen` when a transaction
    is open for longer."""
    stable, written = _settled(kafka, topic, timeout, settle_seconds)
    for s, w in zip(stable, written, strict=True):
        if s.end < w.end:
            raise TransactionOpen(
                f"a transaction is open on partition {s.partition} of {topic} since offset {s.end} and hides what is "
                "published after it: that cannot be checked before it has ended. `kafka-transactions.sh "
                f"--bootstrap-server <brokers> describe-producers --topic {topic} --partition {s.partition}` says "
                "whose it is"
            )
    return stable


def topic_id(kafka: Kafka, topic: str, timeout: float) -> str:
    """Kafka's id of a topic, as its tools print it: base64 for URLs, while the client has the common one."""
    names = TopicCollection([topic])
    admin = AdminClient({"bootstrap.servers": kafka} if isinstance(kafka, str) else dict(kafka))
    described = admin.describe_topics(names, request_timeout=timeout)[topic].result()
    return str(described.topic_id).replace("+", "-").replace("/", "_")


def _settled(
    kafka: Kafka, topic: str, timeout: float, settle_seconds: float
) -> tuple[list[OffsetRange], list[OffsetRange]]:
    """The stable ends, once they have reached the ends of the log at the call, and the latter."""
    with closing(_consumer(kafka, **{"isolation.level": "read_uncommitted"})) as consumer:
        written = _watermarks(consumer, topic, timeout)
    deadline = time.monotonic() + settle_seconds
    with closing(_consumer(kafka)) as consumer:
        while True:
            stable = _watermarks(consumer, topic, timeout)
            settled = all(s.end >= w.end for s, w in zip(stable, written, strict=True))
            if settled or time.monotonic() >= deadline:
                return stable, written
            time.sleep(SETTLE_POLL_SECONDS)


def _watermarks(consumer: Consumer, topic: str, timeout: float) -> list[OffsetRange]:
    metadata = consumer.list_topics(topic, timeout).topics[topic]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    ranges = []
    for partition in sorted(metadata.partitions):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout, cached=False)
        ranges.append(OffsetRange(partition, low, high))
    return ranges


def committed_ranges(kafka: Kafka, topic: str, group_id: str, timeout: float = 30) -> list[OffsetRange]:
    """The range that the group has passed in each partition: from the log's start to the group's committed offset.

    This does not join the group; the broker's answer waits for transactions that are open on its offsets. Raises as
    `log_ranges` does.
    """
    held = log_ranges(kafka, topic, timeout)
    with closing(_consumer(kafka, **{"group.id": group_id})) as consumer:
        answers = consumer.committed([TopicPartition(topic, r.partition) for r in held], timeout)
    committed = {answer.partition: answer.offset for answer in answers}
    return [OffsetRange(r.partition, r.start, max(r.start, committed[r.partition])) for r in held]


def first_since(kafka: Kafka, topic: str, at: int, timeout: float = 30) -> dict[int, int]:
    """The offset of each partition's first message of that time (milliseconds) or later, where there is one: no message
    before it is of that time."""
    with closing(_consumer(kafka)) as consumer:
        partitions = consumer.list_topics(topic, timeout).topics[topic].partitions
        answers = consumer.offsets_for_times([TopicPartition(topic, p, at) for p in partitions], timeout)
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
    return {answer.partition: answer.offset for answer in answers if answer.offset >= 0}


def read(kafka: Kafka, topic: str, ranges: Iterable[OffsetRange], timeout: float = 60) -> Generator[Message]:
    """The messages of the ranges, one range a partition at most, each partition's in order.

    Offsets without a message (transaction markers, aborted messages, compaction) are skipped. Raises
    `KafkaException` when nothing arrives for `timeout` seconds, `OffsetsLost` when a range has left the log.
    """
    unread = {r.partition: r for r in ranges if r.span}
    with closing(_consumer(kafka)) as consumer:
        consumer.assign([TopicPartition(topic, r.partition, r.start) for r in unread.values()])
        quiet_since = time.monotonic()
        while unread:
            polled = consumer.consume(POLL_MESSAGES, POLL_SECONDS)
            if polled:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > timeout:
                left = ", ".join(f"{r.partition}:{r.start}-{r.end}" for r in unread.values())
                raise KafkaException(
                    KafkaError(KafkaError._TIMED_OUT, f"no message of {topic} {left} in {timeout:g} s")
                )
            yield from _wanted(topic, polled, unread, consumer)


def position(message: Message) -> tuple[int, int]:
    """The partition and offset of a message that was read."""
    return message.partition(), message.offset()  # type: ignore[return-value]  # its types also know messages not yet sent


def _wanted(
    topic: str, polled: Iterable[Message], unread: dict[int, OffsetRange], consumer: Consumer
) -> Iterator[Message]:
    for message in polled:
        error = message.error()
        partition, offset = position(message)
        wanted = unread.get(partition)
        if error is None and wanted is not None and offset + 1 < wanted.end:  # nearly all
            yield message
            continue
        at_end = error is not None and error.code() == KafkaError._PARTITION_EOF
        if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise OffsetsLost(
                f"{topic} no longer holds all of the offsets to be read of partition {partition}: {error.str()}"
            )
        if error is not None and not at_end:
            raise KafkaException(error)
        if wanted is None:  # fetched ahead, past the end of its range
            continue
        # The end of the log is only reported once all stable messages before it were delivered.
        following = offset + (0 if at_end else 1)
        if not at_end and following <= wanted.end:
            yield message
        if following >= wanted.end:
            del unread[partition]
            consumer.pause([TopicPartition(topic, partition)])


def _consumer(kafka: Kafka, **purpose: str) -> Consumer:
    config = {"bootstrap.servers": kafka} if isinstance(kafka, str) else dict(kafka)
    return Consumer({**config, **READING, **purpose})
