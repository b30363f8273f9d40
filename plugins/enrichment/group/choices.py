"""A group that is not where it should be in; its description, and the command for each way to go on, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from enrichment.kafka.offsets import Backlog


class Why(StrEnum):
    """What is wrong with a group's offset in a partition."""

    AHEAD = "somebody moved it past messages that were not published"
    BEHIND = "somebody moved it back, or Kafka lost its latest offsets"
    FORGOTTEN = "Kafka has no offset of it: nobody committed for longer than the brokers' offsets.retention.minutes"
    PAST_END = "the log ends before that: it was truncated, or the topic was restored"
    REWRITTEN = (
        "before that, the log has another message than was published: it was truncated and filled again, or the topic "
        "was restored"
    )
    ANEW = "the topic was deleted and recreated: its offsets mean other messages"


@dataclass(frozen=True, slots=True)
class Astray:
    """A partition where the group is not where it should be: draining would go on at `published_to`, if known."""

    backlog: Backlog
    published_to: int | None
    why: Why

    @property
    def resumed(self) -> int | None:
        """The offset that it has published to, if it is still in this log."""
        known = self.published_to
        is_other_log = self.why in (Why.ANEW, Why.REWRITTEN)
        return known if known is not None and known <= self.backlog.high and not is_other_log else None

    @property
    def accepted(self) -> int | None:
        """The group's offset, if it is in this log."""
        b = self.backlog
        return b.committed if b.committed is not None and b.low <= b.committed <= b.high else None

    def __str__(self) -> str:
        b = self.backlog
        return (
            f"partition {b.partition}: at {b.committed}, published to "
            f"{'nothing' if self.published_to is None else self.published_to}, the log has {b.low} to {b.high}"
        )


def explain(
    astray: Sequence[Astray], topic: str, group_id: str, bootstrap_servers: str, unrecorded: Sequence[str] = ()
) -> str:
    """What was found, and the command for each way to go on. `unrecorded` batches may be published: a publisher that
    died before recording them left a stamp in the offset, which is gone."""
    found = "; ".join(
        f"{', '.join(str(a) for a in astray if a.why is why)} ({why})"
        for why in Why
        if any(a.why is why for a in astray)
    )
    low = {a.backlog.partition: a.backlog.low for a in astray}
    high = {a.backlog.partition: a.backlog.high for a in astray}
    resumed = {a.backlog.partition: a.resumed for a in astray if a.resumed is not None}
    accepted = {a.backlog.partition: a.accepted for a in astray if a.accepted is not None}
    accept = (
        f"python -m enrichment.group accept-offsets --bootstrap-servers {bootstrap_servers} --database <address> "
        f"--topic {topic} --group {group_id}"
    )
    ways = [
        _way("to go on where it has published to", [
            f"kafka-consumer-groups.sh --bootstrap-server {bootstrap_servers} --group {group_id} "
            f"--topic {topic}:{partition} --reset-offsets --to-offset {offset} --execute"
            for partition, offset in resumed.items()
        ]),
        _way("to go on where the group is, which leaves out, or publishes again, what lies between",
             [f"{accept} {_pairs(accepted)}"] * bool(accepted)),
        _way("to start at the log's beginning, which publishes all of it that was published before again",
             [f"{accept} {_pairs(low)}"]),
        _way("to go on at the log's end, which leaves out all that waits", [f"{accept} {_pairs(high)}"]),
    ]  # fmt: skip
    return (
        f"group {group_id} is not where it has published to in {topic}: {found}. Nothing was claimed. Find out what "
        "happened, then choose, for each partition, and run (stacklens_replay publishes the past again elsewhere):"
        + "".join(ways)
        + _doubt(unrecorded)
    )


def _doubt(unrecorded: Sequence[str]) -> str:
    if not unrecorded:
        return ""
    return (
        f"\nIt is unknown whether {', '.join(unrecorded)} had been published. Look for a `stacklens-origin` with "
        "one of these as its `batch_id` in the outputs (or, of an earlier version, a `stacklens-batch-id`): if there "
        "is one, go on after its batch (`accept-offsets`), or it is published twice."
    )


def _way(what: str, commands: Sequence[str]) -> str:
    return f"\n{what}:\n" + "\n".join(commands) if commands else ""


def _pairs(offsets: Mapping[int, int]) -> str:
    return " ".join(f"{partition}={offset}" for partition, offset in offsets.items())
