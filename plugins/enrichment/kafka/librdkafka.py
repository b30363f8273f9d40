"""librdkafka in bulk: many messages from or to a client in one call, as Arrow columns, without an object for each.

confluent-kafka makes a Python object of each message that it reads, and takes apart each one that it sends: that was
most of the cost of draining and publishing. Here compiled loops (Numba) call the librdkafka below it, on the same
client: connections, assignments, transactions and offsets stay confluent-kafka's.

Two rules keep that safe. confluent-kafka's callbacks may only run inside its own methods, so nothing here serves a
queue that has any: fetched messages go to a queue of their own, and delivery reports are left to `Producer.poll`. And
every pointer that is taken here is released before its client is closed.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from typing import Any

import llvmlite.binding
import numpy as np
from confluent_kafka import Consumer, Producer, cimpl
from numba import njit, types
from numba.extending import register_jitable

from enrichment.codec.buffers import (
    BYTES,
    ENDS,
    FLAGS,
    NUMBERS,
    Bytes,
    Ends,
    Flags,
    Numbers,
    memcpy,
)
from enrichment.codec.records import LENGTHS

# The releases whose memory layout is known: with another layout these loops would read wrong memory. Add a release once
# `tests/integration/test_librdkafka.py` passes with it.
TESTED = frozenset({"2.16.1"})
VERSION = importlib.metadata.version("confluent-kafka")
if VERSION not in TESTED:
    raise ImportError(
        f"confluent-kafka {VERSION} was never tried with the access to its memory in "
        f"enrichment/kafka/librdkafka.py: install {' or '.join(sorted(TESTED))}, as requirements.txt has it"
    )

# confluent-kafka's extension module is linked with librdkafka: the library's symbols are found through it.
library = ctypes.CDLL(cimpl.__file__)
llvmlite.binding.load_library_permanently(cimpl.__file__)

INT, LONG = types.int32, types.int64  # pointers and sizes are 64-bit numbers here


def _external(name: str, returns: Any, *takes: Any) -> Any:
    if not hasattr(library, name):  # Numba would end the process
        raise ImportError(f"{cimpl.__file__} does not lead to {name}: install the confluent-kafka of requirements.txt")
    return types.ExternalFunction(name, returns(*takes))


_strlen = _external("strlen", LONG, LONG)
_consume_batch_queue = _external("rd_kafka_consume_batch_queue", LONG, LONG, INT, LONG, LONG)
_message_timestamp = _external("rd_kafka_message_timestamp", LONG, LONG, LONG)
message_headers = _external("rd_kafka_message_headers", INT, LONG, LONG)
_message_destroy = _external("rd_kafka_message_destroy", types.void, LONG)
_header_get_all = _external("rd_kafka_header_get_all", INT, LONG, LONG, LONG, LONG, LONG)
_headers_new = _external("rd_kafka_headers_new", LONG, LONG)
_headers_destroy = _external("rd_kafka_headers_destroy", types.void, LONG)
_header_add = _external("rd_kafka_header_add", INT, LONG, LONG, LONG, LONG, LONG)
_topic_new = _external("rd_kafka_topic_new", LONG, LONG, LONG, LONG)
_topic_destroy = _external("rd_kafka_topic_destroy", types.void, LONG)
_produceva = _external("rd_kafka_produceva", LONG, LONG, LONG, LONG)
_error_code = _external("rd_kafka_error_code", INT, LONG)
_error_destroy = _external("rd_kafka_error_destroy", types.void, LONG)

# rd_kafka_message_t, in words of 8 bytes.
_MESSAGE_WORDS, _ERROR, _PARTITION, _PAYLOAD, _PAYLOAD_SIZE, _KEY, _KEY_SIZE, _OFFSET = 9, 0, 2, 3, 4, 5, 6, 7
# rd_kafka_vu_t, likewise: a kind, and up to 64 bytes of what it is; the kinds are those of rd_kafka_vtype_t.
_VU_WORDS, _VU_TOPIC, _VU_PARTITION, _VU_VALUE, _VU_KEY, _VU_FLAGS, _VU_TIMESTAMP, _VU_HEADERS = 9, 2, 3, 4, 5, 7, 8, 10
_COPY = 2  # RD_KAFKA_MSG_F_COPY: the value is the client's own from then on
APPENDED = 2  # RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME: when the broker appended the message
# RD_KAFKA_RESP_ERR__NOENT. With any other error there are headers, but the client does not read so many.
_NO_HEADERS = -156
_UNREAD = -1  # in the place of a pointer to headers
_WORD, _LENGTHS = 8, LENGTHS.size
# Messages per call into the client: small enough that even messages of the largest size stay within memory.
POLL_MESSAGES = 100
LINGER_MS = 5  # how long to wait for more of a poll's messages once some are there


@register_jitable
def _find_header(headers: int, number: int, header: Numbers) -> bool:
    """Whether there is a header of this number; `header` takes where name and value are, and the value's size."""
    at = header.ctypes.data
    return bool(_header_get_all(headers, number, at, at + _WORD, at + 2 * _WORD) == 0)


@register_jitable
def headers_size(headers: int) -> int:
    """How many bytes headers have, packed."""
    size, number, header = 0, 0, np.zeros(3, np.int64)
    while _find_header(headers, number, header):
        size += _LENGTHS + _strlen(header[0]) + header[2]
        number += 1
    return size


@register_jitable
def pack(headers: int, at: int) -> None:
    """Write headers to an address, as `pack_headers` does."""
    header, lengths = np.zeros(3, np.int64), np.empty(2, np.int32)
    number = 0
    while _find_header(headers, number, header):
        name, value, size = header
        lengths[0], lengths[1] = _strlen(name), size if value else -1
        memcpy(at, lengths.ctypes.data, _LENGTHS)
        memcpy(at + _LENGTHS, name, lengths[0])
        if value:
            memcpy(at + _LENGTHS + lengths[0], value, size)
        at += _LENGTHS + lengths[0] + size
        number += 1


@register_jitable
def _take(queue: int, max_bytes: int, timeout_ms: int, pointers: Numbers, lists: Numbers, header_sizes: Numbers) -> int:
    """The number of messages taken from a queue. The arrays, whose length is the most to take, receive for each message
    `rd_kafka_message_t *`, `rd_kafka_headers_t *` (0: none, `_UNREAD`) and the size of its packed headers."""
    message = np.empty(_MESSAGE_WORDS, np.int64)
    taken = size = 0
    while taken < len(pointers) and size < max_bytes:
        # Wait for one message first: the client waits out the timeout unless it gets as many as were asked for.
        wanted = min(POLL_MESSAGES, len(pointers) - taken) if taken else 1
        wait = LINGER_MS if taken else timeout_ms
        got = _consume_batch_queue(queue, wait, pointers.ctypes.data + taken * _WORD, wanted)
        for row in range(taken, taken + got):
            memcpy(message.ctypes.data, pointers[row], _MESSAGE_WORDS * _WORD)
            error = message_headers(pointers[row], lists.ctypes.data + row * _WORD)
            if error == 0:
                header_sizes[row] = headers_size(lists[row])
            else:
                lists[row] = 0 if error == _NO_HEADERS else _UNREAD
            size += message[_PAYLOAD_SIZE] + message[_KEY_SIZE] + header_sizes[row]
        taken += max(0, got)
        if got < wanted:
            break
    return taken


@register_jitable
def _measure(pointers: Numbers, header_sizes: Numbers) -> tuple[Numbers, Ends, Flags, Ends, Ends, Flags]:
    """Places, where keys, headers and values will end, and which keys and values are not null."""
    taken = len(pointers)
    places = np.empty((taken, 5), np.int64)
    key_ends, header_ends = np.zeros(taken + 1, np.int32), np.zeros(taken + 1, np.int32)
    value_ends = np.zeros(taken + 1, np.int32)
    keyed, valued = np.empty(taken, np.bool_), np.empty(taken, np.bool_)
    message, kind = np.empty(_MESSAGE_WORDS, np.int64), np.zeros(1, np.int64)
    for row in range(taken):
        memcpy(message.ctypes.data, pointers[row], _MESSAGE_WORDS * _WORD)
        # Error and partition are the lower halves of their words.
        places[row, 0] = np.int32(message[_ERROR] & 0xFFFFFFFF)
        places[row, 1] = np.int32(message[_PARTITION] & 0xFFFFFFFF)
        places[row, 2] = message[_OFFSET]
        places[row, 3] = _message_timestamp(pointers[row], kind.ctypes.data)
        places[row, 4] = kind[0] & 0xFFFFFFFF
        keyed[row], valued[row] = message[_KEY] != 0, message[_PAYLOAD] != 0
        key_ends[row + 1] = key_ends[row] + message[_KEY_SIZE]
        header_ends[row + 1] = header_ends[row] + header_sizes[row]
        value_ends[row + 1] = value_ends[row] + message[_PAYLOAD_SIZE]
    return places, key_ends, keyed, header_ends, value_ends, valued


@njit((LONG, LONG, LONG, INT), nogil=True, cache=True)
def poll_queue(queue: int, count: int, max_bytes: int, timeout_ms: int) -> tuple[Any, ...]:
    """Up to `count` messages of a queue, until they have `max_bytes`: error, partition, offset, timestamp and kind of
    timestamp of each, then keys, packed headers and values as `binary_column` takes them."""
    pointers, lists, header_sizes = np.empty(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    taken = _take(queue, max_bytes, timeout_ms, pointers, lists, header_sizes)
    places, key_ends, keyed, header_ends, value_ends, valued = _measure(pointers[:taken], header_sizes)
    # One byte more than needed: an address to copy to even where there is nothing.
    keys, values = np.empty(key_ends[taken] + 1, np.uint8), np.empty(value_ends[taken] + 1, np.uint8)
    headers = np.empty(header_ends[taken] + 1, np.uint8)
    message = np.empty(_MESSAGE_WORDS, np.int64)
    for row in range(taken):
        memcpy(message.ctypes.data, pointers[row], _MESSAGE_WORDS * _WORD)
        if valued[row]:
            memcpy(values.ctypes.data + value_ends[row], message[_PAYLOAD], message[_PAYLOAD_SIZE])
        if keyed[row]:
            memcpy(keys.ctypes.data + key_ends[row], message[_KEY], message[_KEY_SIZE])
        if lists[row] > 0:
            pack(lists[row], headers.ctypes.data + header_ends[row])
        _message_destroy(pointers[row])
    read = lists[:taken] != _UNREAD
    return places, keys, key_ends, keyed, headers, header_ends, read, values, value_ends, valued


@register_jitable
def _unpack(at: int, end: int) -> int:
    """The `rd_kafka_headers_t *` of packed headers, 0 without headers."""
    if at == end:
        return 0
    headers: int = _headers_new(8)
    lengths = np.empty(2, np.int32)
    while at < end:
        memcpy(lengths.ctypes.data, at, _LENGTHS)
        name = at + _LENGTHS
        size = max(0, lengths[1])
        _header_add(headers, name, lengths[0], name + lengths[0] if lengths[1] >= 0 else 0, size)
        at = name + lengths[0] + size
    return headers


@njit(
    (LONG, BYTES, ENDS, NUMBERS, BYTES, ENDS, FLAGS, BYTES, ENDS, BYTES, ENDS, FLAGS, LONG, LONG),
    nogil=True,
    cache=True,
)
def produce_rows(
    client: int, topic: Bytes, partitions: Ends, timestamps: Numbers, keys: Bytes, key_ends: Ends, keyed: Flags,
    headers: Bytes, header_ends: Ends, values: Bytes, value_ends: Ends, valued: Flags, row: int, stop: int,
) -> tuple[int, int]:  # fmt: skip
    """Hand rows to a producer until it refuses one: that row and the error (0: it took all)."""
    handle = _topic_new(client, topic.ctypes.data, 0)
    vus = np.zeros((7, _VU_WORDS), np.int64)
    vus[:, 0] = (_VU_TOPIC, _VU_FLAGS, _VU_PARTITION, _VU_TIMESTAMP, _VU_VALUE, _VU_KEY, _VU_HEADERS)
    vus[0, 1], vus[1, 1] = handle, _COPY
    code = 0
    while row < stop and code == 0:
        vus[2, 1], vus[3, 1] = partitions[row], timestamps[row]
        vus[4, 1] = values.ctypes.data + value_ends[row] if valued[row] else 0
        vus[4, 2] = value_ends[row + 1] - value_ends[row]
        vus[5, 1] = keys.ctypes.data + key_ends[row] if keyed[row] else 0
        vus[5, 2] = key_ends[row + 1] - key_ends[row]
        start = headers.ctypes.data + header_ends[row]
        own = _unpack(start, start + header_ends[row + 1] - header_ends[row])
        vus[6, 1] = own
        error = _produceva(client, vus.ctypes.data, 7 if own else 6)
        if error:
            code = _error_code(error)
            _error_destroy(error)
            if own:  # the client takes them over only with their message
                _headers_destroy(own)
        else:
            row += 1
    _topic_destroy(handle)
    return row, code


def handle(client: Consumer | Producer) -> int:
    """The `rd_kafka_t *` of an open client: the first field of its object, after Python's own head."""
    pointer = ctypes.c_void_p.from_address(id(client) + object.__basicsize__).value
    if pointer is None:
        raise RuntimeError("the client is closed")
    return pointer


def c_function(name: str, returns: Any, *takes: Any) -> Any:
    """A function of the client's library."""
    function = getattr(library, name)
    function.restype, function.argtypes = returns, takes
    return function
