"""A range of time in, what the live stream did in each step of it out: columns of points for plots, from rollups.

A step that nothing is known of is None everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec
import psycopg

from enrichment.enrichers.registry import REGISTRY
from enrichment.rollup.rollup import QUANTILES, hit_rates_of
from enrichment.rollup.service_levels import Breach
from enrichment.rollup.steps import (
    Column,
    Columns,
    HistoryRange,
    PlottedStage,
    PlottedSums,
    TimedSums,
    column,
    milliseconds,
    read_steps,
)
from enrichment.rollup.table import DAY, HOUR, MINUTE, hour_of
from enrichment.statements import Statements

REASONS = 8  # the most frequent ones that have a line of their own
OTHERS = "others"
MOST_BREACHES = 500

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


class _BreachRow(msgspec.Struct, frozen=True):
    starts_at: datetime
    level: str
    observed: float
    threshold: float


def read_history(connection: psycopg.Connection, name: str, now: datetime) -> History:
    """What a range (of `RANGES`) until now holds. Raises `psycopg.Error` when the database does not answer in time."""
    chosen = RANGES[name]
    starts = chosen.starts(now)
    known = read_steps(connection, chosen, now, PlottedSums)
    steps = [known.get(start) for start in starts]
    whole = [step.sums for step in steps if step is not None]
    breaches = _read_breaches(connection, starts[0])
    return History(
        starts_at=starts[0],
        ends_at=now,
        step_seconds=chosen.step.total_seconds(),
        batches=sum(step.batches for step in whole),
        messages=sum(step.messages for step in whole),
        at=milliseconds(starts),
        messages_per_second=[None if step is None else step.sums.messages / step.seconds for step in steps],
        freshness={name: column(steps, _freshness(q)) for name, q in QUANTILES.items()},
        latency={name: column(steps, _latency(q)) for name, q in QUANTILES.items()},
        hit_rates={
            cache: column(steps, _hit_rate_of(cache)) for cache in _in_order(c for step in whole for c in step.caches)
        },
        error_rates=_error_rates(steps, whole),
        lag=column(steps, lambda step: step.lag_max),
        mean_batch=column(steps, lambda step: step.messages / step.batches if step.batches else None),
        largest_batch=column(steps, lambda step: step.largest_batch),
        peak_rss_bytes={
            stage: column(steps, _peak_of(stage)) for stage in _in_order(s for step in whole for s in step.stages)
        },
        breaches=breaches[:MOST_BREACHES],
        more_breaches=len(breaches) > MOST_BREACHES,
    )


def _read_breaches(connection: psycopg.Connection, starts_at: datetime) -> list[PastBreach]:
    since = {"starts_at": hour_of(starts_at), "row_limit": MOST_BREACHES + 1}
    found = Statements(connection).rows("service_level_breaches/find_since", _BreachRow, since)
    return [PastBreach(b.starts_at, b.level, str(Breach(b.level, b.observed, b.threshold))) for b in found]


def _freshness(q: float) -> Callable[[PlottedSums], float | None]:
    return lambda step: step.freshness.quantile(q)


def _latency(q: float) -> Callable[[PlottedSums], float | None]:
    return lambda step: step.message_latency.quantile(q)


def _hit_rate_of(cache: str) -> Callable[[PlottedSums], float | None]:
    return lambda step: hit_rates_of(step.caches).get(cache, {}).get("all")


def _peak_of(stage: str) -> Callable[[PlottedSums], float | None]:
    return lambda step: step.stages.get(stage, PlottedStage()).peak_rss_bytes


def _error_rates(steps: Sequence[TimedSums[PlottedSums] | None], whole: Sequence[PlottedSums]) -> Columns:
    totals: Counter[str] = Counter()
    for step in whole:
        totals.update(step.errors_by_reason)
    own = [reason for reason, _ in totals.most_common(REASONS)]
    columns = {reason: column(steps, _rate_of(frozenset((reason,)))) for reason in own}
    rare = frozenset(totals) - frozenset(own)
    return columns | {OTHERS: column(steps, _rate_of(rare))} if rare else columns


def _rate_of(reasons: frozenset[str]) -> Callable[[PlottedSums], float | None]:
    def rate(step: PlottedSums) -> float | None:
        found = sum(count for reason, count in step.errors_by_reason.items() if reason in reasons)
        return found / step.messages if step.messages else None

    return rate


def _in_order(names: Iterable[str]) -> list[str]:
    """Stages and caches in the order of the pipeline; those that are declared no more at the end."""
    found = set(names)
    order = ["drain", *REGISTRY.by_name, "publish"]
    return [name for name in order if name in found] + sorted(found.difference(order))
