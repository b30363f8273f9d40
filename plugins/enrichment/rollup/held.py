"""A range of time in, what the messages of the live stream held in it out: counts by value, in all and over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
import psycopg

from enrichment.enrichers.registry import REGISTRY
from enrichment.rollup.rollup import total
from enrichment.rollup.steps import Column, HeldSums, HistoryRange, TimedSums, milliseconds, read_steps
from enrichment.rollup.table import DAY, HOUR, MINUTE
from enrichment.store.contents import DEAD_LETTERS, OTHERS, SEPARATOR

LINES = 6  # the most frequent values that have a line of their own

# Of a day there are hours: as many points as tell a trend.
RANGES = {
    "1h": HistoryRange(HOUR, 5 * MINUTE, "minute"),
    "6h": HistoryRange(6 * HOUR, 15 * MINUTE, "minute"),
    "24h": HistoryRange(DAY, HOUR, "hour"),
    "7d": HistoryRange(7 * DAY, HOUR, "hour"),
    "30d": HistoryRange(30 * DAY, HOUR, "hour"),
}


class ValueCount(msgspec.Struct, frozen=True):
    """How many messages have a value, or a combination of values."""

    values: list[str]
    messages: int


class CountedContents(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one kind: the most frequent values first, and in `lines` messages a second of each step, for the first
    few. `others` are the messages whose values are too rare to be kept apart."""

    name: str
    columns: list[str]
    title: str
    is_country: bool
    counts: list[ValueCount]
    others: int
    lines: dict[str, Column]


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the messages of a range held: first what enrichments declare as counted, then errors and dead letters. `at`
    has the starts of its steps in milliseconds; `batches` and `messages` are those of the whole range."""

    starts_at: datetime
    ends_at: datetime
    step_seconds: float
    batches: int
    messages: int
    at: list[int]
    counted: list[CountedContents]


def read_held(connection: psycopg.Connection, name: str, now: datetime) -> Held:
    """What the messages of a range (of `RANGES`) until now held. Raises `psycopg.Error` when the database does not
    answer in time."""
    chosen = RANGES[name]
    starts = chosen.starts(now)
    known = read_steps(connection, chosen, now, HeldSums)
    steps = [known.get(start) for start in starts]
    whole = total([HeldSums(), *(step.sums for step in known.values())])
    declared = [counted for enricher in REGISTRY.enrichers for counted in enricher.counted]
    return Held(
        starts_at=starts[0],
        ends_at=now,
        step_seconds=chosen.step.total_seconds(),
        batches=whole.batches,
        messages=whole.messages,
        at=milliseconds(starts),
        counted=[
            *(
                _counted(c.name, c.columns, c.title, whole.contents, steps, _content(c.name), is_country=c.is_country)
                for c in declared
            ),
            _counted("errors", ("reason",), "Errors by reason", {"errors": whole.errors_by_reason}, steps, _errors),
            _counted(
                DEAD_LETTERS, ("reason", "detail"), "Dead letters by fingerprint", whole.contents, steps,
                _content(DEAD_LETTERS),
            ),
        ],
    )  # fmt: skip


def _counted(
    name: str, columns: Sequence[str], title: str, contents: Mapping[str, Mapping[str, int]],
    steps: Sequence[TimedSums[HeldSums] | None], counts_of: Callable[[HeldSums], Mapping[str, int]],
    *, is_country: bool = False,
) -> CountedContents:  # fmt: skip
    totals = Counter(contents.get(name, {}))
    others = totals.pop(OTHERS, 0)
    ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return CountedContents(
        name=name,
        columns=list(columns),
        title=title,
        is_country=is_country,
        counts=[ValueCount(value.split(SEPARATOR), count) for value, count in ordered],
        others=others,
        lines={
            value.replace(SEPARATOR, ", "): [
                None if step is None else counts_of(step.sums).get(value, 0) / step.seconds for step in steps
            ]
            for value, _ in ordered[:LINES]
        },
    )


def _content(name: str) -> Callable[[HeldSums], Mapping[str, int]]:
    return lambda step: step.contents.get(name, {})


def _errors(step: HeldSums) -> Mapping[str, int]:
    return step.errors_by_reason
