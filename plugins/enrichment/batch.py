"""A batch: which offsets it takes, of which lane, and what it is run for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class OffsetRange(msgspec.Struct, frozen=True, order=True):
    """The offsets `[start, end)` of one partition. Some of them may hold no message (transaction markers,
    compaction)."""

    partition: int
    start: int
    end: int

    @property
    def span(self) -> int:
        """Offsets in the range: an upper bound of its messages."""
        return self.end - self.start


class Tail(msgspec.Struct, frozen=True):
    """The last message that was read of a partition, to know the log again by: its timestamp is Kafka's, in
    milliseconds, the checksum is of key and value."""

    partition: int
    offset: int
    timestamp: int
    checksum: int


class ReplayWindow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which messages a replay takes: those of a time window, and of them only those that pass each filter given.

    A message is of the window when `start <= its Kafka timestamp < end`, in milliseconds since the epoch: of exactly
    one of any set of windows that touch each other. `errors` are reasons in the stored error list, as the ranges
    `published` of the topic `published_topic` have it.
    """

    replay_id: str
    start: int
    end: int
    services: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    published_topic: str = ""
    published: tuple[OffsetRange, ...] = ()


class RedriveFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which dead letters a redrive sends in again: of one source topic, with these reasons, set aside in
    `[since, until)`, tried less than `max_attempts` times.

    A letter that is larger than `max_letter_bytes` stays, since a second one of it might not hold the whole message.
    """

    source_topic: str
    reasons: tuple[str, ...]
    max_attempts: int
    max_letter_bytes: int
    since: datetime | None = None
    until: datetime | None = None
    source_partition: int | None = None
    service: str = ""


class Purpose(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a batch is run for, and how that differs from live draining.

    `output_topic` takes its enriched messages, `dlq_topic` its dead letters (empty: those of the settings); `headers`
    are added to each of them. `window` is what a replay takes of the messages that it reads, `letters` what a redrive
    takes of the dead letters.
    """

    kind: str = "live"
    output_topic: str = ""
    dlq_topic: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    window: ReplayWindow | None = None
    letters: RedriveFilter | None = None


LIVE = Purpose()
REPLAY = "replay"  # the kind of a purpose with a window
REDRIVE = "redrive"  # the kind of one with letters


class Batch(msgspec.Struct, frozen=True):
    """A set of offset ranges of one lane: what every task after the claim is a function of.

    `max_bytes` of values end the drain early, which then shortens the ranges. A batch that is `set_aside` has failed
    alone before, by what it holds: its messages become dead letters without a further look. `topic_id` is
    Kafka's id of the topic and, in live draining, `lanes` how many there were when it was claimed; None: by an earlier
    release, which kept neither. `tails` are of what was read, of each range that held a message.
    """

    batch_id: str
    topic: str
    group_id: str
    lane: int
    ranges: tuple[OffsetRange, ...]
    dry_run: bool = False
    max_bytes: int | None = None
    set_aside: bool = False
    purpose: Purpose = LIVE
    topic_id: str | None = None
    lanes: int | None = None
    tails: tuple[Tail, ...] = ()

    @property
    def span(self) -> int:
        """Offsets in all ranges: an upper bound of the batch's messages."""
        return sum(r.span for r in self.ranges)

    @property
    def source_topic(self) -> str:
        """Where its messages came from at first: of a redrive not the topic that it reads."""
        return self.topic if self.purpose.letters is None else self.purpose.letters.source_topic

    def to_manifest(self) -> dict[str, Any]:
        """The batch as plain JSON types, for XCom and the ledger."""
        manifest: dict[str, Any] = msgspec.to_builtins(self)
        return manifest

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Batch:
        """The reverse of `to_manifest`; raises `msgspec.ValidationError` when it is not one."""
        return msgspec.convert(manifest, cls)
