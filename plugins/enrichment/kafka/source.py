"""Offset ranges of a topic in, their messages out, chunk by chunk, each chunk bounded in messages and bytes.

All reading of the pipeline is done here. `RangeReader` also says afterwards what was read, `read_ranges` only returns
messages, `read_at` reads a few messages whose offsets are known.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Self

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from enrichment.batch import OffsetRange, Tail
from enrichment.codec.buffers import parts_of
from enrichment.codec.records import Chunk
from enrichment.errors import OffsetsLost
from enrichment.kafka.asking import SLICE_SECONDS
from enrichment.kafka.bulk import FetchQueue, PartitionEvent
from enrichment.kafka.clients import Clients
from enrichment.kafka.settled import advice


class RangeReader:
    """Reads exactly the messages of these ranges, one a partition, in the order of each; commits nothing.

    Offsets may be missing (transaction markers, aborted messages, compaction): a partition is done when its position
    has reached the end of its range, not when a count is. Iterate over `chunks()` in a `with` block; `ranges` says
    afterwards what was read: all of them, or less when values of `max_bytes` were read before.

    Reads with a consumer of its own, unless it is handed one of `Clients` that is connected, which it leaves assigned.
    """

    def __init__(
        self, clients: Clients, topic: str, ranges: Iterable[OffsetRange],
        *, chunk_size: int | None = None, max_bytes: int | None = None, consumer: Consumer | None = None,
    ) -> None:  # fmt: skip
        settings = clients.settings
        self._clients = clients
        self._handed = consumer
        self._topic = topic
        self._wanted = tuple(ranges)
        self._chunk_size = chunk_size or settings.chunk_size
        self._chunk_bytes = settings.chunk_bytes
        self._max_bytes = max_bytes
        self._timeout = settings.request_timeout_sec
        # A range that an earlier drain ended before its first message is empty: no message of it will come.
        self._open = {r.partition: r for r in self._wanted if r.span}
        self._positions = {r.partition: r.start for r in self._wanted}
        self._tails: dict[int, Tail] = {}
        self._stable_ends: dict[int, int] = {}  # where the client came to the end of what it may see
        self._closing = ExitStack()
        self._ahead: Future[tuple[pa.RecordBatch, list[PartitionEvent]]] | None = None
        self.value_bytes = 0

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            if self._handed is None:
                self._consumer = opening.enter_context(self._clients.drain_reader())
            else:
                self._consumer = self._handed
            self._queue = opening.enter_context(closing(FetchQueue(self._consumer)))
            self._thread = opening.enter_context(ThreadPoolExecutor(1))
            self._queue.take_over(self._topic, self._open)
            self._consumer.assign([TopicPartition(self._topic, r.partition, r.start) for r in self._open.values()])
            self._closing = opening.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    @property
    def ranges(self) -> tuple[OffsetRange, ...]:
        """The ranges read so far."""
        return tuple(OffsetRange(r.partition, r.start, self._positions[r.partition]) for r in self._wanted)

    @property
    def tails(self) -> tuple[Tail, ...]:
        """The last message read so far of each range that held any."""
        return tuple(self._tails[partition] for partition in sorted(self._tails))

    def chunks(self) -> Iterator[Chunk]:
        """The messages, at most `chunk_size` at once and about `chunk_bytes` of them. The last chunk may be empty.

        Raises `OffsetsLost` when a range has left the log, `KafkaException` when the broker does not deliver within the
        timeout or refuses.
        """
        while self._open and not self._full():
            yield self._next_chunk()

    def _full(self) -> bool:
        return self._max_bytes is not None and self.value_bytes >= self._max_bytes

    def _next_chunk(self) -> Chunk:
        quiet_since = time.monotonic()
        while True:
            polled, events = (self._ahead or self._poll()).result()
            self._serve_client()
            kept = self._keep(polled)
            for event in events:
                self._on_event(event)
            _, value_ends = parts_of(kept["value"])
            self.value_bytes += int(value_ends[-1] - value_ends[0])
            # The next messages are fetched while these are decoded, on another core.
            self._ahead = self._poll() if self._open and not self._full() else None
            if kept.num_rows or self._ahead is None:
                return Chunk(kept, self._queue.appended)
            if polled.num_rows or events:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > self._timeout:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, self._stalled()))

    def _poll(self) -> Future[tuple[pa.RecordBatch, list[PartitionEvent]]]:
        room = self._chunk_bytes
        if self._max_bytes is not None:
            room = min(room, self._max_bytes - self.value_bytes)
        return self._thread.submit(self._queue.poll, self._chunk_size, room, min(SLICE_SECONDS, self._timeout))

    def _serve_client(self) -> None:
        """Serve the client's callbacks, and its errors about more than one partition, such as about the whole topic."""
        message = self._consumer.poll(0)
        if message is not None and message.error() is not None and message.partition() in self._positions:
            raise KafkaException(message.error())

    def _keep(self, polled: pa.RecordBatch) -> pa.RecordBatch:
        """The messages of open ranges; records positions and ends."""
        partitions, offsets = polled["partition"].to_numpy(), polled["offset"].to_numpy()
        keep = np.zeros(len(offsets), dtype=bool)
        for partition in np.flatnonzero(np.bincount(partitions)).tolist():
            wanted = self._open.get(partition)
            if wanted is None:  # fetched ahead, past the end of its range
                continue
            own = partitions == partition
            within = own & (offsets < wanted.end)
            keep |= within
            if within.any():
                self._tails[partition] = _tail_of(polled, int(within.nonzero()[0][-1]))
            position = int(offsets[own][-1]) + 1
            if position < wanted.end:
                self._positions[partition] = position
            else:
                self._finish(wanted)
        return polled if keep.all() else polled.filter(pa.array(keep))

    def _on_event(self, event: PartitionEvent) -> None:
        wanted, code = self._open.get(event.partition), event.error.code()
        if wanted is None:
            return
        if code == KafkaError._PARTITION_EOF:
            # The log's end was at or past the range's end when it was claimed: the rest of the range is a gap.
            if event.offset >= wanted.end:
                self._finish(wanted)
            self._stable_ends[event.partition] = event.offset
            return
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise OffsetsLost(
                f"offsets of partition {wanted.partition} of {self._topic} are no longer in the log (claimed "
                f"{wanted.start} to {wanted.end}, read up to {self._positions[wanted.partition]}): {event.error.str()}"
            )
        raise KafkaException(event.error)

    def _finish(self, wanted: OffsetRange) -> None:
        self._positions[wanted.partition] = wanted.end
        del self._open[wanted.partition]
        if self._open:
            self._consumer.incremental_unassign([TopicPartition(self._topic, wanted.partition)])

    def _stalled(self) -> str:
        where = ", ".join(f"{p} at {self._positions[p]} of {r.end}" for p, r in self._open.items())
        text = f"no message of {self._topic} within {self._timeout:g} s; partitions waited for: {where}"
        hidden = next((p for p, r in self._open.items() if self._stable_ends.get(p, r.end) < r.end), None)
        return text if hidden is None else f"{text}. Is a transaction open? {advice(self._topic, hidden)}"


def _tail_of(polled: pa.RecordBatch, row: int) -> Tail:
    partition, offset, timestamp, key, _headers, value = (column[row].as_py() for column in polled.columns)
    return Tail(partition, offset, timestamp, zlib.crc32(value or b"", zlib.crc32(key or b"")))


def read_ranges(clients: Clients, topic: str, ranges: Iterable[OffsetRange]) -> Iterator[Chunk]:
    """The messages of any ranges, one a partition, as `RangeReader` reads them; no broker is asked for empty ones."""
    wanted = [r for r in ranges if r.span]
    if wanted:
        with RangeReader(clients, topic, wanted) as reader:
            yield from reader.chunks()


def read_at(
    clients: Clients, topic: str, offsets: Mapping[int, Collection[int]], consumer: Consumer | None = None
) -> dict[tuple[int, int], Tail]:
    """The identity (`Tail`) of the messages at these offsets, by partition and offset; some offsets may hold none. All
    that lies between those of a partition is read, too."""
    found = {}
    ranges = [OffsetRange(partition, min(wanted), max(wanted) + 1) for partition, wanted in offsets.items()]
    with RangeReader(clients, topic, ranges, consumer=consumer) as reader:
        for chunk in reader.chunks():
            for row, (partition, offset) in enumerate(zip(chunk.partitions, chunk.offsets, strict=True)):
                if offset in offsets[partition]:
                    found[partition, offset] = _tail_of(chunk.columns, row)
    return found
