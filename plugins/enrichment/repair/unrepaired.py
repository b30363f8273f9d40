"""What published batches lack of their sources: rows for people who look, newest first, a page at a time."""

from __future__ import annotations

from datetime import datetime

import msgspec

from enrichment.repair.pending import PendingState
from enrichment.statements import Statements

ROWS = 100
COUNTED = 10_000


class UnrepairedSource(msgspec.Struct, frozen=True):
    """A source that a batch was published without: what was tried and what comes next. `down`: it was down for the
    batch; else it failed for a few keys."""

    batch_id: str
    source: str
    topic: str
    messages: int
    down: bool
    state: PendingState
    attempts: int
    corrected: int
    detail: str | None
    since: datetime
    next_attempt_at: datetime
    updated_at: datetime


class UnrepairedCount(msgspec.Struct, frozen=True):
    """How many batches are in a state because of a source, and how many of their messages still lack it."""

    source: str
    state: PendingState
    batches: int
    messages: int
    since: datetime


class PartialsPage(msgspec.Struct, frozen=True):
    """What is not repaired. `counts` are of the latest `counted` rows at most; `has_more` says that the list goes
    on."""

    counts: list[UnrepairedCount]
    counted: int
    partials: list[UnrepairedSource]
    has_more: bool


def list_partials(
    statements: Statements, state: PendingState | None = None, source: str | None = None,
    before: tuple[datetime, str, str] | None = None, rows: int = ROWS,
) -> PartialsPage:  # fmt: skip
    """A page of what is not repaired; `before` are time, batch and source of the last row of the page before it."""
    before_at, before_id, before_source = before or (None, "", "")
    parameters = {
        "state": state, "source": source, "before_at": before_at, "before_id": before_id,
        "before_source": before_source, "rows": rows + 1,
    }  # fmt: skip
    found = statements.rows("enrichment_pending/find_page", UnrepairedSource, parameters)
    counts = statements.rows("enrichment_pending/count_unrepaired", UnrepairedCount, {"counted": COUNTED})
    return PartialsPage(counts, COUNTED, found[:rows], len(found) > rows)
