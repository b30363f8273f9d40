"""A range of time in, what the live stream did in each step of it out: columns of points for plots, from rollups.

Ranges of a day and less are made of minutes, longer ones of hours; only what came after the last rollup is read from
the batches themselves, an hour at most. A step that nothing is known of is None everywhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import psycopg

from enrichment.enrichers.registry import REGISTRY
from enrichment.rollup.rollup import QUANTILES, BatchRow, Rollup, StageSums, sum_up
from enrichment.rollup.service_levels import Breach
from enrichment.rollup.table import DAY, HOUR, MINUTE, hour_of
from enrichment.statements import Statements

# What is not rolled up by the hour yet, in ranges of days: the hour that has just ended is rolled up a little later.
MINUTES_AFTER_HOURS = 3 * HOUR
TAIL = HOUR  # what is read from batches at most
REASONS = 8  # the most frequent ones that have a line of their own
OTHERS = "others"
MOST_BREACHES = 500

Column = list[float | None]
Columns = dict[str, Column]


class HistoryRange(NamedTuple):
    """A range that ends now: how long it is, how long each of its steps, and the rollups that it is made of."""

    length: timedelta
    step: timedelta
    period: str


RANGES = {
    "1h": HistoryRange(HOUR, MINUTE, "minute"),
    "6h": HistoryRange(6 * HOUR, 5 * MINUTE, "minute"),
    "24h": HistoryRange(DAY, 15 * MINUTE, "minute"),
    "7d": HistoryRange(7 * DAY, HOUR, "hour"),
    "30d": HistoryRange(30 * DAY, HOUR, "hour"),
}


class PastBreach(msgspec.Struct, frozen=True):
    """A service level that an hour missed, in words."""

    starts_at: datetime
    level: str
    text: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What a range holds, in columns: a value for each of `at`, the starts of its steps in milliseconds.

    `error_rates` are shares of the messages by reason, the rarer ones together as `OTHERS`; `lag` is the most that a
    claim left behind. `batches` and `messages` are those of the whole range.
    """

    starts_at: datetime
    ends_at: datetime
    step_seconds: float
    batches: int
    messages: int
    at: list[int]
    messages_per_second: Column
    freshness: Columns
    latency: Columns
    hit_rates: Columns
    error_rates: Columns
    lag: Column
    mean_batch: Column
    largest_batch: Column
    peak_rss_bytes: Columns
    breaches: list[PastBreach]
    more_breaches: bool


class _Timed(msgspec.Struct, frozen=True):
    starts_at: datetime
    sums: str

    @property
    def rollup(self) -> Rollup:
        return _decode(self.sums)


_decode = msgspec.json.Decoder(Rollup).decode


class _BreachRow(msgspec.Struct, frozen=True):
    starts_at: datetime
    level: str
    observed: float
    threshold: float


class _Step(NamedTuple):
    """A step of the range and how many seconds of it are known."""

    rollup: Rollup
    seconds: float


def read_history(connection: psycopg.Connection[Any], name: str, now: datetime) -> History:
    """What a range (of `RANGES`) until now holds. Raises `psycopg.Error` when the database does not answer in time."""
    chosen = RANGES[name]
    starts_at = _floor(now - chosen.length, chosen.step) + chosen.step
    found = _read(Statements(connection), chosen, starts_at, now)
    number = (_floor(now, chosen.step) - starts_at) // chosen.step + 1
    steps = [found.get(starts_at + n * chosen.step) for n in range(number)]
    breaches = _breaches(Statements(connection), starts_at)
    whole = [step.rollup for step in steps if step is not None]
    return History(
        starts_at=starts_at,
        ends_at=now,
        step_seconds=chosen.step.total_seconds(),
        batches=sum(rollup.batches for rollup in whole),
        messages=sum(rollup.messages for rollup in whole),
        at=[round(1000 * (starts_at + n * chosen.step).timestamp()) for n in range(number)],
        messages_per_second=[None if step is None else step.rollup.messages / step.seconds for step in steps],
        freshness={name: _column(steps, _quantile("freshness", q)) for name, q in QUANTILES.items()},
        latency={name: _column(steps, _quantile("message_latency", q)) for name, q in QUANTILES.items()},
        hit_rates={
            cache: _column(steps, _hit_rate_of(cache))
            for cache in _in_order(cache for rollup in whole for cache in rollup.caches)
        },
        error_rates=_error_rates(steps, whole),
        lag=_column(steps, lambda r: r.lag_max),
        mean_batch=_column(steps, lambda r: r.messages / r.batches if r.batches else None),
        largest_batch=_column(steps, lambda r: r.largest_batch),
        peak_rss_bytes={
            stage: _column(steps, _peak_of(stage))
            for stage in _in_order(stage for rollup in whole for stage in rollup.stages)
        },
        breaches=breaches[:MOST_BREACHES],
        more_breaches=len(breaches) > MOST_BREACHES,
    )  # fmt: skip


def _read(statements: Statements, chosen: HistoryRange, starts_at: datetime, now: datetime) -> dict[datetime, _Step]:
    """The steps of which anything is known."""
    parts: dict[datetime, list[Rollup]] = defaultdict(list)
    known: Counter[datetime] = Counter()
    until = starts_at

    def take(period: str, since: datetime, length: timedelta) -> None:
        nonlocal until
        within = {"period": period, "starts_at": since, "ends_at": now}
        for timed in statements.rows("enrichment_rollups/find_between", _Timed, within):
            step = _floor(timed.starts_at, chosen.step)
            parts[step].append(timed.rollup)
            known[step] += round(length.total_seconds())
            until = timed.starts_at + length

    if chosen.period == "hour":
        take("hour", starts_at, HOUR)
        take("minute", max(until, hour_of(now - MINUTES_AFTER_HOURS)), MINUTE)
    else:
        take("minute", starts_at, MINUTE)
    until = min(max(until, now - TAIL), now)
    tail = {"starts_at": until, "ends_at": now}
    for row in statements.rows("enrichment_rollups/find_batches", BatchRow, tail):
        parts[_floor(row.published_at, chosen.step)].append(Rollup.of_batch(row))
    seconds = {step: float(length) for step, length in known.items()}
    step = _floor(until, chosen.step)
    while step < now:
        inside = min(now, step + chosen.step) - max(until, step)
        seconds[step] = seconds.get(step, 0.0) + inside.total_seconds()
        step += chosen.step
    return {step: _Step(sum_up(parts[step]), length) for step, length in seconds.items() if length > 0}


def _breaches(statements: Statements, starts_at: datetime) -> list[PastBreach]:
    since = {"starts_at": hour_of(starts_at), "row_limit": MOST_BREACHES + 1}
    found = statements.rows("service_level_breaches/find_since", _BreachRow, since)
    return [PastBreach(b.starts_at, b.level, str(Breach(b.level, b.observed, b.threshold))) for b in found]


def _floor(moment: datetime, step: timedelta) -> datetime:
    """The start of the step of a moment. Steps are parts of an hour, or hours."""
    hour = hour_of(moment)
    return hour + (moment - hour) // step * step


def _column(steps: Sequence[_Step | None], value: Callable[[Rollup], float | None]) -> Column:
    return [None if step is None else value(step.rollup) for step in steps]


def _quantile(histogram: str, q: float) -> Callable[[Rollup], float | None]:
    return lambda rollup: getattr(rollup, histogram).quantile(q)


def _hit_rate_of(cache: str) -> Callable[[Rollup], float | None]:
    return lambda rollup: rollup.hit_rates.get(cache, {}).get("all")


def _peak_of(stage: str) -> Callable[[Rollup], float | None]:
    return lambda rollup: rollup.stages.get(stage, StageSums()).peak_rss_bytes


def _error_rates(steps: Sequence[_Step | None], whole: Sequence[Rollup]) -> Columns:
    totals: Counter[str] = Counter()
    for rollup in whole:
        totals.update(rollup.errors_by_reason)
    own = [reason for reason, _ in totals.most_common(REASONS)]
    columns = {reason: _column(steps, _rate_of(frozenset((reason,)))) for reason in own}
    rare = frozenset(totals) - frozenset(own)
    return columns | {OTHERS: _column(steps, _rate_of(rare))} if rare else columns


def _rate_of(reasons: frozenset[str]) -> Callable[[Rollup], float | None]:
    def rate(rollup: Rollup) -> float | None:
        found = sum(count for reason, count in rollup.errors_by_reason.items() if reason in reasons)
        return found / rollup.messages if rollup.messages else None

    return rate


def _in_order(names: Iterable[str]) -> list[str]:
    """Stages and caches in the order of the pipeline; those that are declared no more at the end."""
    found = set(names)
    order = ["drain", *REGISTRY.by_name, "publish"]
    return [name for name in order if name in found] + sorted(found.difference(order))
