"""Wait until all that is published is visible: a commit returns before its markers are in all partitions.

Until a partition has its marker, its last stable offset, which limits `read_committed`, stays before the transaction,
for some milliseconds after the commit. So a reader of "all that is published by now" waits until the last stable offset
has reached the end that the log had when it asked. It waits for transactions of others, too, which cannot be told apart
and may last: the wait is bounded. A caller that can do without what an open transaction hides uses `await_stable`,
every other `require_stable`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from confluent_kafka import IsolationLevel, TopicPartition

from enrichment.batch import OffsetRange
from enrichment.errors import TransactionOpen
from enrichment.kafka.asking import LATEST, log_offsets, partitions_of
from enrichment.kafka.clients import Clients

log = logging.getLogger(__name__)
SETTLE_SECONDS = 10.0  # a healthy publication is over well within it
POLL_SECONDS = 0.01


def await_stable(
    clients: Clients, *topics: str, seconds: float | None = None, partitions: Sequence[int] | None = None
) -> dict[str, tuple[OffsetRange, ...]]:
    """Return when all that the topics hold now is stable, or after these seconds: then with the offsets, by topic, that
    open transactions still hide, and with a warning in the log.

    What was committed before the call is visible after it, unless such a transaction hides it.
    """
    timeout, admin = clients.settings.request_timeout_sec, clients.admin()
    seconds = SETTLE_SECONDS if seconds is None else seconds
    homes = [TopicPartition(t, p) for t in topics for p in _chosen(partitions_of(admin, t, timeout), partitions)]
    written = log_offsets(admin, homes, LATEST, timeout, IsolationLevel.READ_UNCOMMITTED)
    deadline = time.monotonic() + seconds
    while True:
        stable = log_offsets(admin, homes, LATEST, timeout)
        hidden = {home: end for home, end in written.items() if stable[home] < end}
        if not hidden or time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    found: dict[str, tuple[OffsetRange, ...]] = {}
    for (topic, partition), end in sorted(hidden.items()):
        found[topic] = (*found.get(topic, ()), OffsetRange(partition, stable[topic, partition], end))
    for topic, ranges in found.items():
        log.warning("transaction.open topic=%s waited_seconds=%g hidden=%s", topic, seconds, _text(ranges))
    return found


def require_stable(clients: Clients, *topics: str) -> None:
    """As `await_stable`, but raises `TransactionOpen` where something stays hidden."""
    for topic, ranges in await_stable(clients, *topics).items():
        raise TransactionOpen(
            f"a transaction on {topic} stays open and hides what is published after it ({_text(ranges)}). Run this "
            f"again when it has ended. {advice(topic, ranges[0].partition)}"
        )


def advice(topic: str, partition: int) -> str:
    """How to find the owner of a transaction that is open there."""
    return (
        f"`kafka-transactions.sh --bootstrap-server <brokers> describe-producers --topic {topic} --partition "
        f"{partition}` says whose it is; its `abort` ends one that hangs"
    )


def _chosen(there: list[int], partitions: Sequence[int] | None) -> list[int]:
    return there if partitions is None else sorted(set(there) & set(partitions))


def _text(ranges: Sequence[OffsetRange]) -> str:
    return ", ".join(f"partition {r.partition}: offsets {r.start} to {r.end}" for r in ranges)
