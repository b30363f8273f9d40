"""The outputs of a window's messages, read back from the output topics by the origin in their headers."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from enrichment.batch import ReplayWindow
from enrichment.codec.headers import split_origin
from enrichment.codec.records import Chunk, unpack_headers
from enrichment.kafka.clients import Clients
from enrichment.kafka.source import read_ranges
from enrichment.messages import MessageOrigin

Offsets = np.ndarray[Any, np.dtype[np.int64]]


class _Stored(msgspec.Struct):
    enrichment_errors: Any = None


_decode_stored = msgspec.json.Decoder(_Stored).decode


def outputs(chunk: Chunk, topic: str, window: ReplayWindow) -> Iterator[tuple[int, MessageOrigin]]:
    """The rows of a chunk that may be outputs of the window's messages.

    An output has its input's time, so the headers of all others need not be read. Where a topic has the broker's times
    (`message.timestamp.type=LogAppendTime`), outputs of all windows are returned; joining them with the window's
    messages by origin drops the others.
    """
    times = np.array(chunk.timestamps, dtype=np.int64)
    within = (times >= window.start) & (times < window.end) | chunk.appended
    for row in np.flatnonzero(within).tolist():
        _, origin = split_origin(unpack_headers(chunk.headers[row] or b""))
        if origin is not None and origin.topic == topic:
            yield row, origin


def offsets_with_errors(clients: Clients, topic: str, window: ReplayWindow) -> dict[int, Offsets]:
    """The input offsets, by partition, whose last published output names one of the window's errors: nine bytes of
    memory for each output of the window."""
    wanted = frozenset(window.errors)
    offsets: dict[int, array[int]] = defaultdict(lambda: array("q"))
    named: dict[int, bytearray] = defaultdict(bytearray)
    for chunk in read_ranges(clients, window.published_topic, window.published):
        for row, origin in outputs(chunk, topic, window):
            offsets[origin.partition].append(origin.offset)
            named[origin.partition].append(not wanted.isdisjoint(_errors_of(chunk.values[row])))
    return {partition: _last_said(offsets[partition], named[partition]) for partition in offsets}


def _errors_of(value: bytes | None) -> list[str]:
    try:
        errors = _decode_stored(value or b"").enrichment_errors
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return [error for error in errors if isinstance(error, str)] if isinstance(errors, list) else []


def _last_said(offsets: array[int], named: bytearray) -> Offsets:
    """The offsets whose last answer is yes, in order: a later output replaces an earlier one."""
    backwards = np.frombuffer(offsets, dtype=np.int64)[::-1]
    unique, first = np.unique(backwards, return_index=True)
    said: Offsets = unique[np.frombuffer(named, dtype=np.uint8)[::-1][first] == 1]
    return said
