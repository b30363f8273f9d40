"""A topic's configuration in; which messages it would delete as soon as they are published, out.

Every output keeps the time of its input message, and a topic with time-based retention deletes by that time, not by the
time of appending: an output of last month is gone at the broker's next check. Each finding is a text that names the
topic, what is wrong, and the command that fixes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, Self

import numpy as np
from confluent_kafka import KafkaException

from enrichment.batch import Batch, Tail
from enrichment.errors import EnrichmentError
from enrichment.kafka.clients import Clients
from enrichment.kafka.times import to_text
from enrichment.kafka.topics import describe_topics
from enrichment.settings import KafkaSettings

log = logging.getLogger(__name__)
DELETE, COMPACT = "delete", "compact"
FIRST_TIME = 0  # anything below means that a message has no time (`enrichment.codec.records`)
Times = np.ndarray[Any, np.dtype[np.int64]]


def now_in_milliseconds() -> int:
    """The present time, as in Kafka's timestamps."""
    return round(1000 * time.time())


class Retention(NamedTuple):
    """A topic's effective retention: its own settings, or its brokers'. -1 is no limit."""

    topic: str
    policies: frozenset[str]
    milliseconds: int
    partition_bytes: int
    append_time: bool

    @classmethod
    def of(cls, topic: str, config: Mapping[str, Any]) -> Self:
        """From a topic's configuration as a broker describes it. A setting that other brokers than Kafka's leave out
        limits nothing."""
        told = {name: entry.value for name, entry in config.items() if entry.value}
        return cls(
            topic,
            frozenset(told.get("cleanup.policy", "").replace(" ", "").split(",")),
            int(told.get("retention.ms", -1)),
            int(told.get("retention.bytes", -1)),
            told.get("message.timestamp.type") == "LogAppendTime",
        )

    def oldest_kept(self, now: int) -> int | None:
        """Messages from before this time (milliseconds) are deleted at the brokers' next check, however late they were
        published. None: no time is too old, since nothing is deleted by time, or the time of appending counts, or the
        limit is beyond all times."""
        by_time = DELETE in self.policies and 0 <= self.milliseconds < now and not self.append_time
        return now - self.milliseconds if by_time else None

    @property
    def limit_bytes(self) -> int | None:
        """The bytes that a partition keeps at least; None: all."""
        return self.partition_bytes if DELETE in self.policies and self.partition_bytes >= 0 else None

    def deletes(self) -> str:
        """A description of how it deletes old messages."""
        age = str(timedelta(milliseconds=self.milliseconds)).removesuffix(", 0:00:00")
        return (
            f"topic {self.topic} deletes what is older than {age} (retention.ms={self.milliseconds}) by the messages' "
            "own times"
        )

    def compacts(self) -> str:
        """A description of what compaction does, and the command that ends it."""
        return (
            f"topic {self.topic} is compacted: of messages with the same key only the last one stays. To keep all: "
            f"{alter(self.topic, {'cleanup.policy': DELETE})}"
        )

    def command(self, keep_bytes: int) -> str:
        """The command that lets it keep messages of any time; `keep_bytes` bound it where nothing else would."""
        changes = {"retention.ms": -1}
        if self.partition_bytes < 0 <= keep_bytes:
            changes["retention.bytes"] = keep_bytes
        return alter(self.topic, changes)


def alter(topic: str, changes: Mapping[str, object]) -> str:
    """The command that changes a topic's configuration."""
    added = ",".join(f"{name}={value}" for name, value in changes.items())
    return (
        f"kafka-configs.sh --bootstrap-server <brokers> --alter --entity-type topics --entity-name {topic} "
        f"--add-config {added}"
    )


def retentions(clients: Clients, *topics: str) -> list[Retention]:
    """The retention of each topic, each topic once. Raises `KafkaException` for a topic that does not exist."""
    names = list(dict.fromkeys(topics))
    if not names:  # which the client does not take
        return []
    return [Retention.of(name, config) for name, config in zip(names, describe_topics(clients, *names), strict=True)]


def unfit(clients: Clients, topics: Iterable[str]) -> list[str]:
    """What is wrong with the retention of existing topics, given what the pipeline publishes to them: a text for each.
    Raises `KafkaException` when the brokers do not answer."""
    texts, now = [], now_in_milliseconds()
    for r in retentions(clients, *topics):
        if r.topic == clients.settings.redriven_topic:
            if DELETE in r.policies:
                texts.append(
                    f"topic {r.topic} deletes (cleanup.policy): a dead letter could be sent in again whose marker is "
                    f"gone. Change that: {alter(r.topic, {'cleanup.policy': COMPACT})}"
                )
            continue
        if r.oldest_kept(now) is not None:
            texts.append(
                f"{r.deletes()}, however late they come in or are published. Where backlogs, replays or dead letters "
                f"may be older than that, change it: {r.command(clients.settings.retention_bytes)}"
            )
        if COMPACT in r.policies:
            texts.append(r.compacts())
    return texts


@dataclass
class Load:
    """What is going to be published: how much for each partition, and the time of the oldest message, if it has
    any."""

    oldest: int | None = None
    sizes: dict[int, int] = field(default_factory=dict)

    def add(self, partition: int, size: int, timestamp: int | None) -> None:
        """Add a message."""
        self.sizes[partition] = self.sizes.get(partition, 0) + size
        if timestamp is not None and timestamp >= FIRST_TIME:
            self.oldest = timestamp if self.oldest is None else min(self.oldest, timestamp)

    def lost_by_time(self, kept: Iterable[Retention], now: int, keep_bytes: int) -> list[str]:
        """The topics that would delete it at once by its time: a text for each."""
        return [
            f"{r.deletes()}, and the oldest message to be published there is of {to_text(self.oldest)}. Change that "
            f"first: {r.command(keep_bytes)}"
            for r in kept
            if self.oldest is not None and (limit := r.oldest_kept(now)) is not None and self.oldest < limit
        ]

    def too_large(self, kept: Iterable[Retention]) -> list[str]:
        """The topics that keep fewer bytes of a partition than are to be published to it: a text for each."""
        most = max(self.sizes.values(), default=0)
        return [
            f"topic {r.topic} keeps {r.limit_bytes} bytes of a partition (retention.bytes), and {most} bytes and more "
            "go to one: the first may be gone before they are read. " + alter(r.topic, {"retention.bytes": 4 * most})
            for r in kept
            if r.limit_bytes is not None and most > r.limit_bytes
        ]

    def doubtful(self, kept: Sequence[Retention]) -> list[str]:
        """The topics that may not keep it for other reasons than time: a text for each."""
        return self.too_large(kept) + [r.compacts() for r in kept if self.sizes and COMPACT in r.policies]


def check_kept(
    clients: Clients, load: Load, topics: Iterable[str], now: int, refusal: type[EnrichmentError] | None
) -> list[str]:
    """Check that topics will keep what is going to be published to them; returns and logs what speaks against it.

    Raises `refusal` where it would be deleted at once; without one, as in a dry run, this is only logged.
    """
    if not load.sizes:
        return []
    kept = retentions(clients, *topics)
    lost = load.lost_by_time(kept, now, clients.settings.retention_bytes)
    if lost and refusal is not None:
        raise refusal("; ".join(lost))
    texts = [*lost, *load.doubtful(kept)]
    for text in texts:
        log.warning("retention.doubtful %s", text)
    return texts


def time_limits(clients: Clients, now: int) -> list[tuple[Retention, int]]:
    """Of the topics that batches are published to, those that delete by time, each with the oldest time that it keeps.

    Brokers that do not answer cost only what follows from it, a warning.
    """
    settings = clients.settings
    try:
        kept = retentions(clients, settings.output_topic, settings.dlq_topic)
    except KafkaException as untold:
        log.warning("retention.unknown topics=%s,%s error=%s", settings.output_topic, settings.dlq_topic, untold)
        return []
    return [(r, limit) for r in kept if (limit := r.oldest_kept(now)) is not None]


def claim_warnings(
    settings: KafkaSettings, batches: Sequence[Batch], seen: Mapping[tuple[int, int], Tail],
    limits: Sequence[tuple[Retention, int]],
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """By batch, that messages at its beginning are too old for the topics that they will be published to.

    Only the first message of each range is checked, if it is among those `seen`, by partition and offset. Old ones
    after a younger one are found when they are published (`OldMessages`). A dry run that looks back begins with
    published ones, which are not among them. `limits` are those of `time_limits`.
    """
    times = {position: message.timestamp for position, message in seen.items()}
    found: dict[str, tuple[str, ...]] = {}
    for retention, limit in limits:
        for batch in batches:
            old = [r for r in batch.ranges if FIRST_TIME <= times.get((r.partition, r.start), limit) < limit]
            if old:
                where = ", ".join(f"partition {r.partition} from offset {r.start}" for r in old)
                what = "to be published" if retention.topic == settings.output_topic else "that may be set aside"
                text = (
                    f"{retention.deletes()}. Messages {what} there are older, those of {where}: they would soon be "
                    f"gone. To keep them: {retention.command(settings.retention_bytes)}"
                )
                found[batch.batch_id] = (*found.get(batch.batch_id, ()), text)
    return found


class OldMessages:
    """Counts, chunk by chunk, the messages published to topics that will not keep them."""

    def __init__(self, kept: Sequence[Retention], now: int, keep_bytes: int) -> None:
        self._all = kept
        self._kept = [(r, limit) for r in kept if (limit := r.oldest_kept(now)) is not None]
        self._keep_bytes = keep_bytes
        self._count: dict[str, int] = {}
        self._oldest: dict[str, int] = {}

    def see(self, topic: str, times: Times) -> None:
        """Take the times of some messages that go to a topic."""
        for retention, limit in self._kept:
            if retention.topic == topic:
                old = times[(times >= FIRST_TIME) & (times < limit)]
                if len(old):
                    self._count[topic] = self._count.get(topic, 0) + len(old)
                    self._oldest[topic] = min(self._oldest.get(topic, limit), int(old.min()))

    def warnings(self, partition_bytes: int = 0) -> tuple[str, ...]:
        """A text for each topic that will not keep all it got; some partition got at least so many bytes."""
        small = Load(sizes={0: partition_bytes}).too_large(self._all[:1])
        return (*self._by_time(), *small)

    def _by_time(self) -> Iterator[str]:
        return (
            f"{r.deletes()}: {self._count[r.topic]} of the messages published there are older, the oldest of "
            f"{to_text(self._oldest[r.topic])}, and will soon be gone. To keep them, at once: "
            f"{r.command(self._keep_bytes)}"
            for r, _ in self._kept
            if r.topic in self._count
        )
