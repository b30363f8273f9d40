"""Which messages of a chunk belong to a replay's window and pass its filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from enrichment.batch import Batch, Purpose, ReplayWindow
from enrichment.codec.records import Chunk
from enrichment.kafka.clients import Clients
from enrichment.replay.published import Offsets, offsets_with_errors

Rows = np.ndarray[Any, np.dtype[np.int64]]


_NULL = msgspec.Raw(b"null")


class _Labels(msgspec.Struct):
    """Undecoded: a number that no double holds makes no label, and does not hide the other one."""

    service: msgspec.Raw = _NULL
    level: msgspec.Raw = _NULL


_decode_labels = msgspec.json.Decoder(_Labels).decode


def window_selection(clients: Clients, batch: Batch) -> Callable[[Chunk], Chunk]:
    """The drain filter of a replay's batch: see `ReplayWindow`."""
    window = batch.purpose.window
    if window is None:
        raise ValueError(f"batch {batch.batch_id} is run for a {batch.purpose.kind}, but has no window")
    pick = make_picker(clients, batch.topic, window)
    return lambda chunk: chunk.take(pick(chunk).tolist())


def make_picker(clients: Clients, topic: str, window: ReplayWindow) -> Callable[[Chunk], Rows]:
    """The function that returns the rows of a chunk that a replay takes. Reads the stored errors if the window filters
    by them."""
    stored = offsets_with_errors(clients, topic, window) if window.errors else None
    return lambda chunk: pick(chunk, window, stored)


def pick(chunk: Chunk, window: ReplayWindow, stored: Mapping[int, Offsets] | None = None) -> Rows:
    """The rows of the window's messages that pass its filters. `stored` are the offsets, by partition, that its filter
    of errors lets pass."""
    rows = in_window(chunk, window)
    if stored is not None:
        rows = _with_stored_errors(chunk, rows, stored)
    if window.services or window.levels:
        kept = [row for row in rows.tolist() if has_labels(chunk.values[row], window)]
        rows = np.array(kept, dtype=np.int64)
    return rows


def in_window(chunk: Chunk, window: ReplayWindow) -> Rows:
    """The rows whose time is the window's."""
    times = np.array(chunk.timestamps, dtype=np.int64)
    return np.flatnonzero((times >= window.start) & (times < window.end))


def has_labels(value: bytes | None, window: ReplayWindow) -> bool:
    """Whether a message's service and level are among those wanted; one that cannot be read has neither."""
    try:
        labels = _decode_labels(value or b"")
        service, level = map(_text, (labels.service, labels.level))
        (value or b"").decode()  # what is skipped was not looked at
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return (not window.services or service in window.services) and (not window.levels or level in window.levels)


def _text(label: msgspec.Raw) -> Any:
    return msgspec.json.decode(label) if bytes(label).startswith(b'"') else None


def _with_stored_errors(chunk: Chunk, rows: Rows, stored: Mapping[int, Offsets]) -> Rows:
    partitions = np.array(chunk.partitions, dtype=np.int64)[rows]
    offsets = np.array(chunk.offsets, dtype=np.int64)[rows]
    kept = np.zeros(len(rows), dtype=bool)
    for partition in set(partitions.tolist()) & set(stored):
        here = partitions == partition
        kept[here] = np.isin(offsets[here], stored[partition])
    return rows[kept]


def window_of(purpose: Purpose) -> ReplayWindow:
    """The window of a replay's purpose."""
    if purpose.window is None:
        raise ValueError(f"a purpose of the kind {purpose.kind} has no window")
    return purpose.window
