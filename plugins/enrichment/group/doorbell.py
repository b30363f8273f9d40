"""When live draining is to be woken: enough messages wait, or the oldest has waited long enough."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from enrichment.kafka.offsets import Backlog
from enrichment.settings import WakeUpSettings

# Looks that are remembered for each partition. A backlog that is older than they are is as old as the first of them.
LOOKS = 1_000


class Ring(NamedTuple):
    """What waits: offsets in all partitions, and for how many seconds the oldest has."""

    waiting: int
    oldest_sec: float


def is_due(ring: Ring, settings: WakeUpSettings) -> bool:
    """Whether it is time for a run."""
    return ring.waiting > 0 and (ring.waiting >= settings.messages or ring.oldest_sec >= settings.after_sec)


class Doorbell:
    """Looks at what waits from time to time, and says when to ring: once for each place that the group has come to.

    As long as the group does not move there is no second ring, however much comes in: a run is under way, or one failed
    and the schedule tries again.
    """

    def __init__(self, settings: WakeUpSettings) -> None:
        self._settings = settings
        # When the log of a partition was first seen to reach further than before, and how far.
        self._seen: dict[int, deque[tuple[float, int]]] = {}
        self._rung_at: dict[int, int] | None = None

    def look(self, backlog: Iterable[Backlog], now: float) -> Ring | None:
        """Take what waits in the partitions at a time (seconds of a clock that does not jump); what to ring for, or
        None."""
        found = list(backlog)
        ring = Ring(sum(b.span for b in found), max((self._age(b, now) for b in found), default=0.0))
        at = {b.partition: b.start for b in found}
        if at == self._rung_at or not is_due(ring, self._settings):
            return None
        self._rung_at = at
        return ring

    def _age(self, b: Backlog, now: float) -> float:
        """Seconds since the message at the group's offset was first seen."""
        seen = self._seen.setdefault(b.partition, deque(maxlen=LOOKS))
        if not seen or seen[-1][1] != b.high:
            seen.append((now, b.high))
        while seen and seen[0][1] <= b.start:
            seen.popleft()
        return now - seen[0][0] if seen else 0.0
