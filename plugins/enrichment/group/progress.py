"""Where live draining goes on: the group's offsets in, checked against the log and what was published, or refused.

Kafka forgets the offsets of a group that has not committed for long (`offsets.retention.minutes`), people and tools
move groups, logs are truncated, topics are deleted and recreated. In each of these cases, going on from the group's
offset would skip messages or publish them twice, so a claim says what it found and how to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition

from enrichment.batch import Batch, OffsetRange, Tail
from enrichment.errors import OffsetsLost, OffsetsMoved
from enrichment.group.choices import Astray, Why, explain
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import Backlog, commit, commit_as, committed_offsets, read_settled_backlog, take_over
from enrichment.kafka.source import read_at
from enrichment.kafka.topics import read_topic_id
from enrichment.store.lanes import OpenBatch
from enrichment.store.positions import Move, MoveReason, Position, Positions

log = logging.getLogger(__name__)


Seen = Mapping[tuple[int, int], Tail]  # messages as the log has them, by partition and offset


class Progress(NamedTuple):
    """What waits in each partition, where draining goes on, and Kafka's id of the topic; with the message at the next
    offset, where there is one, and the last one published."""

    backlog: list[Backlog]
    topic_id: str | None
    seen: Seen


@dataclass(frozen=True, slots=True)
class Group:
    """What is known of a group in a topic: its positions by partition, the id that the topic has now, and the messages
    before the group's offsets, as the log has them now, where they can be compared with what was published."""

    positions: Mapping[int, Position]
    topic_id: str | None
    tails: Mapping[int, Tail] = field(default_factory=dict)
    begun: frozenset[int] = frozenset()  # partitions of batches that may be published without a record

    @property
    def is_known(self) -> bool:
        """Whether a partition without a position has nothing published yet. An upgraded database knows of the others
        only what its batches said."""
        return any(position.topic_id is not None for position in self.positions.values())


def find_progress(
    clients: Clients, positions: Positions, partitions: Sequence[int] | None = None, *, dry_run: bool = False,
    unrecorded: Sequence[OpenBatch] = (), needs_first: Callable[[], bool] = lambda: False,
) -> Progress:  # fmt: skip
    """Where draining goes on in these partitions (all, if none is named); recorded, too.

    Raises `OffsetsMoved` when the group is not where it should be, `OffsetsLost` by the configured policy. A dry run
    records and moves nothing. `unrecorded` are the group's batches that are not known to be published. `needs_first`
    says, where messages wait, whether the first ones of each partition are to be seen in any case.
    """
    settings = clients.settings
    topic, group_id = settings.input_topic, settings.consumer_group
    # First: a batch that is published after this leaves its stamp beside the offset.
    known = positions.get(topic, group_id)
    with clients.offsets_reader() as reader:
        backlog = read_settled_backlog(clients, partitions, reader)
        seen = look_at(clients, backlog, reader, needs_first)
    topic_id = read_topic_id(clients, topic)
    unrecorded = [batch for batch in unrecorded if batch.topic == topic and _ranges_in_doubt(batch, known)]
    begun = frozenset(r.partition for batch in unrecorded for r in _ranges_in_doubt(batch, known))
    group = Group(known, topic_id, tails_of(backlog, seen), begun)
    check_progress(clients, backlog, group, unrecorded)
    if any(b.lost for b in backlog):
        backlog = settle_lost(clients, positions, backlog, group, dry_run=dry_run)
    if not dry_run:
        adopt(clients, positions, backlog, group, every_partition=partitions is None)
    return Progress(backlog, topic_id, seen)


def _ranges_in_doubt(batch: OpenBatch, known: Mapping[int, Position]) -> list[OffsetRange]:
    """The ranges of a batch that may have been published unrecorded: not those that the position has passed."""
    return [r for r in batch.ranges if r.partition not in known or r.end > known[r.partition].next_offset]


def look_at(
    clients: Clients, backlog: Sequence[Backlog], reader: Consumer, needs_first: Callable[[], bool]
) -> Seen:  # fmt: skip
    """For each partition where messages wait, the one in the group's stamp as the log has it now, and the first of
    those that wait: neighbours, so one read finds both. The first one alone is read only where it is needed."""
    waiting = [b for b in backlog if b.span]
    offsets = {b.partition: {b.start} for b in waiting} if waiting and needs_first() else {}
    for b in waiting:
        tail = b.stamp.tail if b.stamp is not None else None
        # Messages deleted by retention or compaction cannot be compared.
        if tail is not None and tail.offset >= b.low:
            offsets.setdefault(b.partition, {b.start}).add(tail.offset)
    return read_at(clients, clients.settings.input_topic, offsets, reader) if offsets else {}


def tails_of(backlog: Sequence[Backlog], seen: Seen) -> dict[int, Tail]:
    """Those of the messages that are in the group's stamps."""
    stamped = [b.stamp.tail for b in backlog if b.stamp is not None and b.stamp.tail is not None]
    return {t.partition: seen[t.partition, t.offset] for t in stamped if (t.partition, t.offset) in seen}


def check_progress(
    clients: Clients, backlog: Sequence[Backlog], group: Group, unrecorded: Sequence[OpenBatch] = ()
) -> None:
    """Raise `OffsetsMoved`, with all ways to go on, when the group is astray in one of the partitions."""
    astray = [found for b in backlog if (found := find_astray(b, group)) is not None]
    if astray:
        settings, where = clients.settings, {found.backlog.partition for found in astray}
        doubtful = [b.batch_id for b in unrecorded if any(r.partition in where for r in b.ranges)]
        raise OffsetsMoved(
            explain(astray, settings.input_topic, settings.consumer_group, clients.bootstrap_servers, doubtful)
        )


def find_astray(b: Backlog, group: Group) -> Astray | None:
    """What is wrong with the group's offset in a partition; None when draining may go on there."""
    position = group.positions.get(b.partition)
    known = position.next_offset if position is not None else None
    why = _why(b, position, group)
    return Astray(b, known, why) if why is not None else None


def _why(b: Backlog, position: Position | None, group: Group) -> Why | None:
    at, known = b.committed, position.next_offset if position is not None else None
    # From a partition without a position nothing was published yet: setting the group there skips what is before.
    meant = known if known is not None else b.low if group.is_known else at
    stamped, found = b.stamp.tail if b.stamp is not None else None, group.tails.get(b.partition)
    causes = {
        Why.ANEW: _is_anew(b, position, group),
        Why.REWRITTEN: None not in (stamped, found) and stamped != found,
        Why.PAST_END: (at if at is not None else known or 0) > b.high,
        # A claim in a partition sets the group there first (`anchor`).
        Why.FORGOTTEN: at is None and known is not None and (known != b.low or b.partition in group.begun),
        Why.BEHIND: None not in (at, known) and at < known,  # type: ignore[operator]
        # A publisher that died between its commit and the ledger has left its stamp.
        Why.AHEAD: at is not None and b.stamp is None and at > meant,  # type: ignore[operator]
    }
    return next((why for why, so in causes.items() if so), None)


def _is_anew(b: Backlog, position: Position | None, group: Group) -> bool:
    """Whether the topic was recreated since. The group's own stamp is later than the recorded position."""
    stamped = b.stamp.topic_id if b.stamp is not None else None
    topic_id = stamped or (position.topic_id if position is not None else None)
    return None not in (topic_id, group.topic_id) and topic_id != group.topic_id


def settle_lost(
    clients: Clients, positions: Positions, backlog: Sequence[Backlog], group: Group, *, dry_run: bool
) -> list[Backlog]:
    """Handle unread offsets that have left the log, by the configured policy; returns where draining goes on.

    `fail` raises `OffsetsLost`. `earliest` moves the group to the log's start, so that the next claim begins where
    publishing will find the group, and keeps the move in `enrichment_group_moves`.
    """
    settings = clients.settings
    topic, lost = settings.input_topic, [b for b in backlog if b.lost]
    where = ", ".join(f"partition {b.partition}: committed {b.committed}, log starts at {b.low}" for b in lost)
    count = sum(b.lost for b in lost)
    if settings.offsets_lost_policy == "fail":
        raise OffsetsLost(
            f"{count} unread offsets of {topic} have left the log ({where}). To go on at the log's start, which leaves "
            "them out, run `python -m enrichment.group accept-offsets` (docs/operate.md, Offsets) with "
            f"{' '.join(f'{b.partition}={b.low}' for b in lost)}, or set KAFKA_OFFSETS_LOST_POLICY=earliest"
        )
    log.error("offsets.lost topic=%s offsets=%d going_on_at=earliest (%s)", topic, count, where)
    if not dry_run:
        moves = [
            Move(partition=b.partition, group_offset=b.committed, published_to=b.committed, moved_to=b.low,
                 skipped=b.lost)
            for b in lost
        ]  # fmt: skip
        # Recorded first: after a crash before the move, the next claim finds the same offsets lost again.
        positions.move(topic, settings.consumer_group, group.topic_id, moves, MoveReason.LOST)
        move_group(clients, {b.partition: b.low for b in lost})
    return [replace(b, committed=b.start, stamp=None) if b.lost else b for b in backlog]


def move_group(clients: Clients, offsets: Mapping[int, int]) -> None:
    """Commit these offsets of the input topic for the group, by partition, without stamps: no batch published up to
    them."""
    topic = clients.settings.input_topic
    with clients.offsets_reader() as consumer:
        placed = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        commit(consumer, placed, clients.settings.request_timeout_sec)


def anchor(clients: Clients, batches: Sequence[Batch], backlog: Sequence[Backlog]) -> None:
    """Set the group to the start of the batches in those partitions where it has no offset. A publisher that finds no
    offset then knows that it was lost, not that it was never set.

    A compare-and-set, like publishing: an earlier publisher of the lane is fenced, and what it has committed stays.
    """
    settings = clients.settings
    topic, timeout = settings.input_topic, settings.request_timeout_sec
    unset = {b.partition for b in backlog if b.committed is None}
    for batch in batches:
        starts = {r.partition: r.start for r in batch.ranges if r.partition in unset}
        if not starts:
            continue
        with (
            clients.lane_producer(batch.lane, settings.max_message_bytes) as producer,
            clients.offsets_reader() as reader,
        ):
            take_over(producer, timeout)
            committed = committed_offsets(reader, topic, starts, timeout)
            offsets = [TopicPartition(topic, p, start) for p, start in starts.items() if committed[p] is None]
            if offsets:
                commit_as(producer, reader, offsets, timeout)


def adopt(
    clients: Clients, positions: Positions, backlog: Sequence[Backlog], group: Group, *, every_partition: bool
) -> None:
    """Record where draining goes on, if that is not recorded yet: on first use, and after an unrecorded publication.

    The first claim of a group in a topic does so for all partitions, even if it takes only a few: an offset set before
    it is intended, one set afterwards is not.
    """
    if not every_partition and not group.is_known:
        backlog = [b for b in read_settled_backlog(clients) if find_astray(b, group) is None]
    found = {b.partition: Position(b.partition, b.start, group.topic_id) for b in backlog}
    news = {p: position.next_offset for p, position in found.items() if group.positions.get(p) != position}
    if news:
        settings = clients.settings
        positions.put(settings.input_topic, settings.consumer_group, group.topic_id, news)
