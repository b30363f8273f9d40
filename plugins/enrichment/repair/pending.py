"""The sources that published batches are missing, the offsets that these batches occupy, and the repair's state."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg

from enrichment.batch import OffsetRange
from enrichment.statements import Statements, jsonb

if TYPE_CHECKING:
    from enrichment.batches.outages import Outage


class PendingState(StrEnum):
    """The state of a batch's missing source. All but the first two are final."""

    EXPECTED = "expected"  # written before the publication, which may fail
    OPEN = "open"
    REPAIRED = "repaired"
    GIVEN_UP = "given-up"
    LOST = "lost"
    UNREPAIRABLE = "unrepairable"


# Closed, and messages stay as they are.
INCOMPLETE = frozenset({PendingState.GIVEN_UP, PendingState.LOST, PendingState.UNREPAIRABLE})


class Missing(msgspec.Struct, frozen=True):
    """A source that a published batch is missing: it was `down`, or failed for a few keys."""

    batch_id: str
    source: str
    topic: str
    messages: int
    attempts: int
    corrected: int
    down: bool = True


class Publication(msgspec.Struct, frozen=True, omit_defaults=True):
    """The offsets of the output topic that a batch (pass 0) or a pass of its corrections occupies."""

    number: int = msgspec.field(name="pass")
    ranges: tuple[OffsetRange, ...]
    complete: bool = True


class PendingStore:
    """Every statement is a transaction of its own and may be repeated. Raises `psycopg.Error` when it is refused."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._statements = Statements(connection)

    def expect(self, batch_id: str, topic: str, missed: Sequence[Outage]) -> None:
        """Record that a batch is about to be published without these sources."""
        outages = [{"source": each.source, "messages": each.messages, "down": each.down} for each in missed]
        parameters = {"batch_id": batch_id, "topic": topic, "outages": jsonb(outages)}
        self._statements.execute("enrichment_pending/expect", parameters)

    def due(self, batch_id: str | None = None, source: str | None = None, rows: int = 300) -> list[Missing]:
        """What may be repaired now, the oldest first; of a named batch, even what is not due yet."""
        parameters = {"batch_id": batch_id, "source": source, "rows": rows}
        return self._statements.rows("enrichment_pending/due", Missing, parameters)

    def attempted(
        self, batch_id: str, source: str, state: PendingState, *, corrected: int = 0, failed: bool = False,
        detail: str | None = None, pause: float = 0, longest_pause: float = 0,
    ) -> None:  # fmt: skip
        """Record a source's state after an attempt; one that `failed` counts and doubles the next pause."""
        parameters = {
            "batch_id": batch_id, "source": source, "state": state, "corrected": corrected, "failed": int(failed),
            "detail": detail, "pause": float(pause), "longest_pause": float(longest_pause),
        }  # fmt: skip
        self._statements.execute("enrichment_pending/attempted", parameters)

    def start(self, batch_id: str, number: int, ranges: Sequence[OffsetRange]) -> None:
        """Record that a pass will lie after the starts of these ranges."""
        parameters = {"batch_id": batch_id, "ranges": jsonb(ranges), "pass": number}
        self._statements.execute("enrichment_publications/start", parameters)

    def settle(self, batch_id: str, number: int, ends: Sequence[OffsetRange]) -> None:
        """Record that a pass is published before these ends; the batch's missing sources may now be repaired."""
        end = {r.partition: r.end for r in ends}
        for publication in self.publications(batch_id):
            if publication.number == number and not publication.complete:
                ranges = [OffsetRange(r.partition, r.start, max(r.start, end[r.partition])) for r in publication.ranges]
                parameters = {"batch_id": batch_id, "ranges": jsonb(ranges), "pass": publication.number}
                self._statements.execute("enrichment_publications/complete", parameters)
        self._statements.execute("enrichment_pending/open", {"batch_id": batch_id})

    def publications(self, batch_id: str) -> list[Publication]:
        """The batch and the passes over it, in order; the last may not be complete."""
        return self._statements.rows("enrichment_publications/list", Publication, {"batch_id": batch_id})
