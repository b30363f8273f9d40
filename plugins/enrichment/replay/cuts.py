"""Messages one by one in, the offset ranges of bounded batches out: each range begins where the one before it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from enrichment.batch import OffsetRange


@dataclass
class _Cut:
    """One partition's messages, cut into consecutive ranges of bounded size."""

    partition: int
    max_messages: int
    max_bytes: int
    ranges: list[OffsetRange] = field(default_factory=list)
    start: int | None = None
    end: int = 0
    messages: int = 0
    size: int = 0

    def add(self, offset: int, size: int) -> None:
        if self.start is None:
            self.start = offset
        elif self.messages >= self.max_messages or self.size >= self.max_bytes:
            # The next range begins where this one ends: the group goes from one to the other.
            self.ranges.append(OffsetRange(self.partition, self.start, offset))
            self.start, self.messages, self.size = offset, 0, 0
        self.messages, self.size, self.end = self.messages + 1, self.size + size, offset + 1

    def finish(self) -> list[OffsetRange]:
        last = [] if self.start is None else [OffsetRange(self.partition, self.start, self.end)]
        return self.ranges + last


class Cuts:
    """All partitions' cuts; the partitions of a lane share the size of a batch."""

    def __init__(self, partitions: Sequence[int], lanes: int, batch_size: int, batch_bytes: int) -> None:
        self.lanes: dict[int, list[int]] = {}
        for partition in partitions:
            self.lanes.setdefault(partition % lanes, []).append(partition)
        shares = {partition: len(lane) for lane in self.lanes.values() for partition in lane}
        self._cuts = {
            partition: _Cut(partition, max(1, batch_size // n), max(1, batch_bytes // n))
            for partition, n in shares.items()
        }
        self.selected = 0

    def add(self, partition: int, offset: int, size: int) -> None:
        """Count a message in, in the order of its partition."""
        self.selected += 1
        self._cuts[partition].add(offset, size)

    def sequences(self) -> Iterator[tuple[int, list[tuple[OffsetRange, ...]]]]:
        """Each lane with the ranges of its batches, in order."""
        for lane, partitions in sorted(self.lanes.items()):
            rounds = zip_longest(*(self._cuts[partition].finish() for partition in partitions))
            yield lane, [tuple(r for r in ranges if r is not None) for ranges in rounds]
