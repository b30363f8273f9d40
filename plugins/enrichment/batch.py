"""A batch: its offset ranges, its lane, and its purpose."""

from __future__ import annotations

from collections.abc import Sequence
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
    """The last message read of a partition, by which the log is recognised: its timestamp is Kafka's, in milliseconds,
    the checksum is of key and value."""

    partition: int
    offset: int
    timestamp: int
    checksum: int


class ReplayWindow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which messages a replay takes: those of a time window, and of them only those that pass each filter given.

    A message is in the window when `start <= its Kafka timestamp < end`, in milliseconds since the epoch: adjacent
    windows share no message. `errors` are reasons in the error list last published, as read from the ranges `published`
    of the topic `published_topic`.
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
    """Which dead letters a redrive sends in again: of one source topic, with these reasons, written in
    `[since, until)`, tried less than `max_attempts` times.

    A dead letter larger than `max_letter_bytes` stays: its successor might not hold the whole message.
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
    are added to each of them. `window` selects the messages of a replay, `letters` the dead letters of a redrive.
    """

    kind: str = "live"
    output_topic: str = ""
    dlq_topic: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    window: ReplayWindow | None = None
    letters: RedriveFilter | None = None


LIVE = Purpose()
REPLAY = "replay"  # the kind of a purpose with a window
REDRIVE = "redrive"  # the kind of a purpose with letters


# What a label has room for: in Airflow's grid, and in its column, which refuses more.
LABEL_RANGES, LABEL_CHARACTERS = 4, 250


def label_of(kind: str, lane: int, ranges: Sequence[OffsetRange]) -> str:
    """What the UI calls a batch: its lane, partitions and offsets, as in `lane 0: p0 120-1119, p2 80-90`. The last
    offset of each is included; batches that are not live begin with their kind."""
    held = [r for r in ranges if r.span]
    named = ", ".join(f"p{r.partition} {r.start}-{r.end - 1}" for r in held[:LABEL_RANGES])
    if len(held) > LABEL_RANGES:
        named += f" and {sum(r.span for r in held[LABEL_RANGES:]):,} offsets of {len(held) - LABEL_RANGES} more"
    label = f"{'' if kind == LIVE.kind else f'{kind} '}lane {lane}: {named or 'no offsets'}"
    return label[:LABEL_CHARACTERS]


class Batch(msgspec.Struct, frozen=True):
    """A set of offset ranges of one lane. Every task after the claim is a function of it.

    `max_bytes` of values end the drain early, which then shortens the ranges. A `quarantined` batch has failed alone
    before, because of what it holds: its messages become dead letters without being decoded. `topic_id` is Kafka's id
    of the topic and, in live draining, `lanes` the number of lanes at the claim; None in batches of an earlier release,
    which recorded neither. `tails` has the last message read of each range that held one.
    """

    batch_id: str
    topic: str
    group_id: str
    lane: int
    ranges: tuple[OffsetRange, ...]
    dry_run: bool = False
    max_bytes: int | None = None
    quarantined: bool = msgspec.field(default=False, name="set_aside")  # as in XComs and the ledger
    purpose: Purpose = LIVE
    topic_id: str | None = None
    lanes: int | None = None
    tails: tuple[Tail, ...] = ()

    @property
    def span(self) -> int:
        """Offsets in all ranges: an upper bound of the batch's messages."""
        return sum(r.span for r in self.ranges)

    @property
    def label(self) -> str:
        """What the UI calls it."""
        return label_of(self.purpose.kind, self.lane, self.ranges)

    @property
    def source_topic(self) -> str:
        """Where its messages came from originally; for a redrive this is not the topic that it reads."""
        return self.topic if self.purpose.letters is None else self.purpose.letters.source_topic

    def to_manifest(self) -> dict[str, Any]:
        """The batch as plain JSON types, for XCom and the ledger."""
        manifest: dict[str, Any] = msgspec.to_builtins(self)
        return manifest

    @classmethod
    def from_manifest(cls, manifest: dict[str, Any]) -> Batch:
        """The reverse of `to_manifest`; raises `msgspec.ValidationError` for anything else."""
        return msgspec.convert(manifest, cls)
