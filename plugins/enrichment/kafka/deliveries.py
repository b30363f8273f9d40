"""The client's delivery reports in, the failed messages out, each with whether the message itself is at fault.

`confluent_kafka` reports messages one by one, without the broker's error for each. Here reports are taken by the sets
of messages that they are for. While `Deliveries` is open, the client's callbacks are not served, such as the one for an
expiring token: open it for one transaction, no longer.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import KafkaError, Producer
from numba import njit

from enrichment.codec.buffers import Bytes
from enrichment.kafka.librdkafka import LONG, c_function, handle, headers_size, message_headers, pack

log = logging.getLogger(__name__)

POINTER = ctypes.c_void_p
DELIVERY_REPORT = 1  # RD_KAFKA_EVENT_DR
QUIET_SECONDS, PATIENCE_SECONDS = 0.25, 2.0


class _Message(ctypes.Structure):
    """`rd_kafka_message_t`."""

    _fields_ = [
        ("error", ctypes.c_int), ("topic", POINTER), ("partition", ctypes.c_int32),
        ("payload", POINTER), ("size", ctypes.c_size_t), ("key", POINTER), ("key_size", ctypes.c_size_t),
        ("offset", ctypes.c_int64), ("private", POINTER),
    ]  # fmt: skip


_queue_get_main = c_function("rd_kafka_queue_get_main", POINTER, POINTER)
_queue_poll = c_function("rd_kafka_queue_poll", POINTER, POINTER, ctypes.c_int)
_queue_destroy = c_function("rd_kafka_queue_destroy", None, POINTER)
_event_type = c_function("rd_kafka_event_type", ctypes.c_int, POINTER)
_event_error = c_function("rd_kafka_event_error", ctypes.c_int, POINTER)
_event_destroy = c_function("rd_kafka_event_destroy", None, POINTER)
_event_message_next = c_function("rd_kafka_event_message_next", ctypes.POINTER(_Message), POINTER)
_topic_name = c_function("rd_kafka_topic_name", ctypes.c_char_p, POINTER)
_said = c_function("rd_kafka_message_produce_errstr", POINTER, ctypes.POINTER(_Message))
_loaded_object = ctypes.CDLL(None).dladdr
_loaded_object.restype, _loaded_object.argtypes = ctypes.c_int, (POINTER, POINTER)


class Failure(NamedTuple):
    """A message that was not delivered: its topic and partition, the broker's error for its set, its packed headers,
    and whether the message itself is known to be the cause."""

    topic: str
    partition: int
    code: int
    headers: bytes
    is_blamed: bool


class Deliveries:
    """Takes a producer's delivery reports and collects `failures`. Close it before the producer."""

    def __init__(self, producer: Producer, failures: list[Failure]) -> None:
        self._queue: int | None = _queue_get_main(handle(producer))
        self._failures = failures

    def close(self) -> None:
        """Let the client's callbacks be served again."""
        _queue_destroy(self._queue)
        self._queue = None

    def poll(self, seconds: float) -> bool:
        """Take all reports that are there, or the first within so many seconds; returns whether there was one."""
        if self._queue is None:
            raise RuntimeError("nobody listens any more")
        heard = False
        while event := _queue_poll(self._queue, 0 if heard else int(seconds * 1000)):
            heard = True
            try:
                self._hear(event)
            finally:
                _event_destroy(event)
        return heard

    def await_sent(self) -> None:
        """After a failure nothing more is sent: wait for the reports of the messages that were sent."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.poll(QUIET_SECONDS) or not (self._failures or time.monotonic() > deadline):
            pass

    def _hear(self, event: int) -> None:
        code = _event_error(event)
        if _event_type(event) != DELIVERY_REPORT:
            log.debug("producer.event type=%d code=%d", _event_type(event), code)
        elif code:
            self._failures += _failures_of(list(_messages(event)), code)


def _messages(event: int) -> Iterator[Any]:
    while message := _event_message_next(event):
        yield message


def _failures_of(messages: list[Any], code: int) -> Iterator[Failure]:
    """The messages of one set, which all failed with `code`."""
    for message in messages:
        said, fields = _said(message), message.contents
        # The broker names records by their place in the set. The client's text for the others is a constant of its own;
        # its copy of the broker's text for those at fault must not be read: it is freed by now (2.16.0).
        is_named = fields.error != KafkaError._INVALID_DIFFERENT_RECORD and said is not None and not _is_constant(said)
        packed = _headers_of(ctypes.addressof(fields)).tobytes()
        topic = _topic_name(fields.topic).decode()
        yield Failure(topic, fields.partition, code, packed, is_blamed=is_named or len(messages) == 1)


def _is_constant(pointer: int) -> bool:
    """Whether this is an address within a loaded program or library."""
    found = (POINTER * 4)()  # Dl_info
    return bool(_loaded_object(pointer, found))


@njit((LONG,), nogil=True, cache=True)
def _headers_of(message: int) -> Bytes:
    """The packed headers of a `rd_kafka_message_t`."""
    headers = np.zeros(1, np.int64)
    if message_headers(message, headers.ctypes.data) != 0:
        return np.empty(0, np.uint8)
    packed = np.empty(headers_size(headers[0]), np.uint8)
    pack(headers[0], packed.ctypes.data)
    return packed
