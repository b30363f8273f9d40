"""Offsets of a topic's partitions in, the messages before (or after) them that fit a condition out, newest first.

Kafka reads forward only, and has no index but time. So ranges are read that end where the last one began, small at
first, larger while nothing is found; what was read of each partition, and how far, is part of the answer, so that the
next scan goes on from there. Every scan is bounded in messages, bytes and seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import Consumer

from enrichment.batch import OffsetRange
from enrichment.codec.records import Chunk
from enrichment.errors import RunRefused
from enrichment.inspection.conditions import MessageCondition
from enrichment.kafka.asking import partitions_of
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import watermarks
from enrichment.kafka.source import RangeReader
from enrichment.kafka.times import find_bounds

FIRST_STEP, GROWTH, LONGEST_STEP = 64, 8, 50_000  # offsets of a partition that are read at once
STEP_BYTES = 8 * 1024**2  # about as much of all partitions is read at once
# A step with more than this is given up and read in smaller ones: the messages are much larger than those before.
MOST_STEP_BYTES = 8 * STEP_BYTES
LATE_SECONDS = 1.0  # a step that was begun in time may be finished within


class ScanLimits(msgspec.Struct, frozen=True):
    """What one scan may take: messages that it returns, messages and bytes that it reads, seconds. It begins with
    `step` offsets of each partition."""

    count: int
    step: int = FIRST_STEP
    messages: int = 200_000
    bytes: int = 128 * 1024**2
    seconds: float = 2.0


class FoundMessage(msgspec.Struct, frozen=True):
    """A message as it is in its topic; headers are packed, None where they could not be read."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    headers: bytes | None
    value: bytes | None


class Scanned(msgspec.Struct, frozen=True):
    """What a scan found, and how far it came.

    `older` and `newer` are the positions from which a scan goes on to either side, by partition. `messages` and `bytes`
    were looked at, the oldest of `oldest_at` (milliseconds). `is_done` says that the log has no more on that side.
    """

    found: list[FoundMessage]
    older: dict[int, int]
    newer: dict[int, int]
    messages: int
    bytes: int
    oldest_at: int | None
    is_done: bool


@dataclass(slots=True)
class _Side:
    """A partition, read from `position` to its `limit`; `pending` fits and is not returned yet, the next one first."""

    partition: int
    low: int
    high: int
    position: int
    step: int
    pending: list[FoundMessage] = field(default_factory=list)


class Scan:
    """A scan of a topic, to the older side unless told otherwise; one step at least, then until a limit is reached or
    it is `stopped`.

    Raises `KafkaException` when the brokers do not answer, and `OffsetsLost` when retention is quicker than the
    reading.
    """

    def __init__(
        self, clients: Clients, topic: str, condition: MessageCondition, limits: ScanLimits,
        *, is_newer: bool = False, stopped: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self._clients = clients
        self._topic = topic
        self._condition = condition
        self._limits = limits
        self._is_newer = is_newer
        self._stopped = stopped
        self._messages = self._bytes = 0
        self._oldest: int | None = None

    def run(
        self, positions: Mapping[int, int] | None = None, partitions: Collection[int] | None = None,
        at: int | None = None, like: int | None = None,
    ) -> Scanned:  # fmt: skip
        """Scan from these positions on, or from a time (milliseconds) on, or from the end of the log; all partitions,
        or these, or the one that takes what comes from the input partition `like`. Raises `RunRefused` for a partition
        that the topic does not have."""
        deadline = time.monotonic() + self._limits.seconds
        found: list[FoundMessage] = []
        with self._clients.offsets_reader() as consumer:
            sides = self._sides(consumer, positions, partitions, at, like)
            starts = {side.partition: side.position for side in sides}
            has_moved = False
            # Assigned once only: a client does not reliably take other offsets of the same partition.
            unused: Consumer | None = consumer
            while not has_moved or not self._is_over(deadline):
                hungry = [side for side in sides if not side.pending and not self._is_at_end(side)]
                if not hungry or len(found) >= self._limits.count:
                    break
                has_moved |= self._read(hungry, deadline, consumer=unused, may_be_late=not has_moved)
                unused = None
                self._take(sides, found, is_last=False)
        self._take(sides, found, is_last=True)
        reached = {side.partition: self._reached(side) for side in sides}
        found.sort(key=_age, reverse=True)
        older, newer = (starts, reached) if self._is_newer else (reached, starts)
        is_done = all(self._is_at_end(side) and not side.pending for side in sides)
        return Scanned(found, older, newer, self._messages, self._bytes, self._oldest, is_done)

    def _sides(
        self, consumer: Consumer, positions: Mapping[int, int] | None, partitions: Collection[int] | None,
        at: int | None, like: int | None,
    ) -> list[_Side]:  # fmt: skip
        timeout = self._clients.settings.request_timeout_sec
        there = partitions_of(consumer, self._topic, timeout)
        wanted = sorted(positions or partitions or ([] if like is None else [there[like % len(there)]]) or there)
        unknown = sorted(set(wanted) - set(there))
        if unknown:
            raise RunRefused(f"topic {self._topic} has no partition {unknown[0]}; it has {there[0]} to {there[-1]}")
        since = {} if at is None else {b.partition: b.first for b in find_bounds(consumer, self._topic, at, timeout)}
        sides = []
        for partition in wanted:
            low, high = watermarks(consumer, self._topic, partition, timeout)
            asked = (positions or since).get(partition, high)
            sides.append(_Side(partition, low, high, min(max(low, asked), high), self._limits.step))
        return sides

    def _is_over(self, deadline: float) -> bool:
        limits = self._limits
        is_spent = self._messages >= limits.messages or self._bytes >= limits.bytes
        return is_spent or time.monotonic() >= deadline or self._stopped()

    def _is_at_end(self, side: _Side) -> bool:
        return side.position >= side.high if self._is_newer else side.position <= side.low

    def _reached(self, side: _Side) -> int:
        """Where the next scan goes on: what is not returned is found again."""
        if not side.pending:
            return side.position
        return side.pending[0].offset + (not self._is_newer)

    def _range(self, side: _Side) -> OffsetRange:
        if self._is_newer:
            return OffsetRange(side.partition, side.position, min(side.high, side.position + side.step))
        return OffsetRange(side.partition, max(side.low, side.position - side.step), side.position)

    def _read(self, sides: list[_Side], deadline: float, *, consumer: Consumer | None, may_be_late: bool) -> bool:
        """Read the next range of each of these; where that is too much, only shorten their steps and return False."""
        ranges = [self._range(side) for side in sides]
        fitting: list[FoundMessage] = []
        messages = size = 0
        oldest = self._oldest
        may_give_up = any(r.span > 1 for r in ranges)
        with RangeReader(self._clients, self._topic, ranges, consumer=consumer) as reader:
            for chunk in reader.chunks():
                fitting += _messages_of(self._topic, chunk, self._condition.rows(chunk.columns))
                messages, size = messages + len(chunk), size + chunk.columns.nbytes
                oldest = min([*filter(lambda at: at >= 0, chunk.timestamps), *filter(None, [oldest])], default=None)
                is_late = not may_be_late and (time.monotonic() > deadline + LATE_SECONDS or self._stopped())
                if may_give_up and (size > MOST_STEP_BYTES or is_late):
                    for side in sides:
                        side.step = max(1, side.step // 16)
                    return False
        self._messages, self._bytes, self._oldest = self._messages + messages, self._bytes + size, oldest
        mean = max(1, size // max(1, messages))
        for side, r in zip(sides, ranges, strict=True):
            side.position = r.end if self._is_newer else r.start
            own = [message for message in fitting if message.partition == side.partition]
            side.pending = own if self._is_newer else own[::-1]
            side.step = max(1, min(GROWTH * side.step, LONGEST_STEP, STEP_BYTES // (mean * len(sides))))
        return True

    def _take(self, sides: list[_Side], found: list[FoundMessage], *, is_last: bool) -> None:
        """Move what comes next from the partitions to `found`. Where it is unknown what a partition has, nothing comes
        next, unless nothing more is read."""
        while len(found) < self._limits.count:
            ready = [side for side in sides if side.pending]
            if not ready or (not is_last and any(not s.pending and not self._is_at_end(s) for s in sides)):
                return
            best = (min if self._is_newer else max)(ready, key=lambda side: _age(side.pending[0]))
            found.append(best.pending.pop(0))


def _age(message: FoundMessage) -> tuple[int, int, int]:
    return message.timestamp, message.offset, message.partition


def _messages_of(topic: str, chunk: Chunk, rows: list[int]) -> list[FoundMessage]:
    chosen = chunk.take(rows)
    parts = zip(
        chosen.partitions, chosen.offsets, chosen.timestamps, chosen.keys, chosen.headers, chosen.values, strict=True
    )
    return [FoundMessage(topic, *part) for part in parts]
