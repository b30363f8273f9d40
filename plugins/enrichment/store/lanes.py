"""The table `enrichment_lanes`: how many lanes publish for a group, one row for each group."""

from __future__ import annotations

from typing import Any

import msgspec
import psycopg

from enrichment.batch import OffsetRange
from enrichment.statements import Statements


class LaneCount(msgspec.Struct, frozen=True):
    """How many lanes publish for a group. While it is `changing_to` another number, nothing may be published."""

    lanes: int
    changing_to: int | None = None


class OpenBatch(msgspec.Struct, frozen=True):
    """A batch that was claimed and, as far as the ledger knows, not published."""

    batch_id: str
    topic: str
    ranges: tuple[OffsetRange, ...]


class LaneCounts:
    """Every method is a transaction of its own, may be repeated, and raises `psycopg.Error` when the database
    refuses."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._statements = Statements(connection)

    def get(self, group_id: str) -> LaneCount | None:
        """What is recorded of a group."""
        return self._statements.row("enrichment_lanes/get", LaneCount, {"group_id": group_id})

    def record(self, group_id: str, lanes: int) -> LaneCount:
        """Record the number of a group that has none; returns the number recorded first."""
        self._statements.execute("enrichment_lanes/record", {"group_id": group_id, "lanes": lanes})
        return self.get(group_id) or LaneCount(lanes)

    def begin_change(self, group_id: str, lanes: int) -> None:
        """Begin a change: from now on nothing is published for the group."""
        self._statements.execute("enrichment_lanes/begin_change", {"group_id": group_id, "lanes": lanes})

    def finish_change(self, group_id: str, lanes: int) -> bool:
        """Finish the change; false when another one has begun since."""
        return self._statements.execute("enrichment_lanes/finish_change", {"group_id": group_id, "lanes": lanes}) == 1

    def open_batches(self, group_id: str) -> list[OpenBatch]:
        """Batches of live draining that may still be published."""
        return self._statements.rows("enrichment_jobs/find_open", OpenBatch, {"group_id": group_id})
