"""What became of the messages that were played: gathered in a `Report`, printed as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from enrichment.batch import OffsetRange
from enrichment.batches.alerts import said_of
from enrichment.caches.base import LookupCounts
from enrichment.conservation.report import ConservationReport
from enrichment.enrichers.registry import REGISTRY

WARNINGS_SHOWN = 10  # of many batches, each has its own


class PublishedBatch(msgspec.Struct, frozen=True):
    """A batch as the ledger has it. `durations` are the seconds that each stage's task worked."""

    batch_id: str
    run_id: str
    ranges: tuple[OffsetRange, ...]
    messages_read: int
    cache_counts: dict[str, LookupCounts]
    durations: dict[str, float]
    source_builds: dict[str, str]
    published_at: datetime
    warnings: tuple[str, ...] = ()

    @property
    def task_seconds(self) -> float:
        """The time that the batch's tasks worked, one after the other but for those side by side."""
        one_by_one = sum(seconds for stage, seconds in self.durations.items() if stage not in REGISTRY.by_name)
        return one_by_one + REGISTRY.seconds_side_by_side(self.durations)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is printed. `sent` messages were played; `seconds` passed from then until all were published.
    `max_error_rate` is the service level that the hour is measured by."""

    sent: int
    seconds: float
    conservation: ConservationReport
    batches: Sequence[PublishedBatch]
    sample: Mapping[str, Any] | None
    default_geo_database: bool
    max_error_rate: float
    ui_url: str
    user: str
    password: str

    @property
    def ok(self) -> bool:
        """Whether every message played has exactly one right output."""
        return self.conservation.ok and self.conservation.read >= self.sent > 0

    @property
    def caches(self) -> dict[str, LookupCounts]:
        """How the batches' messages were answered, by enricher."""
        total: dict[str, LookupCounts] = {}
        for batch in self.batches:
            for name, counts in batch.cache_counts.items():
                total[name] = total.get(name, LookupCounts()) + counts
        return total

    @property
    def task_rate(self) -> float:
        """Messages per second inside the tasks."""
        return _rate(sum(b.messages_read for b in self.batches), sum(b.task_seconds for b in self.batches))

    @property
    def end_to_end_rate(self) -> float:
        """Messages per second from the first one sent to the last one published, waiting for the run included."""
        return _rate(self.sent, self.seconds)

    @property
    def error_rate(self) -> float:
        """Share of the messages that are partial or dead letters."""
        found = self.conservation
        return (found.partial + found.dead) / found.read if found.read else 0.0

    @property
    def warnings(self) -> list[str]:
        """What the batches' runs warned of, and that the service level of errors is missed, if it is."""
        said = list(dict.fromkeys(text for batch in self.batches for text in batch.warnings))
        if self.error_rate >= self.max_error_rate:
            errors = self.conservation.partial_errors + self.conservation.dead_reasons
            said.append(
                f"{self.error_rate:.1%} of the messages have an error: {said_of(errors)}. With "
                "these, stacklens_metrics_rollup will be red for the hour "
                f"(SERVICE_LEVEL_MAX_ERROR_RATE={self.max_error_rate:g})"
            )
        return said

    @property
    def geo_databases(self) -> list[str]:
        """The geo databases that were used, by type and date of their build."""
        return sorted({build_name(b.source_builds["geo"]) for b in self.batches if b.source_builds.get("geo")})


def build_name(version: str) -> str:
    """A geo database's version (`<type>-<seconds since the epoch>`) with its date: `GeoLite2-City of 2018-07-03`."""
    name, _, epoch = version.rpartition("-")
    if not name or not epoch.isdecimal():
        return version
    try:
        return f"{name} of {datetime.fromtimestamp(int(epoch), UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):  # later than any year that there is a date for
        return version


def show(report: Report, console: Console) -> None:
    """Print the report."""
    for part in (_messages(report), _sources(report), _caches(report), _errors(report), _speed(report)):
        console.print()
        console.print(part)
    hint = " (the package's own, so not today's truth; GEO_IP_DATABASE_PATH names another)"
    geo = ", ".join(report.geo_databases) or "none that could be read; the log of the task `geo` says why"
    console.print(f"\nGeo database: {geo}{hint if report.default_geo_database else ''}", highlight=False)
    console.print("\nOne enriched message:")
    console.print_json(json.dumps(report.sample)) if report.sample else console.print("  none")
    for text in report.warnings[:WARNINGS_SHOWN]:
        console.print(f"\nWarning: {text}", style="yellow", highlight=False, markup=False)
    login = f"\nAirflow: {report.ui_url}, user {report.user}, password {report.password}"
    console.print(login, highlight=False, markup=False)
    console.print(
        report.conservation.summary(), style="green" if report.ok else "bold red", highlight=False, markup=False
    )
    if report.conservation.read < report.sent:
        console.print(f"{report.sent:,} were sent, only {report.conservation.read:,} are there", style="bold red")
    console.print(f"See them in the UI: {report.ui_url}/plugin/stacklens", highlight=False, markup=False)


def _messages(report: Report) -> Table:
    found = report.conservation
    others = found.read - report.sent
    table = _table("Messages", "", "messages")
    table.add_row("in (played)", f"{report.sent:,}")
    if others > 0:
        table.add_row("in (by others meanwhile)", f"{others:,}")
    table.add_row("analytics", f"{found.analytics:,}")
    table.add_row("  of them partial", f"{found.partial:,}")
    table.add_row("dead letters", f"{found.dead:,}")
    return table


def _sources(report: Report) -> Table:
    table = _table("Enriched by", "source", "messages", "of analytics")
    for source, count in sorted(report.conservation.enriched_by.items()):
        table.add_row(source, f"{count:,}", _percent(count, report.conservation.analytics))
    return table


def _caches(report: Report) -> Table:
    table = _table("Cache hits by message", "cache", "messages", "memory", "PostgreSQL", "misses", "stale", "hit rate")
    for name, counts in report.caches.items():
        numbers = (counts.messages, counts.memory, counts.postgres, counts.misses, counts.stale)
        hits = counts.memory + counts.postgres
        table.add_row(name, *(f"{n:,}" for n in numbers), _percent(hits, counts.messages))
    return table


def _errors(report: Report) -> Table:
    partial, dead = report.conservation.partial_errors, report.conservation.dead_reasons
    table = _table("Errors", "reason", "partial messages", "dead letters")
    for reason in sorted({*partial, *dead}):
        table.add_row(reason, f"{partial[reason]:,}", f"{dead[reason]:,}")
    return table


def _speed(report: Report) -> Table:
    table = _table("Speed", "", "messages/s", "seconds")
    table.add_row("inside the tasks", f"{report.task_rate:,.0f}", f"{sum(b.task_seconds for b in report.batches):.2f}")
    table.add_row("end to end, waiting included", f"{report.end_to_end_rate:,.0f}", f"{report.seconds:.2f}")
    return table


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column(first, min_width=28)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _rate(messages: int, seconds: float) -> float:
    return messages / seconds if seconds > 0 else 0.0


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def of_ranges(batches: Iterable[PublishedBatch], ranges: Iterable[OffsetRange]) -> list[PublishedBatch]:
    """The batches that hold any of these offsets."""
    wanted = list(ranges)
    return [batch for batch in batches if any(_common(mine, theirs) for mine in wanted for theirs in batch.ranges)]


def covered(batches: Iterable[PublishedBatch], ranges: Iterable[OffsetRange]) -> int:
    """How many of these offsets the batches hold."""
    wanted = list(ranges)
    return sum(_common(mine, theirs) for batch in batches for mine in wanted for theirs in batch.ranges)


def _common(one: OffsetRange, other: OffsetRange) -> int:
    if one.partition != other.partition:
        return 0
    return max(0, min(one.end, other.end) - max(one.start, other.start))
