"""Which run of an hour to look at when the hour missed a service level: that of the batch that added most to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import psycopg

from enrichment.rollup.service_levels import Breach, Level
from enrichment.rollup.table import HOUR
from enrichment.statements import Statements
from enrichment.store.histogram import Histogram


class BatchMeasures(msgspec.Struct, frozen=True):
    """What a batch adds to its hour's service levels."""

    dag_id: str
    run_id: str
    messages: int
    errors: int
    misses: int
    left_behind: int
    freshness: Histogram | None = None


class WorstBatch(NamedTuple):
    """The batch that added most to a breach, and a sentence about it for the note of its run."""

    batch: BatchMeasures
    sentence: str


_MEASURES: dict[str, tuple[Callable[[BatchMeasures], float], str]] = {
    Level.HIT_RATE: (lambda b: b.misses, "asked the sources most often, for {:,.0f} of its {:,} messages"),
    Level.ERROR_RATE: (lambda b: b.errors, "had the most messages with an error, {:,.0f} of {:,}"),
    Level.FRESHNESS: (
        lambda b: (b.freshness and b.freshness.quantile(0.95)) or 0.0,
        "published its messages the latest, 95 % of them within {:,.1f} s ({:,} messages)",
    ),
    Level.LAG: (lambda b: b.left_behind, "left the most messages waiting, {:,.0f} (it took {:,})"),
}


def find_worst(connection: psycopg.Connection[Any], hour: datetime, breaches: Sequence[Breach]) -> list[WorstBatch]:
    """The worst batch of an hour for each breach; none for a level that no single batch is about, such as the keys that
    messages lack."""
    known = [breach for breach in breaches if breach.level in _MEASURES]
    if not known:
        return []
    within = {"starts_at": hour, "ends_at": hour + HOUR}
    batches = Statements(connection).rows("enrichment_rollups/find_measures", BatchMeasures, within)
    return [_worst(batches, hour, breach) for breach in known if batches]


def _worst(batches: Sequence[BatchMeasures], hour: datetime, breach: Breach) -> WorstBatch:
    measure, said = _MEASURES[breach.level]
    worst = max(batches, key=measure)
    text = said.format(measure(worst), worst.messages)
    return WorstBatch(
        worst, f"Of the {len(batches):,} batches of {hour.isoformat()} this run {text}. The hour: {breach}"
    )
