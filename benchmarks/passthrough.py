"""Pass-through: what comes in goes out, key, value, timestamp and headers as they came, in transactions with offsets.

The ceiling of what a Python process can do with confluent-kafka's messages on this machine: no work at all, the
pipeline's own client settings. The exchange of messages is also that of the per-message loops. In bulk, the ceiling is
that of librdkafka.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from benchmarks.cores import Used, used
from benchmarks.stand import Stand, span
from enrichment.batch import OffsetRange
from enrichment.batches.drain import SLICE
from enrichment.codec.hot_loops import quiet_gc
from enrichment.codec.records import Chunk
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import take_over
from enrichment.kafka.sink import LaneTransaction
from enrichment.kafka.source import RangeReader
from enrichment.settings import Settings

POLL_MESSAGES = 1_000
# Messages; the client's type for them also knows those that were not sent yet, which have no partition and no offset.
Polled = list[Any]


@contextmanager
def exchange(
    stand: Stand, settings: Settings, ranges: Sequence[OffsetRange], every: int
) -> Iterator[tuple[Producer, Iterator[Polled]]]:
    """A producer, and the messages of the ranges in lists.

    Between lists, each `every` messages and at the end, what was produced is committed with the group's offsets.
    """
    kafka = settings.kafka
    clients = Clients({"bootstrap.servers": stand.bootstrap_servers}, kafka)
    with clients.lane_producer(0, kafka.max_message_bytes) as producer:
        take_over(producer, kafka.request_timeout_sec)
        # Made last: a consumer that has waited for 0.1 s before it is assigned loses up to a second, librdkafka 2.16.
        with clients.drain_reader() as consumer:
            yield producer, _transactions(consumer, producer, kafka.input_topic, ranges, every)


def _transactions(
    consumer: Consumer, producer: Producer, topic: str, ranges: Sequence[OffsetRange], every: int
) -> Iterator[Polled]:
    ends = {r.partition: r.end for r in ranges}
    partitions = [TopicPartition(topic, partition) for partition in ends]

    def commit() -> None:
        offsets = consumer.position(partitions)
        for reached in offsets:
            reached.offset = min(reached.offset, ends[reached.partition])
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
        producer.commit_transaction()

    uncommitted = 0
    producer.begin_transaction()
    for messages in _polls(consumer, topic, ranges):
        if uncommitted >= every:
            commit()
            producer.begin_transaction()
            uncommitted = 0
        yield messages
        uncommitted += len(messages)
    commit()


def _polls(consumer: Consumer, topic: str, ranges: Sequence[OffsetRange], timeout: float = 30) -> Iterator[Polled]:
    ends = {r.partition: r.end for r in ranges}
    consumer.assign([TopicPartition(topic, r.partition, r.start) for r in ranges])
    left, quiet_since = span(ranges), time.monotonic()
    while left:
        polled: Polled = consumer.consume(min(POLL_MESSAGES, left), 0.1)
        messages = [m for m in polled if m.error() is None and m.offset() < ends[m.partition()]]
        if messages:
            left -= len(messages)
            quiet_since = time.monotonic()
            yield messages
        elif time.monotonic() - quiet_since > timeout:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} messages of {topic} have not come"))


def pass_through(stand: Stand, settings: Settings) -> tuple[float, Used]:
    """Pass the backlog on; returns the seconds from the making of the clients to the last commit, and who worked."""
    start, before = time.perf_counter(), used(stand.broker_pid)
    topic = settings.kafka.output_topic
    with quiet_gc(), exchange(stand, settings, stand.backlog, settings.kafka.batch_size) as (producer, polls):
        produce, poll = producer.produce, producer.poll
        for messages in polls:
            for m in messages:
                while True:
                    try:
                        produce(
                            topic, m.value(), m.key(), m.partition(), timestamp=m.timestamp()[1], headers=m.headers()
                        )
                        break
                    except BufferError:  # the queue is full: let it drain
                        poll(0.1)
            poll(0)
    return time.perf_counter() - start, used(stand.broker_pid).minus(before)


def pass_through_in_bulk(
    stand: Stand, settings: Settings, changed: Callable[[Chunk], Chunk] = lambda chunk: chunk
) -> float:
    """The same as the pipeline talks to the client, in columns; the seconds. `changed` is passed on in place of each
    chunk."""
    start = time.perf_counter()
    kafka = settings.kafka
    clients = Clients({"bootstrap.servers": stand.bootstrap_servers}, kafka)
    with quiet_gc(), clients.lane_producer(0, kafka.max_message_bytes) as producer:
        take_over(producer, kafka.request_timeout_sec)
        partitions = len(producer.list_topics(kafka.output_topic).topics[kafka.output_topic].partitions)
        transaction = LaneTransaction(producer, {kafka.output_topic: partitions}, producer.poll, [])
        with (
            clients.drain_reader() as consumer,
            RangeReader(clients, kafka.input_topic, stand.backlog, chunk_size=SLICE, consumer=consumer) as reader,
        ):
            producer.begin_transaction()
            for chunk in reader.chunks():
                transaction.send(kafka.output_topic, changed(chunk))
            offsets = [TopicPartition(kafka.input_topic, r.partition, r.end) for r in stand.backlog]
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
            producer.commit_transaction()
    return time.perf_counter() - start
