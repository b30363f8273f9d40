"""Move the group of live draining to given offsets, once: the way for a person to go on when a claim refuses."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from enrichment.errors import ChangeRefused
from enrichment.group.lanes import fence_all
from enrichment.group.progress import move_group
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import Backlog, read_settled_backlog
from enrichment.kafka.topics import read_topic_id
from enrichment.store.positions import Move, MoveReason, Position, Positions

log = logging.getLogger(__name__)


def accept_offsets(clients: Clients, positions: Positions, offsets: Mapping[int, int]) -> list[Move]:
    """Make live draining go on at these offsets, by partition; returns the offsets that this skips. The moves are kept
    in `enrichment_group_moves`.

    A batch that is running is fenced and finds the group moved. Raises `ChangeRefused` for an offset outside the log.
    """
    settings = clients.settings
    topic, group_id = settings.input_topic, settings.consumer_group
    fence_all(clients)
    backlog = {b.partition: b for b in read_settled_backlog(clients, sorted(offsets))}
    outside = [
        f"partition {p}: {offset} (the log has {backlog[p].low} to {backlog[p].high})"
        for p, offset in offsets.items()
        if not backlog[p].low <= offset <= backlog[p].high
    ]
    if outside:
        raise ChangeRefused(f"topic {topic} has no such offsets: {', '.join(outside)}. Nothing was changed")
    topic_id = read_topic_id(clients, topic)
    known = positions.get(topic, group_id)
    moves = [_move(backlog[p], known.get(p), offset, topic_id) for p, offset in sorted(offsets.items())]
    # The group first: after a crash in between, the next claim refuses, and the move is made again.
    move_group(clients, offsets)
    positions.move(topic, group_id, topic_id, moves, MoveReason.ACCEPTED)
    for move in moves:
        log.warning(
            "offsets.accepted topic=%s group=%s partition=%d group_offset=%s published_to=%s moved_to=%d skipped=%d",
            topic, group_id, move.partition, move.group_offset, move.published_to, move.moved_to, move.skipped,
        )  # fmt: skip
    return moves


def _move(b: Backlog, position: Position | None, offset: int, topic_id: str | None) -> Move:
    """The move to record; from a recreated topic nothing was published yet."""
    is_known = position is not None and (None in (position.topic_id, topic_id) or position.topic_id == topic_id)
    published_to = position.next_offset if position is not None and is_known else None
    start = b.low if published_to is None else published_to
    return Move(
        partition=b.partition, group_offset=b.committed, published_to=published_to, moved_to=offset,
        skipped=max(0, offset - start),
    )  # fmt: skip
