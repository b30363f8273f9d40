"""Batches from ledger and metrics in, their totals for a minute, an hour or a day out, which can be added up again.

A `Rollup` holds only what may be added (counts, histograms) and maxima; rates and percentiles are computed from these
on demand. So a day is the sum of its hours, and its percentiles are those of all its messages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import reduce
from operator import add
from typing import Any, TypeVar

import msgspec

from enrichment.caches.base import LookupCounts
from enrichment.store.contents import Contents, total_contents
from enrichment.store.histogram import Histogram

S = TypeVar("S", bound=msgspec.Struct)

HOUR_SECONDS = 3600
MINUTE_SECONDS = 60
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class StageRow(msgspec.Struct, frozen=True):
    """What a stage did to a batch. `freshness`: publication minus message timestamp, by message; only of publish."""

    messages: int
    seconds: float
    freshness: Histogram | None = None
    peak_rss_bytes: int | None = None
    contents: Contents | None = None


class BatchRow(msgspec.Struct, frozen=True):
    """A published batch of the live stream: its row in the ledger, and its stages by name."""

    claimed_at: datetime
    published_at: datetime
    messages_read: int
    messages_enriched: int
    messages_partial: int
    messages_dead: int
    value_bytes: int
    errors_by_reason: dict[str, int]
    cache_counts: dict[str, LookupCounts]
    lag: dict[int, int]
    stages: dict[str, StageRow]


class StageSums(msgspec.Struct, frozen=True):
    """What a stage did to batches; `latency` has one duration a batch. `peak_rss_bytes` is the most memory that its
    process has had at its end; None: not known."""

    batches: int = 0
    messages: int = 0
    seconds: float = 0.0
    latency: Histogram = Histogram()
    peak_rss_bytes: int | None = None


class Rollup(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of the batches of some hours and minutes.

    Latency is the time from claim to publication: `batch_latency` counts each batch once, `message_latency` each
    message. `lag` has for each partition the most messages that a claim left waiting after its batch's end, `lag_max`
    the most of all partitions together; empty and None when nothing was claimed. `largest_batch` has the messages of
    the largest one (None: not known), `metric_rows` is the number of rows of `enrichment_metrics` in it.
    `contents` has its messages by what they hold; a table keeps them beside the other sums.
    """

    hours: int = 0
    minutes: int = 0
    batches: int = 0
    batches_failed: int = 0
    metric_rows: int = 0
    messages: int = 0
    messages_enriched: int = 0
    messages_partial: int = 0
    messages_dead: int = 0
    value_bytes: int = 0
    errors_by_reason: dict[str, int] = {}
    caches: dict[str, LookupCounts] = {}
    stages: dict[str, StageSums] = {}
    batch_latency: Histogram = Histogram()
    message_latency: Histogram = Histogram()
    freshness: Histogram = Histogram()
    lag: dict[int, int] = {}
    lag_max: int | None = None
    largest_batch: int | None = None
    contents: Contents = {}

    @classmethod
    def of_batch(cls, row: BatchRow) -> Rollup:
        """One batch; its time is not counted."""
        latency = (row.published_at - row.claimed_at).total_seconds()
        return cls(
            batches=1,
            metric_rows=len(row.stages),
            messages=row.messages_read,
            messages_enriched=row.messages_enriched,
            messages_partial=row.messages_partial,
            messages_dead=row.messages_dead,
            value_bytes=row.value_bytes,
            errors_by_reason=row.errors_by_reason,
            caches=row.cache_counts,
            stages={
                name: StageSums(1, stage.messages, stage.seconds, Histogram.of([stage.seconds]), stage.peak_rss_bytes)
                for name, stage in row.stages.items()
            },
            batch_latency=Histogram.of([latency]),
            message_latency=Histogram.of([latency], weight=row.messages_read),
            freshness=reduce(add, (s.freshness for s in row.stages.values() if s.freshness), Histogram()),
            lag=row.lag,
            lag_max=sum(row.lag.values()) if row.lag else None,
            largest_batch=row.messages_read,
            contents=total_contents(stage.contents for stage in row.stages.values() if stage.contents),
        )

    @classmethod
    def of_hour(cls, rows: Iterable[BatchRow], failed: int = 0) -> Rollup:
        """The batches that were published in an hour, and how many failed in it. Without any: zeros and None."""
        return sum_up(map(cls.of_batch, rows), cls(hours=1, batches_failed=failed))

    @classmethod
    def of_minutes(cls, minutes: int, rows: Iterable[BatchRow], failed: int = 0) -> Rollup:
        """The same of some minutes."""
        return sum_up(map(cls.of_batch, rows), cls(minutes=minutes, batches_failed=failed))

    def __add__(self, other: Rollup) -> Rollup:
        return sum_up([self, other])

    @property
    def messages_per_second(self) -> float:
        """Throughput over the whole time, pauses included."""
        return self.messages / self.seconds if self.seconds else 0.0

    @property
    def seconds(self) -> float:
        """The whole time."""
        return float(HOUR_SECONDS * self.hours + MINUTE_SECONDS * self.minutes)

    @property
    def hit_rate(self) -> float | None:
        """Share of the look-ups of all caches, by message, that no source was asked for."""
        return reduce(add, self.caches.values(), LookupCounts()).hit_rate

    @property
    def hit_rates(self) -> dict[str, dict[str, float]]:
        """See `hit_rates_of`."""
        return hit_rates_of(self.caches)

    @property
    def keyless_shares(self) -> dict[str, float]:
        """For each enrichment: the share of the messages that were published without its key."""
        published = self.messages_enriched + self.messages_partial
        # Dead letters with a key were looked up, too.
        return {name: max(0.0, 1 - counts.messages / published) for name, counts in self.caches.items() if published}

    @property
    def error_rate(self) -> float | None:
        """Share of the messages that were published with an error, or are dead letters."""
        return _share(self.messages_partial + self.messages_dead, self.messages)

    @property
    def error_rates(self) -> dict[str, float]:
        """Share of the messages with each reason; a message may have several."""
        return {reason: n / self.messages for reason, n in self.errors_by_reason.items() if self.messages}

    @property
    def dead_letter_rate(self) -> float | None:
        """Share of the messages that became dead letters."""
        return _share(self.messages_dead, self.messages)

    @property
    def stage_figures(self) -> dict[str, dict[str, float | None]]:
        """For each stage: messages per second of its own work, and percentiles of its seconds a batch."""
        return {
            name: {
                "messages": stage.messages,
                "seconds": stage.seconds,
                "messages_per_second": stage.messages / stage.seconds if stage.seconds else None,
                "peak_rss_bytes": stage.peak_rss_bytes,
                **percentiles(stage.latency),
            }
            for name, stage in self.stages.items()
        }


def hit_rates_of(caches: Mapping[str, LookupCounts]) -> dict[str, dict[str, float]]:
    """For each cache: the share of its messages that each tier answered, and that of both tiers together."""
    return {
        name: {
            "memory": counts.memory / counts.messages,
            "postgres": counts.postgres / counts.messages,
            "all": counts.hit_rate or 0.0,
        }
        for name, counts in caches.items()
        if counts.messages
    }


def sum_up(rollups: Iterable[Rollup], start: Rollup | None = None) -> Rollup:
    """The sum of rollups, in any order; what none of them has is zero or None."""
    found = [*([] if start is None else [start]), *rollups]
    return total(found) if found else Rollup()


def total(sums: Sequence[S]) -> S:
    """The sum of any sums whose fields are named as those of a rollup; at least one."""
    added: S = _total(sums)
    return added


def percentiles(histogram: Histogram, prefix: str = "", suffix: str = "") -> dict[str, float | None]:
    """Each of p50, p95 and p99 by its name, None without a value."""
    return {f"{prefix}{name}{suffix}": histogram.quantile(q) for name, q in QUANTILES.items()}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _total(values: Sequence[Any]) -> Any:
    """The sum of values of one type, all at once: numbers, histograms, structs by their fields, dicts by their keys."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, Histogram):
        return Histogram.total(values)
    if isinstance(first, Mapping):
        return {key: _total(found) for key, found in _by_key(values).items()}
    if isinstance(first, msgspec.Struct):
        columns = {name: [getattr(value, name) for value in values] for name in first.__struct_fields__}
        return type(first)(**{name: _SPECIAL.get(name, _total)(found) for name, found in columns.items()})
    return sum(values)


def _largest(values: Sequence[Any]) -> Any:
    """The largest value, of dicts by their keys; None is no value."""
    if isinstance(values[0], Mapping):
        return {key: max(found) for key, found in sorted(_by_key(values).items())}
    return max((value for value in values if value is not None), default=None)


# Fields that are added up otherwise.
_SPECIAL: dict[str, Callable[[Sequence[Any]], Any]] = {
    **dict.fromkeys(("lag", "lag_max", "largest_batch", "peak_rss_bytes"), _largest),
    "contents": total_contents,
}


def _by_key(mappings: Iterable[Mapping[Any, Any]]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = defaultdict(list)
    for mapping in mappings:
        for key, value in mapping.items():
            found[key].append(value)
    return found
