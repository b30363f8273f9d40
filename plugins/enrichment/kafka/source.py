"""Drain: read the offset ranges of a batch, chunk by chunk, each chunk bounded in messages and bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from enrichment.errors import OffsetsLost
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import SLICE_SECONDS
from enrichment.messages import Batch, OffsetRange
from enrichment.outgoing import pack_headers

# A message that was read. For the client's type hints even its partition may be None, as that of one not yet sent.
Read = Any
PARTITION: Callable[[Read], int] = Message.partition  # type: ignore[assignment]
OFFSET: Callable[[Read], int] = Message.offset  # type: ignore[assignment]

# Messages per call into the client: small enough that even messages of the largest size stay within memory.
POLL_MESSAGES = 100


@dataclass(frozen=True, slots=True)
class Chunk:
    """Messages in the order in which they were read, a list for each part. A timestamp that is not there is 0 or less.

    Parts are taken out poll by poll, while the messages are still in the processor's cache: once a whole chunk has been
    read they are not, and the same costs twice as much.
    """

    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    timestamps: list[int] = field(default_factory=list)  # milliseconds since the epoch
    keys: list[bytes | None] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)  # packed
    values: list[bytes | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def add(self, polled: Sequence[Read]) -> None:
        """Append messages."""
        # `map` over methods: without a line of Python per message and part, this costs half.
        self.partitions.extend(map(PARTITION, polled))
        self.offsets.extend(map(OFFSET, polled))
        self.timestamps.extend([at for _, at in map(Message.timestamp, polled)])
        self.keys.extend(map(Message.key, polled))
        self.headers.extend(pack_headers(map(Message.headers, polled)))
        self.values.extend(map(Message.value, polled))

    def take(self, rows: Sequence[int]) -> Chunk:
        """The messages at these positions, in this order."""
        if len(rows) == len(self):
            return self
        return Chunk(*([part[row] for row in rows] for part in (getattr(self, name) for name in PARTS)))


PARTS = tuple(part.name for part in fields(Chunk))


class RangeReader:
    """Reads exactly the messages of `batch.ranges`, in the order of each partition.

    Offsets may be missing (transaction markers, aborted messages, compaction): a partition is done when its position
    has reached the end of its range, not when a count is. Iterate over `chunks()`; `ranges` says afterwards what was
    read: the batch's ranges, or less when `max_bytes` was reached.
    """

    def __init__(self, consumer: Consumer, batch: Batch, chunk_size: int, chunk_bytes: int, timeout: float) -> None:
        self._consumer = consumer
        self._batch = batch
        self._chunk_size = chunk_size
        self._chunk_bytes = chunk_bytes
        self._timeout = timeout
        # A range that an earlier drain ended before its first message is empty: nothing of it will ever come.
        self._open = {r.partition: r for r in batch.ranges if r.span}
        self._positions = {r.partition: r.start for r in batch.ranges}
        self.value_bytes = 0

    @property
    def ranges(self) -> tuple[OffsetRange, ...]:
        """What has been read so far."""
        return tuple(OffsetRange(r.partition, r.start, self._positions[r.partition]) for r in self._batch.ranges)

    def chunks(self) -> Iterator[Chunk]:
        """The messages, at most `chunk_size` at once and about `chunk_bytes` of values. The last chunk may be empty.

        Raises `OffsetsLost` when a range has left the log, `KafkaException` when the broker does not deliver within the
        timeout or refuses.
        """
        self._consumer.assign([TopicPartition(self._batch.topic, r.partition, r.start) for r in self._open.values()])
        while self._open and not self._full():
            yield self._next_chunk()

    def _full(self) -> bool:
        return self._batch.max_bytes is not None and self.value_bytes >= self._batch.max_bytes

    def _next_chunk(self) -> Chunk:
        chunk = Chunk()
        size = 0
        quiet_since = time.monotonic()
        while self._open and len(chunk) < self._chunk_size and size < self._chunk_bytes:
            wanted = min(POLL_MESSAGES, self._chunk_size - len(chunk), self._left())
            polled = self._consumer.consume(wanted, SLICE_SECONDS)
            if polled:
                quiet_since = time.monotonic()
                size += self._keep(polled, chunk)
            elif time.monotonic() - quiet_since > self._timeout:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, self._stalled()))
        self.value_bytes += size
        return chunk

    def _left(self) -> int:
        return sum(r.end - self._positions[p] for p, r in self._open.items())

    def _keep(self, polled: list[Read], chunk: Chunk) -> int:
        """Append what belongs to a range, note positions and ends; returns the bytes of the values appended."""
        if self._is_within_one_range(polled):
            chunk.add(polled)
            self._positions[polled[0].partition()] = polled[-1].offset() + 1
            return sum(map(len, polled))
        return sum(self._keep_one(message, chunk) for message in polled)

    def _is_within_one_range(self, polled: list[Read]) -> bool:
        """Nearly every poll is: a fetch brings many messages of one partition, and none needs a look of its own."""
        # `map` over methods: without a line of Python per message, this costs half.
        partitions = set(map(PARTITION, polled))
        if len(partitions) > 1 or set(map(type, map(Message.error, polled))) != {NoneType}:
            return False
        wanted = self._open.get(partitions.pop())
        return wanted is not None and polled[-1].offset() + 1 < wanted.end

    def _keep_one(self, message: Read, chunk: Chunk) -> int:
        wanted = self._open.get(message.partition())
        if wanted is None:  # fetched ahead, past the end of its range
            return 0
        if message.error() is not None:
            self._on_error(message, wanted)
            return 0
        offset, size = message.offset(), 0
        if offset < wanted.end:
            chunk.add([message])
            self._positions[wanted.partition] = offset + 1
            size = len(message)
        if offset + 1 >= wanted.end:
            self._finish(wanted)
        return size

    def _on_error(self, message: Read, wanted: OffsetRange) -> None:
        error = message.error()
        if error.code() == KafkaError._PARTITION_EOF:
            # The log's end was at or past the range's end when it was claimed: what is left of the range is a gap.
            if message.offset() >= wanted.end:
                self._finish(wanted)
            return
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise OffsetsLost(
                f"offsets of partition {wanted.partition} of {self._batch.topic} are no longer in the log (claimed "
                f"{wanted.start} to {wanted.end}, read up to {self._positions[wanted.partition]}): {error.str()}"
            )
        raise KafkaException(error)

    def _finish(self, wanted: OffsetRange) -> None:
        self._positions[wanted.partition] = wanted.end
        del self._open[wanted.partition]
        if self._open:
            self._consumer.incremental_unassign([TopicPartition(self._batch.topic, wanted.partition)])

    def _stalled(self) -> str:
        where = ", ".join(f"{p} at {self._positions[p]} of {r.end}" for p, r in self._open.items())
        return f"no message of {self._batch.topic} within {self._timeout:g} s; partitions waited for: {where}"


def read_ranges(clients: Clients, topic: str, ranges: Sequence[OffsetRange]) -> Iterator[Chunk]:
    """The messages of any ranges, one a partition, as `RangeReader` reads a batch's; nobody's progress is touched."""
    settings = clients.settings
    wanted = Batch("", topic, settings.consumer_group, 0, tuple(r for r in ranges if r.span))
    with clients.drain_reader() as consumer:
        yield from RangeReader(
            consumer, wanted, settings.chunk_size, settings.chunk_bytes, settings.request_timeout_sec
        ).chunks()
