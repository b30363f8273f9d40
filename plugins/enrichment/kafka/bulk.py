"""Thousands of messages at once, between a client's queues and Arrow columns, by `enrichment.kafka.librdkafka`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from enrichment.codec.buffers import (
    Ends,
    Numbers,
    binary_column,
    parts_of,
)
from enrichment.codec.records import MESSAGE_SCHEMA, Chunk
from enrichment.kafka.librdkafka import APPENDED, c_function, handle, poll_queue, produce_rows

_queue_new = c_function("rd_kafka_queue_new", ctypes.c_void_p, ctypes.c_void_p)
_queue_destroy = c_function("rd_kafka_queue_destroy", None, ctypes.c_void_p)
_queue_forward = c_function("rd_kafka_queue_forward", None, ctypes.c_void_p, ctypes.c_void_p)
_queue_get_partition = c_function(
    "rd_kafka_queue_get_partition", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
)


class PartitionEvent(NamedTuple):
    """What a queue reports of a partition beside messages: its end or an error, at `offset`."""

    error: KafkaError
    partition: int
    offset: int


class FetchQueue:
    """A separate queue for the messages that a consumer fetches. Close it before the consumer.

    `appended` says whether any timestamp so far was the time of appending to the log (`message.timestamp.type` of the
    topic at that time).
    """

    def __init__(self, consumer: Consumer) -> None:
        self._client = handle(consumer)
        self._queue: int | None = _queue_new(self._client)
        self.appended = False

    def close(self) -> None:
        """Release the queue and the messages still in it."""
        _queue_destroy(self._queue)
        self._queue = None

    def take_over(self, topic: str, partitions: Iterable[int]) -> None:
        """Direct what is fetched of these partitions to this queue; call it before they are assigned."""
        for partition in partitions:
            queue = _queue_get_partition(self._client, topic.encode(), partition)
            _queue_forward(queue, self._queue)
            _queue_destroy(queue)

    def poll(self, count: int, max_bytes: int, timeout: float) -> tuple[pa.RecordBatch, list[PartitionEvent]]:
        """Up to `count` messages in the order of each partition, until they have `max_bytes`, and events.

        Waits up to `timeout` seconds for the first one only. An event follows all messages of its partition.
        """
        if self._queue is None:
            raise RuntimeError("the queue is closed")
        places, keys, key_ends, keyed, headers, header_ends, read, values, value_ends, valued = poll_queue(
            self._queue, count, max_bytes, int(timeout * 1000)
        )
        errors, partitions, offsets, timestamps, kinds = places.T
        self.appended = self.appended or bool((kinds[errors == 0] == APPENDED).any())
        messages = pa.record_batch(
            [
                pa.array(partitions.astype(np.int32)),
                pa.array(offsets),
                pa.array(timestamps),
                binary_column(keys, key_ends, keyed),
                binary_column(headers, header_ends, read),
                binary_column(values, value_ends, valued),
            ],
            schema=MESSAGE_SCHEMA,
        )
        if not errors.any():
            return messages, []
        events = [
            PartitionEvent(
                KafkaError(int(errors[row]), (messages["value"][row].as_py() or b"").decode(errors="replace")),
                int(partitions[row]), int(offsets[row]),
            )
            for row in np.flatnonzero(errors)
        ]  # fmt: skip
        return messages.take(pa.array(np.flatnonzero(errors == 0))), events


class NotTaken(KafkaException):
    """The client itself has refused the message at this row."""

    def __init__(self, error: KafkaError, row: int) -> None:
        super().__init__(error)
        self.row = row


def sent_timestamps(messages: pa.RecordBatch) -> Numbers:
    """The timestamps of messages as they are sent."""
    timestamps: Numbers = messages["timestamp"].to_numpy()
    return timestamps if timestamps.all() else np.where(timestamps == 0, np.int64(1), timestamps)


class Outbox:
    """Messages on their way to a topic, to these partitions of it.

    A timestamp of 0 becomes 1: to the client 0 means the present time, and it has no other way to say 0.
    """

    def __init__(self, producer: Producer, topic: str, partitions: Ends, messages: Chunk) -> None:
        columns = messages.columns
        keys, key_ends = parts_of(columns["key"])
        headers, header_ends = parts_of(columns["headers"])
        values, value_ends = parts_of(columns["value"])
        keyed, valued = (columns[part].is_valid().to_numpy(zero_copy_only=False) for part in ("key", "value"))
        self._columns = (
            np.frombuffer(topic.encode() + b"\0", np.uint8), partitions, sent_timestamps(columns),
            keys, key_ends, keyed, headers, header_ends, values, value_ends, valued,
        )  # fmt: skip
        self._producer = producer

    def produce(self, start: int, stop: int) -> int:
        """Hand the rows `[start, stop)` to the producer, in order; returns the first that it had no room for. Raises
        `NotTaken` for a message that the client refuses."""
        row, code = produce_rows(handle(self._producer), *self._columns, start, stop)
        if code not in (0, KafkaError._QUEUE_FULL):
            raise NotTaken(KafkaError(code), int(row))
        return int(row)
