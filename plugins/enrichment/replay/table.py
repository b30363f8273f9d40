"""The table `enrichment_replays`: one row for each window of a replay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
import psycopg

from enrichment import sql
from enrichment.batch import Batch, OffsetRange, Purpose, ReplayWindow
from enrichment.statements import Statements, jsonb

Marks = dict[str, tuple[OffsetRange, ...]]
# How far a window has come: a dry run counted it, its bounds are fixed, all of it is published and compared.
COUNTED, CLAIMED, FINISHED = "counted", "claimed", "finished"


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A window of a replay; the schema says what each column means."""

    state: str
    purpose: Purpose
    group_id: str
    batches: tuple[Batch, ...] = ()
    marks: Marks = {}
    messages: int = 0
    selected: int = 0
    lost: str | None = None
    counts: dict[str, int] = {}
    differences: dict[str, Any] = {}


class Replays:
    """Every method is a transaction of its own, may be repeated, and raises `psycopg.Error` when the database
    refuses."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._statements = Statements(connection)

    def get(self, topic: str, window: ReplayWindow) -> Replay | None:
        """The window as recorded, or None."""
        return self._statements.row("enrichment_replays/get", Replay, _key(topic, window))

    def overlapping(self, topic: str, window: ReplayWindow) -> list[str]:
        """The claimed windows of the same replay that share time with this one and are not it."""
        found = self._statements.rows("enrichment_replays/overlapping", dict[str, datetime], _key(topic, window))
        return [f"{row['window_start']:%Y-%m-%dT%H:%M:%S} to {row['window_end']:%Y-%m-%dT%H:%M:%S}" for row in found]

    @contextmanager
    def locked(self, group_id: str) -> Iterator[None]:
        """Hold a lock within which no other task sets up this window's group."""
        with self._connection.transaction():
            self._connection.execute(sql.load("enrichment_replays/lock"), {"group_id": group_id})
            yield

    def put(self, topic: str, window: ReplayWindow, replay: Replay, dag_id: str, run_id: str) -> Replay:
        """Record a window; one that was claimed before stays as it was. Returns the window as recorded."""
        parameters = {
            **_key(topic, window), "state": replay.state, "purpose": jsonb(replay.purpose),
            "group_id": replay.group_id, "batches": jsonb(replay.batches), "marks": jsonb(replay.marks),
            "messages": replay.messages, "selected": replay.selected, "lost": replay.lost,
            "dag_id": dag_id, "run_id": run_id,
        }  # fmt: skip
        self._statements.execute("enrichment_replays/put", parameters)
        return self.get(topic, window) or replay

    def finish(
        self, topic: str, window: ReplayWindow, counts: Mapping[str, int], differences: Mapping[str, Any]
    ) -> None:
        """All of the window is published; the first record of it counts."""
        parameters = {**_key(topic, window), "counts": jsonb(counts), "differences": jsonb(differences)}
        self._statements.execute("enrichment_replays/finish", parameters)


def _key(topic: str, window: ReplayWindow) -> dict[str, Any]:
    return {"replay_id": window.replay_id, "topic": topic, "start": window.start, "end": window.end}
