"""Consumers, producers and admin clients, each made for one purpose from the connection's librdkafka configuration."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from enrichment.batch import Batch
from enrichment.errors import SettingsError
from enrichment.settings import KafkaSettings

log = logging.getLogger(__name__)
Client = TypeVar("Client")

# Reads never join the group: they assign partitions at fixed offsets, so nothing here may ever commit by itself.
READING = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "enable.partition.eof": True,
    # Raised fetch settings: at their defaults the reader waits for the broker most of the time. What is fetched costs a
    # multiple of its bytes in memory, so no more than keeps the reader busy.
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 4_096,
    "fetch.queue.backoff.ms": 1,
    "fetch.wait.max.ms": 100,
    # Fetched data is compressed: in memory it takes several times as much, for each partition.
    "max.partition.fetch.bytes": 256 * 1024,
}
NOTICES = 5  # and what is worse: the level of syslog
# Even a first connection is made only after the backoff that is for further ones.
CONNECTING = {"reconnect.backoff.ms": 5}
PUBLISHING = {
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 20,
    "batch.num.messages": 50_000,
    "queue.buffering.max.messages": 200_000,
    "queue.buffering.max.kbytes": 16_384,
    "delivery.report.only.error": True,
}
SMALLEST_MAX_BYTES = 1_000  # librdkafka takes no less; a topic may
ALONE = {"linger.ms": 0, "batch.num.messages": 1}
SET_BYTES = 1_000_000


class Clients:
    """Makes clients. `config` is a connection's librdkafka configuration; the options of a purpose override it. Making
    a client raises `SettingsError` for an option that it does not accept.

    Each publisher of a batch calls `check_lanes` between fencing its lane's earlier ones and publishing: it raises when
    the batch's lane is no longer one of the group's.
    """

    def __init__(
        self, config: Mapping[str, Any], settings: KafkaSettings, check_lanes: Callable[[Batch], None] | None = None
    ) -> None:
        self._config = {**CONNECTING, **config}
        self._check_lanes = check_lanes
        self.settings = settings
        self._admin: AdminClient | None = None

    @property
    def bootstrap_servers(self) -> str:
        """The brokers' addresses, as on a command line."""
        return str(self._config.get("bootstrap.servers") or self._config.get("metadata.broker.list") or "<brokers>")

    def check_lanes(self, batch: Batch) -> None:
        """Check that a batch may be published in its lane."""
        if self._check_lanes is not None:
            self._check_lanes(batch)

    def for_batch(self, batch: Batch) -> Clients:
        """The clients of a batch's own group and output topics: live, replayed and redriven ones never meet."""
        own = {
            "consumer_group": batch.group_id,
            "output_topic": batch.purpose.output_topic or self.settings.output_topic,
            "dlq_topic": batch.purpose.dlq_topic or self.settings.dlq_topic,
        }
        settings = self.settings.model_copy(update=own)
        return self if settings == self.settings else Clients(self._config, settings, self._check_lanes)

    @contextmanager
    def offsets_reader(self, isolation: str = "read_committed") -> Iterator[Consumer]:
        """A consumer for offsets and watermarks and, after a first request for these, for messages. With
        `read_committed` the end of a log is its last stable offset."""
        config = {**self._config, "group.id": self.settings.consumer_group, **READING, "isolation.level": isolation}
        yield from closing(self._made(Consumer, config))

    @contextmanager
    def drain_reader(self) -> Iterator[Consumer]:
        """A consumer for messages at once."""
        with self.offsets_reader() as consumer:
            # Connected first: one that is assigned before its first connection is up may sleep for a second.
            consumer.list_topics(timeout=self.settings.request_timeout_sec)
            yield consumer

    @contextmanager
    def lane_producer(
        self, lane: int, max_message_bytes: int, max_set_bytes: int = SET_BYTES, *, alone: bool = False
    ) -> Iterator[Producer]:
        """The transactional producer of a lane: a second one of the same lane fences it.

        No set of messages has much more than `max_set_bytes`; `alone` sends each message in a set of its own.
        """
        producer = self._made(
            Producer, self._producer_config(lane, max_message_bytes, max_set_bytes) | (ALONE if alone else {})
        )
        try:
            yield producer
        finally:
            # Messages still queued belong to a transaction that is over: nothing waits for them.
            producer.purge()
            try:
                with warnings.catch_warnings():
                    # It warns when its open transaction cannot be aborted, as when it was fenced in its commit: the
                    # later publisher has aborted it.
                    warnings.simplefilter("ignore", RuntimeWarning)
                    producer.close()
            except KafkaException as refused:  # a fenced producer may not even say goodbye
                log.warning("producer.closed lane=%d error=%s", lane, refused.args[0])

    def admin(self) -> AdminClient:
        """A client that describes topics: one for all requests, which saves a connection each."""
        if self._admin is None:
            # It says on standard error when it is closed with the answer to a request on which it gave up: a notice.
            self._admin = self._made(AdminClient, {"log_level": NOTICES, **self._without_consumer_options()})
        return self._admin

    def quiet(self, on_error: Callable[[KafkaError], None]) -> Clients:
        """The same, whose clients write no log of their own: `on_error` is told, when they are polled, why brokers
        cannot be reached."""
        return Clients({**self._config, "log_level": 0, "error_cb": on_error}, self.settings)

    def check_options(self) -> None:
        """Raise `SettingsError` when the connection has an option with which nothing can be published: once, before any
        message is read and looked up."""
        self._made(Producer, self._producer_config(0, self.settings.max_message_bytes, SET_BYTES)).close()

    def _made(self, client: Callable[[dict[str, Any]], Client], config: dict[str, Any]) -> Client:
        """A client. Raises `SettingsError` for an option that it does not take."""
        try:
            return client(config)
        except (KafkaException, TypeError) as refused:
            why = refused.args[0]
            if isinstance(why, KafkaError) and why.code() != KafkaError._INVALID_ARG:
                raise
            text = why.str() if isinstance(why, KafkaError) else why
            raise SettingsError(f"the connection KAFKA_CONN_ID={self.settings.conn_id}: {text}") from refused

    def _producer_config(self, lane: int, max_message_bytes: int, max_set_bytes: int) -> dict[str, Any]:
        return {
            **self._without_consumer_options(),
            **PUBLISHING,
            "transactional.id": transactional_id(self.settings.consumer_group, lane),
            "transaction.timeout.ms": int(self.settings.transaction_timeout_sec * 1000),
            "message.max.bytes": max(SMALLEST_MAX_BYTES, max_message_bytes),
            "batch.size": min(SET_BYTES, max_set_bytes),
        }

    def _without_consumer_options(self) -> dict[str, Any]:
        # librdkafka warns about each consumer option that a producer is given.
        consumer_only = {"group.id", "auto.offset.reset", "enable.auto.commit", "isolation.level"}
        return {name: value for name, value in self._config.items() if name not in consumer_only}


def transactional_id(group_id: str, lane: int) -> str:
    """One id per group and lane, so that any two batches with the same partition fence each other."""
    return f"{group_id}.lane-{lane}"


def closing(consumer: Consumer) -> Iterator[Consumer]:
    """Yield the consumer, and close it in any case."""
    try:
        yield consumer
    finally:
        consumer.close()
