"""Publish: one transaction per batch that holds its enriched messages, its dead letters and the group's new offsets.

Publishing is a compare-and-set on the group's offsets. The transactional id is the lane's, so whoever comes later
fences whoever came before; then the offsets tell whether the batch is still to be published, is published, or was
overtaken.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import Self

import numpy as np
from confluent_kafka import KafkaException, Producer, TopicPartition

from enrichment.columns import Chunk
from enrichment.errors import OffsetsMoved, PublishRefused
from enrichment.kafka.clients import Clients
from enrichment.kafka.librdkafka import Outbox
from enrichment.kafka.limits import topic_limits
from enrichment.kafka.offsets import committed_offsets, take_over, with_retries
from enrichment.messages import Batch, Reason

log = logging.getLogger(__name__)
QUEUE_SECONDS = 0.02  # between two looks whether a full queue has room again
# Messages after which the client may free those that were delivered. Left to itself it does so when its queue is full:
# by then they have long left the processor's cache, and publishing costs a tenth more.
SERVE_EVERY = 250
ABORT_SECONDS = 4.0  # Airflow kills a stopped task five seconds after it asked it to end


class Standing(StrEnum):
    """Where the group is, seen from a batch."""

    AT_START = "at-start"  # nobody has published it: publish
    PAST_END = "past-end"  # it is published: nothing to do


class LanePublisher:
    """The one publisher of a lane, while its `with` block lasts: entering it fences every earlier one.

    What a fenced or dying publisher left open has been ended by then, so the offsets read afterwards are final.
    """

    def __init__(self, clients: Clients, batch: Batch) -> None:
        self._clients = clients
        self._batch = batch
        self._timeout = clients.settings.request_timeout_sec
        self._open = ExitStack()

    def __enter__(self) -> Self:
        settings = self._clients.settings
        self.output, self.dead_letters = topic_limits(self._clients, settings.output_topic, settings.dlq_topic)
        largest = max(self.output.max_bytes, self.dead_letters.max_bytes)
        with ExitStack() as opening:
            self._producer = opening.enter_context(self._clients.lane_producer(self._batch.lane, largest))
            take_over(self._producer, self._timeout)
            metadata = self._producer.list_topics(timeout=self._timeout).topics
            self._partitions = {topic: len(found.partitions) for topic, found in metadata.items()}
            self._open = opening.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def standing(self) -> Standing:
        """Compare the group's committed offsets with the batch. Raises `OffsetsMoved` when they fit neither end."""
        batch, committed = self._batch, self._committed()
        if all(_past(committed[r.partition], r.end) for r in batch.ranges):
            return Standing.PAST_END
        # A group without an offset starts at the log's start: that is where its first batch was claimed.
        if all(committed[r.partition] in (r.start, None) for r in batch.ranges):
            return Standing.AT_START
        where = ", ".join(
            f"partition {r.partition}: batch {r.start} to {r.end}, group at {committed[r.partition]}"
            for r in batch.ranges
        )
        raise OffsetsMoved(
            f"group {batch.group_id} was moved by somebody else while batch {batch.batch_id} was on its way ({where}). "
            "Nothing was published. The next run goes on from the group's offsets; enrichment_jobs tells who moved it."
        )

    def _committed(self) -> Mapping[int, int | None]:
        batch = self._batch
        with self._clients.offsets_reader() as reader:
            return committed_offsets(reader, batch.topic, [r.partition for r in batch.ranges], self._timeout)

    @contextmanager
    def transaction(self) -> Iterator[LaneTransaction]:
        """Publish within the block: it commits with the group's offsets at the end, and aborts whatever goes wrong.

        Raises `PublishRefused` when the broker does not take it (fenced, timed out, a message undeliverable).
        """
        producer = self._producer
        producer.begin_transaction()
        try:
            yield self._begun(producer)
            self._commit(producer)
        except KafkaException as refused:
            _abort(producer)
            raise PublishRefused(
                f"{Reason.PRODUCER_ERROR}: batch {self._batch.batch_id}: {refused.args[0]}"
            ) from refused
        except BaseException:
            _abort(producer)
            raise

    def _begun(self, producer: Producer) -> LaneTransaction:
        return LaneTransaction(producer, self._partitions)

    def _commit(self, producer: Producer) -> None:
        self._send_progress(producer)
        with_retries(producer.commit_transaction, self._clients.settings.transaction_timeout_sec)

    def _send_progress(self, producer: Producer) -> None:
        offsets = [TopicPartition(self._batch.topic, r.partition, r.end) for r in self._batch.ranges]
        with self._clients.offsets_reader() as reader:
            group = reader.consumer_group_metadata()
            with_retries(lambda seconds: producer.send_offsets_to_transaction(offsets, group, seconds), self._timeout)


class LaneTransaction:
    """An open transaction: takes messages, in order."""

    def __init__(self, producer: Producer, partitions: dict[str, int]) -> None:
        self._producer = producer
        self._partitions = partitions

    def send(self, topic: str, messages: Chunk) -> None:
        """Hand messages to the client, in order; waits while its queue is full. An input partition has one output
        partition."""
        count = self._partitions[topic]
        partitions = messages.columns["partition"].to_numpy() % np.int32(count)
        outbox, row = Outbox(self._producer, topic, partitions, messages), 0
        while row < len(messages):
            stop = min(row + SERVE_EVERY, len(messages))
            row = outbox.produce(row, stop)
            self._producer.poll(QUEUE_SECONDS if row < stop else 0)


def _past(committed: int | None, end: int) -> bool:
    return committed is not None and committed >= end


def _abort(producer: Producer) -> None:
    """End the transaction if this producer still may. If it may not (fenced, out of time), its successor ends it."""
    try:
        producer.abort_transaction(ABORT_SECONDS)
    except KafkaException as refused:
        log.warning("transaction.abort_failed error=%s", refused.args[0])
