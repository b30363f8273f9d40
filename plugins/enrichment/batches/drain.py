"""Drain: the messages of a batch, decoded and staged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import msgspec
import pyarrow as pa

from enrichment.batch import Batch
from enrichment.batches.kinds import Kind
from enrichment.batches.staged import EVENT_SCHEMA, EVENTS, KEYS, REFUSED, REFUSED_SCHEMA, Drained, key_schema
from enrichment.codec.decode import Decoded, decode, refuse_headers, reject_all
from enrichment.codec.hot_loops import quiet_gc
from enrichment.codec.records import Chunk, without
from enrichment.enrichers.registry import REGISTRY
from enrichment.kafka.clients import Clients
from enrichment.kafka.source import RangeReader
from enrichment.store.staging import ChunkWriter, Staging

# Messages that are decoded, and later spliced, at once: their bytes fit into a processor's cache, those of a chunk do
# not.
SLICE = 2_000
# Distinct keys of one enrichment in a chunk at most: while they are looked up, an answer takes several times what a
# message's keys do. Of messages whose requests have three lines it is `KAFKA_CHUNK_SIZE` that ends a chunk.
CHUNK_KEYS = 20_000
NO_EVENTS = pa.RecordBatch.from_pylist([], EVENT_SCHEMA)


def drain(clients: Clients, staging: Staging, batch: Batch, kind: Kind) -> Drained:
    """Read the batch's ranges, filter the messages as its kind does, decode, and stage events, their keys, and what was
    refused.

    Events are staged slice by slice as they come; keys, which all later stages work on, in chunks of many slices.
    """
    clients = clients.for_batch(batch)
    settings = clients.settings
    decoder = partial(reject_all if batch.quarantined else decode, keys=REGISTRY.keys)
    drain_filter = kind.filter_of(clients, batch)
    messages = refusals = 0
    drain_id = uuid4().hex
    slice_size = min(SLICE, settings.chunk_size)
    with (
        quiet_gc(),
        RangeReader(clients, batch.topic, batch.ranges, chunk_size=slice_size, max_bytes=batch.max_bytes) as reader,
        staging.write(batch.batch_id, EVENTS, drain_id) as events,
        staging.write(batch.batch_id, KEYS, drain_id) as keys,
        staging.write(batch.batch_id, REFUSED, drain_id) as refused,
    ):
        chosen = reader.chunks() if drain_filter is None else filter(len, map(drain_filter, reader.chunks()))
        slices = _write_events(map(partial(stage, decoder=decoder), chosen), events)
        for chunk in _chunks(slices, settings.chunk_size - slice_size, settings.chunk_bytes):
            keys.write(pa.concat_batches([part.keys for part in chunk]))
            refused.write(pa.concat_batches([part.refused for part in chunk]))
            messages += sum(part.messages for part in chunk)
            refusals += sum(part.refused.num_rows for part in chunk)
            chunk.clear()  # before the next one is read: one chunk in memory, not two
        read = msgspec.structs.replace(batch, ranges=reader.ranges, tails=reader.tails)
        return Drained(read, messages, refusals, reader.value_bytes)


class Staged(NamedTuple):
    """Messages as they are staged: each is an event with its keys, or it was refused."""

    events: pa.RecordBatch
    keys: pa.RecordBatch
    refused: pa.RecordBatch

    @property
    def messages(self) -> int:
        """The number of messages, events and refused ones."""
        return int(self.keys.num_rows + self.refused.num_rows)


def _write_events(slices: Iterable[Staged], file: ChunkWriter) -> Iterator[Staged]:
    """Write the events of each slice, and go on with the rest of it."""
    for part in slices:
        if part.events.num_rows:
            file.write(part.events)
        yield part._replace(events=NO_EVENTS)  # a slice of none of them would keep all in memory


def _chunks(slices: Iterable[Staged], messages: int, size: int) -> Iterator[list[Staged]]:
    """Combine slices until a chunk has more than so many messages, has `size` bytes, or may not take another slice of
    distinct keys."""
    chunk: list[Staged] = []
    held_messages = held_bytes = 0
    held_keys = [DistinctKeys() for _ in REGISTRY.keys]
    for part in slices:
        chunk.append(part)
        held_messages += part.messages
        held_bytes += part.keys.nbytes + part.refused.nbytes
        for held, column in zip(held_keys, part.keys.columns, strict=True):
            held.add(column)
        if (
            held_messages > messages
            or held_bytes >= size
            or any(held.may_be_more_than(CHUNK_KEYS - SLICE) for held in held_keys)
        ):
            yield chunk
            chunk, held_messages, held_bytes = [], 0, 0
            held_keys = [DistinctKeys() for _ in REGISTRY.keys]
    if chunk:
        yield chunk


class DistinctKeys:
    """Bounds how many distinct keys columns have together, without a look at them while rows are few.

    A row counts as a key until that makes too many. The rows since the last look are looked at then: a key counts once
    among these, and again after the next look.
    """

    def __init__(self) -> None:
        self._counted = 0
        self._others: list[pa.Array] = []
        self._rows = 0  # of the others: slices of a sparse redrive have one row each, and are thousands

    def add(self, column: pa.Array) -> None:
        """Take these keys in, too."""
        self._others.append(column)
        self._rows += len(column)

    def may_be_more_than(self, most: int) -> bool:
        """False where there are so many at most."""
        if self._counted + self._rows <= most:
            return False
        self._counted += len(pa.chunked_array(self._others).unique())
        self._others, self._rows = [], 0
        return self._counted > most


def stage(read: Chunk, decoder: Callable[[pa.Array], Decoded]) -> Staged:
    """Decode what was read: each message becomes an event with its keys, or is refused."""
    decoded = decoder(read.columns["value"])
    frame = read.columns
    refusals = refuse_headers(frame["headers"]) | decoded.refused
    events = pa.record_batch([*frame.columns, pa.array(decoded.fast)], schema=EVENT_SCHEMA)
    keys = pa.record_batch([decoded.keys[name] for name in REGISTRY.keys], schema=key_schema())
    rows = sorted(refusals)
    reasons = pa.array([refusals[row].reason for row in rows], pa.string())
    details = pa.array([refusals[row].detail for row in rows], pa.string())
    dead = frame.take(pa.array(rows, pa.int64()))
    return Staged(
        without(events, rows),
        without(keys, rows),
        pa.record_batch([*dead.columns, reasons, details], schema=REFUSED_SCHEMA),
    )
