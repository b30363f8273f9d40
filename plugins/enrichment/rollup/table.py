"""The tables `enrichment_rollups`, the totals of each minute, hour and day, and `service_level_breaches`, the missed
levels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg

from enrichment import sql
from enrichment.rollup.rollup import BatchRow, Rollup, percentiles, sum_up
from enrichment.rollup.service_levels import Breach
from enrichment.statements import Statements, jsonb
from enrichment.store.contents import Contents

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Minutes that a run rolls up at most: those of a longer pause are left to the hour.
MINUTES_AT_ONCE = 5


def hour_of(moment: datetime) -> datetime:
    """The start of the hour of a moment, in UTC: a plain one, since Airflow's (pendulum) cannot be reckoned with
    `timedelta` in every way."""
    return datetime.fromtimestamp(moment.timestamp() // 3600 * 3600, UTC)


def full_minutes(hour: datetime, until: datetime) -> list[datetime]:
    """The minutes of an hour that have ended by a moment."""
    return [minute for n in range(60) if (minute := hour + n * MINUTE) + MINUTE <= until]


class Rollups:
    """Every method is a transaction of its own and may be repeated; raises `psycopg.Error` when the database
    refuses."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._statements = Statements(connection)

    def roll_up(self, hour: datetime) -> Rollup:
        """Make an hour's rollup from what ledger, metrics and audit log have now, and sum up its day again.

        Returns the hour as recorded: a rollup that an earlier run made from more rows than are left stays.
        """
        day = hour.replace(hour=0)
        with self._connection.transaction():
            self._connection.execute(sql.load("enrichment_rollups/lock"))
            self._put("hour", hour, self.between(hour, hour + HOUR))
            hours = self._sums("enrichment_rollups/find_hours", {"starts_at": day, "ends_at": day + DAY})
            self._put("day", day, sum_up(hours))
        return self.get("hour", hour) or Rollup()

    def roll_up_minutes(self, minutes: Iterable[datetime]) -> None:
        """Make the rollups of these minutes from what ledger, metrics and audit log have now. As with hours, one that
        was made from more rows stays."""
        for minute in minutes:
            rollup = self.between(minute, minute + MINUTE)
            with self._connection.transaction():
                self._put("minute", minute, rollup)

    def due_minutes(self) -> list[datetime]:
        """The last full minutes that have no rollup yet and whose batches are all recorded: a few at most."""
        found = self._statements.rows("enrichment_rollups/find_due", dict[str, datetime], {"minutes": MINUTES_AT_ONCE})
        return [row["starts_at"] for row in found]

    def get(self, period: str, starts_at: datetime) -> Rollup | None:
        """The rollup of a minute, an hour or a day, or None."""
        return next(iter(self._sums("enrichment_rollups/get", {"period": period, "starts_at": starts_at})), None)

    def between(self, starts_at: datetime, ends_at: datetime, *, contents: bool = True) -> Rollup:
        """The sums of the batches that were published in `[starts_at, ends_at)`, from their rows: of an hour, or of
        full minutes of one. Without `contents` it takes less time."""
        within = {"starts_at": starts_at, "ends_at": ends_at}
        batches = self.batches(starts_at, ends_at, contents=contents)
        failed = self._statements.rows("enrichment_rollups/count_failed", dict[str, int], within)[0]["count"]
        minutes = (ends_at - starts_at) // MINUTE
        return Rollup.of_hour(batches, failed) if minutes == 60 else Rollup.of_minutes(minutes, batches, failed)

    def batches(self, starts_at: datetime, ends_at: datetime, *, contents: bool) -> list[BatchRow]:
        """The batches that were published in `[starts_at, ends_at)`, with or without what their messages hold."""
        wanted = {"starts_at": starts_at, "ends_at": ends_at, "contents": contents}
        return self._statements.rows("enrichment_rollups/find_batches", BatchRow, wanted)

    def missing_hours(self, until: datetime) -> list[datetime]:
        """Hours of the seven days before `until` without a rollup, since the first one with a rollup."""
        found = self._statements.rows("enrichment_rollups/find_missing", dict[str, datetime], {"until": until})
        return [row["starts_at"] for row in found]

    def keep_breaches(self, hour: datetime, breaches: Sequence[Breach]) -> list[Breach]:
        """Record the breaches of an hour, delete those that no longer are; returns those not yet notified."""
        with self._connection.transaction():
            levels = {"starts_at": hour, "levels": [breach.level for breach in breaches]}
            self._connection.execute(sql.load("service_level_breaches/remove_others"), levels)
            found = {"starts_at": hour, "breaches": jsonb(breaches)}
            self._connection.execute(sql.load("service_level_breaches/put"), found)
            return self._statements.rows("service_level_breaches/find_untold", Breach, {"starts_at": hour})

    def told(self, hour: datetime, breaches: Sequence[Breach]) -> None:
        """Record that the notifier has been called for these breaches."""
        levels = {"starts_at": hour, "levels": [breach.level for breach in breaches]}
        self._statements.execute("service_level_breaches/record_told", levels)

    def job_stats(self) -> list[dict[str, Any]]:
        """Batches by state and DAG: what `v_enrichment_job_stats` says."""
        return self._statements.rows("enrichment_jobs/summarise", dict[str, Any], {})

    def trend(self) -> list[dict[str, Any]]:
        """What each stage did on each of the last seven days: what `v_enrichment_performance_trend` says."""
        return self._statements.rows("enrichment_metrics/find_trend", dict[str, Any], {})

    def _put(self, period: str, starts_at: datetime, rollup: Rollup) -> None:
        self._connection.execute(
            sql.load("enrichment_rollups/put"), {"period": period, "starts_at": starts_at, **_columns(rollup)}
        )

    def _sums(self, statement: str, parameters: Mapping[str, Any]) -> list[Rollup]:
        return [row.rollup for row in self._statements.rows(statement, _KeptRollup, parameters)]


class _KeptRollup(msgspec.Struct, frozen=True):
    """As the table has it: contents are apart, since few readers need them."""

    sums: Rollup
    contents: Contents

    @property
    def rollup(self) -> Rollup:
        return msgspec.structs.replace(self.sums, contents=self.contents)


def _columns(rollup: Rollup) -> dict[str, Any]:
    columns: dict[str, Any] = {name: getattr(rollup, name) for name in _COPIED}
    for name, histogram in (
        ("batch", rollup.batch_latency),
        ("message", rollup.message_latency),
        ("freshness", rollup.freshness),
    ):
        columns |= percentiles(histogram, f"{name}_", "_seconds")
    documents = {
        "hit_rates": rollup.hit_rates,
        "error_rates": rollup.error_rates,
        "lag": rollup.lag,
        "stages": rollup.stage_figures,
        "sums": msgspec.structs.replace(rollup, contents={}),
        "contents": rollup.contents,
    }
    return columns | {name: jsonb(document) for name, document in documents.items()}


_COPIED = (
    "hours", "batches", "batches_failed", "metric_rows",
    "messages", "messages_enriched", "messages_partial", "messages_dead", "value_bytes",
    "messages_per_second", "hit_rate", "error_rate", "dead_letter_rate", "lag_max",
)  # fmt: skip
