"""Publish: one transaction per batch that holds its enriched messages, its dead letters and the group's new offsets.

Publishing is a compare-and-set on the group's offsets. The transactional id is the lane's, so a later publisher fences
an earlier one; then the offsets tell whether the batch is still to be published, is published, or was overtaken.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from enum import StrEnum
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from enrichment.batch import LIVE, Batch
from enrichment.codec.records import Chunk
from enrichment.errors import OffsetsMoved
from enrichment.kafka.asking import SLICE_SECONDS, with_retries
from enrichment.kafka.bulk import NotTaken, Outbox
from enrichment.kafka.clients import Clients
from enrichment.kafka.deliveries import Deliveries, Failure
from enrichment.kafka.limits import limits_of
from enrichment.kafka.offsets import read_committed, take_over
from enrichment.kafka.refusals import Refusals, cause_of, refusal_of
from enrichment.kafka.retention import Retention
from enrichment.kafka.stamps import Committed, check_lanes, is_published, stamped
from enrichment.kafka.topics import describe_topics, read_topic_id

log = logging.getLogger(__name__)
QUEUE_SECONDS = 0.02  # between two looks whether a full queue has room again
# Messages after which the client may free those that were delivered. By itself it does so when its queue is full: by
# then they have long left the processor's cache, and publishing costs a tenth more.
SERVE_EVERY = 250
ABORT_SECONDS = 4.0  # Airflow kills a stopped task five seconds after it asked it to end


class GroupPosition(StrEnum):
    """The group's position relative to a batch."""

    AT_START = "at-start"  # nobody has published it: publish
    PAST_END = "past-end"  # it is published: nothing to do


class LanePublisher:
    """The one publisher of a lane, while its `with` block lasts: entering it fences every earlier one.

    That also ends the open transaction of a fenced or dead publisher, so the offsets read afterwards are final.
    `refusals` says what brokers have refused of the batch before, and how closely to watch their answers now.
    """

    def __init__(self, clients: Clients, batch: Batch, refusals: Refusals | None = None) -> None:
        self._clients = clients
        self._batch = batch
        self._refusals = refusals or Refusals()
        self._failures: list[Failure] = []
        self._deliveries: Deliveries | None = None
        self._timeout = clients.settings.request_timeout_sec
        self._open = ExitStack()

    def __enter__(self) -> Self:
        settings, refusals = self._clients.settings, self._refusals
        topics = (settings.output_topic, settings.dlq_topic)
        configs = list(zip(topics, describe_topics(self._clients, *topics), strict=True))
        limits = [limits_of(topic, config, settings.max_message_bytes) for topic, config in configs]
        self.kept = [Retention.of(topic, config) for topic, config in configs]
        self.output, self.dead_letters = map(refusals.known_to, limits)
        sizes = [each.max_bytes for each in limits]
        with ExitStack() as opening:
            # Two full sets never exceed what a topic takes in one.
            producer = self._clients.lane_producer(self._batch.lane, max(sizes), min(sizes) // 2, alone=refusals.alone)
            self._producer = opening.enter_context(producer)
            take_over(self._producer, self._timeout)
            if refusals.watched:
                self._deliveries = opening.enter_context(closing(Deliveries(self._producer, self._failures)))
            metadata = self._producer.list_topics(timeout=self._timeout).topics
            self._partitions = {topic: len(found.partitions) for topic, found in metadata.items()}
            self._open = opening.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def standing(self) -> GroupPosition:
        """Compare the group's committed offsets with the batch. Raises `OffsetsMoved` when they fit neither end or were
        not set by publishing, `LanesChanged` or `SettingsError` when the group's number of lanes differs."""
        batch, committed = self._batch, self._committed()
        if is_published(batch, committed):
            return GroupPosition.PAST_END
        # Only now: a change of the number of lanes either fences this publisher or was recorded before.
        self._clients.check_lanes(batch)
        check_lanes(batch, committed)
        self._check_topic()
        # A claim of live draining has set the group to the batch's start, so no offset is one that is gone. A repair's
        # group is the pass's own.
        unset = () if batch.purpose.kind == LIVE.kind else (None,)
        if all(committed[r.partition].offset in (r.start, *unset) for r in batch.ranges):
            return GroupPosition.AT_START
        where = ", ".join(
            f"partition {r.partition}: batch {r.start} to {r.end}, group at {committed[r.partition].offset}"
            for r in batch.ranges
        )
        raise OffsetsMoved(
            f"group {batch.group_id} was moved by somebody else while batch {batch.batch_id} was on its way ({where}). "
            "Nothing was published. The next run goes on from the group's offsets; enrichment_jobs tells who moved it."
        )

    def _check_topic(self) -> None:
        """Raise `OffsetsMoved` when the batch's topic was deleted and recreated: offsets mean other messages now, and
        those that were read may be of either topic."""
        batch = self._batch
        now = read_topic_id(self._clients, batch.topic) if batch.topic_id is not None else None
        if None not in (batch.topic_id, now) and now != batch.topic_id:
            raise OffsetsMoved(
                f"topic {batch.topic} was deleted and recreated while batch {batch.batch_id} was running: it was "
                f"claimed from the topic with the id {batch.topic_id}, and the topic's id is {now} now. Nothing was "
                "published. The next claim says how to go on."
            )

    @cached_property
    def _reader(self) -> Consumer:
        """A consumer of the group, to ask for its offsets and to name it."""
        return self._open.enter_context(self._clients.offsets_reader())

    def _committed(self) -> Mapping[int, Committed]:
        batch = self._batch
        return read_committed(self._reader, batch.topic, [r.partition for r in batch.ranges], self._timeout)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Publish within the block: commits with the group's offsets at its end, aborts on any exception.

        Raises `BatchRefused` when the broker refuses messages for what they are, `PublishRefused` when it does not take
        them for another reason (fenced, timed out, not authorized).
        """
        producer = self._producer
        producer.begin_transaction()
        try:
            yield self._begun(producer)
            self._commit(producer)
        except KafkaException as refused:
            error = cause_of(producer, refused)
            if self._deliveries is not None:
                self._deliveries.await_sent()
            _abort(producer)
            raise refusal_of(self._batch, error, self._failures) from refused
        except BaseException:
            _abort(producer)
            raise

    def _begun(self, producer: Producer) -> Transaction:
        return LaneTransaction(producer, self._partitions, self._serve, self._failures)

    def _serve(self, seconds: float) -> None:
        """Serve the client's callbacks, or take delivery reports."""
        if self._deliveries is None:
            self._producer.poll(seconds)
        else:
            self._deliveries.poll(seconds)

    def _commit(self, producer: Producer) -> None:
        if self._deliveries is not None:
            self._await_deliveries(producer)
        self._send_progress(producer)
        with_retries(producer.commit_transaction, self._clients.settings.transaction_timeout_sec)

    def _await_deliveries(self, producer: Producer) -> None:
        """Wait for the delivery reports of all messages. The commit would take them and tell nobody."""
        deadline = time.monotonic() + self._clients.settings.transaction_timeout_sec
        while len(producer) and not self._failures:
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{len(producer)} messages have not arrived"))
            self._serve(SLICE_SECONDS)
        if self._failures:
            raise KafkaException(KafkaError(KafkaError._STATE))  # as the client says of everything after an error

    def _send_progress(self, producer: Producer) -> None:
        offsets, group = stamped(self._batch), self._reader.consumer_group_metadata()
        with_retries(lambda seconds: producer.send_offsets_to_transaction(offsets, group, seconds), self._timeout)


class Transaction(Protocol):
    """An open transaction: takes messages, in order."""

    def send(self, topic: str, messages: Chunk) -> None:
        """Send messages. Raises `KafkaException` for one that is not accepted."""


class LaneTransaction:
    """The transaction of a lane."""

    def __init__(
        self, producer: Producer, partitions: Mapping[str, int], serve: Callable[[float], object],
        failures: list[Failure],
    ) -> None:  # fmt: skip
        self._producer = producer
        self._partitions = partitions
        self._serve = serve
        self._failures = failures

    def send(self, topic: str, messages: Chunk) -> None:
        """Hand messages to the client, in order; waits while its queue is full. An input partition has one output
        partition."""
        count = self._partitions[topic]
        partitions = messages.columns["partition"].to_numpy() % np.int32(count)
        outbox, row = Outbox(self._producer, topic, partitions, messages), 0
        while row < len(messages):
            stop = min(row + SERVE_EVERY, len(messages))
            try:
                row = outbox.produce(row, stop)
            except NotTaken as refused:
                headers = messages.columns["headers"][refused.row].as_py()
                where = topic, int(partitions[refused.row])
                self._failures.append(Failure(*where, refused.args[0].code(), headers, is_blamed=True))
                raise
            self._serve(QUEUE_SECONDS if row < stop else 0)


def _abort(producer: Producer) -> None:
    """End the transaction if this producer still may. If it may not (fenced, out of time), its successor ends it."""
    try:
        producer.abort_transaction(ABORT_SECONDS)
    except KafkaException as refused:
        log.warning("transaction.abort_failed error=%s", refused.args[0])
