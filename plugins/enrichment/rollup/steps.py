"""A range of time in, what is rolled up of each of its steps out, with the batches that came after the last rollup.

Ranges that are made of minutes end with batches; those made of hours go on with minutes before these.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple

import msgspec
import psycopg

from enrichment.caches.base import LookupCounts
from enrichment.rollup.rollup import Rollup, S, total
from enrichment.rollup.table import HOUR, MINUTE, Rollups, hour_of
from enrichment.statements import Statements
from enrichment.store.contents import Contents
from enrichment.store.histogram import Histogram

# What is not rolled up by the hour yet, in ranges of hours: the hour that has just ended is rolled up a little later.
MINUTES_AFTER_HOURS = 3 * HOUR
TAIL = HOUR  # what is read from batches at most


class HistoryRange(NamedTuple):
    """A range that ends now: how long it is, how long each of its steps, and the rollups that it is made of."""

    length: timedelta
    step: timedelta
    period: str

    def starts(self, now: datetime) -> list[datetime]:
        """The starts of its steps; the last one is the step of now."""
        first = floor(now - self.length, self.step) + self.step
        return [first + n * self.step for n in range((floor(now, self.step) - first) // self.step + 1)]


class TimedSums(NamedTuple, Generic[S]):
    """The sums of a step that is known for some seconds of it."""

    sums: S
    seconds: float


class PlottedStage(msgspec.Struct, frozen=True):
    """What is plotted of a stage."""

    peak_rss_bytes: int | None = None


class PlottedSums(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a rollup that are plotted: to read only these takes half the time."""

    batches: int = 0
    messages: int = 0
    errors_by_reason: dict[str, int] = {}
    caches: dict[str, LookupCounts] = {}
    stages: dict[str, PlottedStage] = {}
    message_latency: Histogram = Histogram()
    freshness: Histogram = Histogram()
    lag_max: int | None = None
    largest_batch: int | None = None


class HeldSums(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a rollup that say what its messages held."""

    batches: int = 0
    messages: int = 0
    errors_by_reason: dict[str, int] = {}
    contents: Contents = {}


class _Plotted(msgspec.Struct, frozen=True):
    starts_at: datetime
    sums: str

    @property
    def read(self) -> PlottedSums:
        return _decode_sums(self.sums)


class _Held(msgspec.Struct, frozen=True):
    starts_at: datetime
    batches: int
    messages: int
    error_rates: dict[str, float]
    contents: str

    @property
    def read(self) -> HeldSums:
        errors = {reason: round(rate * self.messages) for reason, rate in self.error_rates.items()}
        contents = _decode_contents(self.contents)
        return HeldSums(batches=self.batches, messages=self.messages, errors_by_reason=errors, contents=contents)


_decode_sums = msgspec.json.Decoder(PlottedSums).decode
_decode_contents = msgspec.json.Decoder(Contents).decode
_STATEMENTS: dict[type, tuple[str, Any]] = {
    PlottedSums: ("enrichment_rollups/find_between", _Plotted),
    HeldSums: ("enrichment_rollups/find_contents", _Held),
}


def read_steps(
    connection: psycopg.Connection, chosen: HistoryRange, now: datetime, wanted: type[S]
) -> dict[datetime, TimedSums[S]]:
    """The sums (`PlottedSums` or `HeldSums`) of the steps of which anything is known, by their starts. Raises
    `psycopg.Error` when the database does not answer in time."""
    statements, starts_at = Statements(connection), chosen.starts(now)[0]
    parts: dict[datetime, list[S]] = defaultdict(list)
    known: Counter[datetime] = Counter()
    until = starts_at

    def take(period: str, since: datetime, length: timedelta) -> None:
        nonlocal until
        within = {"period": period, "starts_at": since, "ends_at": now}
        for found in statements.rows(*_STATEMENTS[wanted], within):
            step = floor(found.starts_at, chosen.step)
            parts[step].append(found.read)
            known[step] += round(length.total_seconds())
            until = found.starts_at + length

    if chosen.period == "hour":
        take("hour", starts_at, HOUR)
        take("minute", max(until, hour_of(now - MINUTES_AFTER_HOURS)), MINUTE)
    else:
        take("minute", starts_at, MINUTE)
    until = min(max(until, now - TAIL), now)
    for batch in Rollups(connection).batches(until, now, contents=wanted is HeldSums):
        sums = msgspec.convert(Rollup.of_batch(batch), wanted, from_attributes=True)
        parts[floor(batch.published_at, chosen.step)].append(sums)
    seconds = {step: float(length) for step, length in known.items()}
    step = floor(until, chosen.step)
    while step < now:
        inside = min(now, step + chosen.step) - max(until, step)
        seconds[step] = seconds.get(step, 0.0) + inside.total_seconds()
        step += chosen.step
    return {step: TimedSums(total(parts[step] or [wanted()]), length) for step, length in seconds.items() if length > 0}


def floor(moment: datetime, step: timedelta) -> datetime:
    """The start of the step of a moment. Steps are parts of an hour, or an hour."""
    hour = hour_of(moment)
    return hour + (moment - hour) // step * step


Column = list[float | None]
Columns = dict[str, Column]


def column(steps: Sequence[TimedSums[S] | None], value: Callable[[S], float | None]) -> Column:
    """A value of each step, None where nothing is known of it."""
    return [None if step is None else value(step.sums) for step in steps]


def milliseconds(starts: list[datetime]) -> list[int]:
    """Times as plots have them, since the epoch."""
    return [round(1000 * start.timestamp()) for start in starts]
