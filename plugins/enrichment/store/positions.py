"""The tables `enrichment_positions`, where live draining goes on in each partition, and `enrichment_group_moves`, each
move of a group other than by publishing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
import psycopg

from enrichment import sql
from enrichment.statements import Statements, jsonb


class Position(msgspec.Struct, frozen=True):
    """Where draining goes on in a partition. `topic_id` is Kafka's id of the topic; None: recorded before ids were."""

    partition: int
    next_offset: int
    topic_id: str | None


class MoveReason(StrEnum):
    """Why a group was moved other than by publishing."""

    ACCEPTED = "accepted"  # by a person
    LOST = "lost"  # over offsets that had left the log, by the declared policy


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A move of a group from `group_offset`; draining would have gone on at `published_to`, so `skipped` offsets are
    left out."""

    partition: int
    group_offset: int | None
    published_to: int | None
    moved_to: int
    skipped: int


class RecordedMove(Move, frozen=True, kw_only=True):
    """A move as it was recorded."""

    reason: MoveReason
    moved_by: str
    moved_at: datetime


class Positions:
    """Every method is a transaction of its own and raises `psycopg.Error` when the database refuses."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._statements = Statements(connection)

    def get(self, topic: str, group_id: str) -> dict[int, Position]:
        """The recorded positions, by partition."""
        found = self._statements.rows("enrichment_positions/get", Position, {"topic": topic, "group_id": group_id})
        return {position.partition: position for position in found}

    def put(self, topic: str, group_id: str, topic_id: str | None, offsets: Mapping[int, int]) -> None:
        """Record that live draining goes on at these offsets, by partition."""
        with self._connection.transaction():
            self._put(topic, group_id, topic_id, offsets)

    def move(self, topic: str, group_id: str, topic_id: str | None, moves: Sequence[Move], reason: MoveReason) -> None:
        """Record moves of the group: live draining goes on there, and the moves are kept for good."""
        with self._connection.transaction():
            self._put(topic, group_id, topic_id, {move.partition: move.moved_to for move in moves})
            parameters = {
                "topic": topic, "group_id": group_id, "topic_id": topic_id, "reason": reason, "moves": jsonb(moves),
            }  # fmt: skip
            self._connection.execute(sql.load("enrichment_group_moves/add"), parameters)

    def moves(self, topic: str, group_id: str) -> list[RecordedMove]:
        """How the group was moved other than by publishing, oldest first."""
        key = {"topic": topic, "group_id": group_id}
        return self._statements.rows("enrichment_group_moves/list", RecordedMove, key)

    def passed_over(self, batch_id: str) -> bool:
        """Whether the group was moved past an unpublished batch other than by publishing."""
        found = self._statements.rows("enrichment_group_moves/passes_over", dict[str, bool], {"batch_id": batch_id})
        return found[0]["exists"]

    def _put(self, topic: str, group_id: str, topic_id: str | None, offsets: Mapping[int, int]) -> None:
        placed = [{"partition": partition, "offset": offset} for partition, offset in offsets.items()]
        parameters = {"topic": topic, "group_id": group_id, "topic_id": topic_id, "offsets": jsonb(placed)}
        self._connection.execute(sql.load("enrichment_positions/put"), parameters)
