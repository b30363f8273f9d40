"""When live draining is to be woken: enough messages wait, or the oldest has waited long enough."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from confluent_kafka import KafkaException, TopicPartition

from enrichment.batch import Batch
from enrichment.kafka.asking import LATEST, log_offsets
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import Backlog
from enrichment.settings import WakeUpSettings
from enrichment.store.jobs import Ledger

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0  # for a broker's answer; a run does not wait longer for a guess at the next one
# Looks that are remembered for each partition. A backlog that is older than they are is as old as the first of them.
LOOKS = 1_000


class Ring(NamedTuple):
    """What waits: offsets in all partitions, and for how many seconds the oldest has."""

    waiting: int
    oldest_sec: float

    def to_event(self) -> dict[str, float]:
        """As an asset event tells it."""
        return {"waiting": self.waiting, "oldest_sec": round(self.oldest_sec, 1)}


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


def left_after(batch: Batch, ledger: Ledger, clients: Clients, settings: WakeUpSettings) -> Ring | None:
    """What is to be done after a batch that is published: messages that its run left waiting or, if it is time for
    them, those that came into the lane since. None if nothing is, or the brokers do not say."""
    job = ledger.get(batch.batch_id)
    if job is None:
        return None
    age = (datetime.now(UTC) - job.claimed_at).total_seconds()
    if job.left:
        return Ring(job.left, age)
    positions, lanes = ledger.positions.get(batch.topic, batch.group_id), clients.settings.lanes
    starts = {p: at.next_offset for p, at in positions.items() if p % lanes == batch.lane}
    homes = [TopicPartition(batch.topic, partition) for partition in starts]
    try:
        ends = log_offsets(clients.admin(), homes, LATEST, REQUEST_SECONDS)
    except KafkaException as untold:
        log.warning("wake_up.unknown batch=%s error=%s: the next run starts by the minute", batch.batch_id, untold)
        return None
    ring = Ring(sum(max(0, ends[batch.topic, p] - start) for p, start in starts.items()), age)
    return ring if is_due(ring, settings) else None
