"""The tasks of `stacklens_metrics_rollup`: the rollups of an hour and its day, the hour's service levels, a report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronDataIntervalTimetable, Param, get_current_context, task

from enrichment.log_lines import log_pairs
from enrichment.orchestration.common import Manifest, resources, run_params
from enrichment.orchestration.metrics import send_breaches
from enrichment.orchestration.notes import add_note

if TYPE_CHECKING:
    from enrichment.resources import Resources
    from enrichment.rollup.service_levels import Breach
    from enrichment.rollup.table import Rollups
    from enrichment.settings import ServiceLevelSettings, Settings

log = logging.getLogger(__name__)

# Named: a plain cron string would give every run an interval of no length.
HOURLY = CronDataIntervalTimetable("0 * * * *", timezone="UTC")

ROLLUP_PARAMS = {
    "hour": Param(
        None,
        type=["null", "string"],
        format="date-time",
        # The format alone is only the form's: nothing checks it where a run is triggered otherwise.
        pattern=r"^\d{4}-[01]\d-[0-3]\d[T ][0-2]\d:[0-5]\d",
        title="Hour",
        description_md="Any moment of the hour to roll up, such as `2024-01-15T10:00:00Z` (UTC where no zone is "
        "named). Empty: the hour that the run's data interval begins in; by hand that is the last full one. For many "
        "hours, use a backfill.",
    ),
}


def wanted_hour(context: Mapping[str, Any]) -> datetime:
    """The hour that a run is about: the one asked for, or the one that its data interval begins in."""
    from enrichment.rollup.table import HOUR, hour_of

    asked = run_params(context["params"], ROLLUP_PARAMS)["hour"]
    if asked:
        moment = datetime.fromisoformat(asked)
        return hour_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    start: datetime | None = context.get("data_interval_start")
    # Without a logical date a run has no interval: the last full hour before it was to start.
    return hour_of(start or context["dag_run"].run_after - HOUR)


@task
def roll_up() -> str:
    """Make the rollups of the hour and, while they are kept, of its minutes, and sum up its day again; returns the
    start of the hour."""
    from enrichment.rollup.table import Rollups, full_minutes

    hour = wanted_hour(get_current_context())
    with resources() as r:
        rollups = Rollups(r.maintenance)
        rollup = rollups.roll_up(hour)
        # Runs roll up their minutes themselves: here are those that none has, and batches that were recorded late.
        now = datetime.now(UTC)
        if hour > now - timedelta(days=r.settings.retention.minute_rollups_days):
            rollups.roll_up_minutes(full_minutes(hour, now))
    log.info(
        "rollup.done hour=%s batches=%d messages=%d hit_rate=%s error_rate=%s freshness_p95=%s lag_max=%s",
        hour.isoformat(), rollup.batches, rollup.messages, rollup.hit_rate, rollup.error_rate,
        rollup.freshness.quantile(0.95), rollup.lag_max,
    )  # fmt: skip
    return hour.isoformat()


@task
def service_levels(hour: Manifest) -> None:
    """Check the hour; keep its breaches, tell the notifier of new ones, put them into the run's note, and fail when
    there are any."""
    from enrichment.errors import ServiceLevelMissed
    from enrichment.rollup.table import Rollups

    context = get_current_context()
    with resources() as r:
        breaches = check(Rollups(r.maintenance), r.settings, context, hour)
        if breaches:
            note_breaches(r, context, hour, breaches)
    send_breaches(breaches)
    if breaches:
        raise ServiceLevelMissed(f"{hour}: " + "; ".join(map(str, breaches)))


def note_breaches(r: Resources, context: Any, hour: str, breaches: Sequence[Breach]) -> None:
    """Put an hour's breaches into the note of this run and, unless a backfill found them, into those of the live runs
    that added most to them: a few runs, however many the hour had."""
    from enrichment.rollup.worst import find_worst

    conn_id = r.settings.pipeline.airflow_api_conn_id
    texts = [f"{hour}: {breach}" for breach in breaches]
    if context["dag_run"].run_type != "backfill":
        for batch, sentence in find_worst(r.maintenance, datetime.fromisoformat(hour), breaches):
            add_note(conn_id, batch.dag_id, batch.run_id, [sentence])
            texts.append(f"Most of it: {batch.dag_id} {batch.run_id}")
    add_note(conn_id, context["dag"].dag_id, context["run_id"], texts)


def check(rollups: Rollups, settings: Settings, context: Any, hour: str) -> list[Breach]:
    """The breaches of an hour: recorded, and sent to the notifier unless they were before.

    A backfill records them, too, but does not notify: a past hour is not an alarm.
    """
    from enrichment.rollup.rollup import Rollup
    from enrichment.rollup.service_levels import find_breaches

    moment = datetime.fromisoformat(hour)
    levels = settings.service_levels
    breaches = find_breaches(rollups.get("hour", moment) or Rollup(), levels, settings.max_keyless_shares)
    untold = rollups.keep_breaches(moment, breaches)
    if untold and levels.notifier and context["dag_run"].run_type != "backfill":
        notify(levels, context, hour, untold)
        rollups.told(moment, untold)
    return breaches


def notify(settings: ServiceLevelSettings, context: Any, hour: str, breaches: Sequence[Breach]) -> None:
    """Call the notifier of the settings with the task's context, `hour` and `breaches` (sentences) in it.

    Raises `SettingsError` when there is no such notifier, and any exception of its own: the task is tried again.
    """
    from enrichment.errors import SettingsError

    module, _, name = settings.notifier.rpartition(".")
    try:
        notifier = getattr(import_module(module), name)(**settings.notifier_kwargs)
    except (ImportError, AttributeError, TypeError, ValueError) as wrong:
        raise SettingsError(f"SERVICE_LEVEL_NOTIFIER={settings.notifier!r} is of no use: {wrong}") from wrong
    notifier({**context, "hour": hour, "breaches": [str(breach) for breach in breaches]})


@task(multiple_outputs=False)
def report(hour: Manifest) -> dict[str, Any]:
    """Say what ledger and metrics hold, and which hours of the last week nothing has rolled up."""
    from msgspec import to_builtins

    from enrichment.rollup.table import HOUR, Rollups

    with resources() as r:
        rollups = Rollups(r.maintenance)
        missing = rollups.missing_hours(datetime.fromisoformat(hour) + HOUR)
        said: dict[str, Any] = to_builtins(
            {"missing_hours": missing, "jobs": rollups.job_stats(), "trend": rollups.trend()}
        )
    if missing:
        log.warning(
            "rollup.missing hours=%d fill_with='airflow backfill create --dag-id stacklens_metrics_rollup "
            "--from-date %s --to-date %s'",
            len(missing), missing[0].isoformat(), (missing[-1] + timedelta(minutes=1)).isoformat(),
        )  # fmt: skip
    for line in (*said["jobs"], *said["trend"]):
        log_pairs(log, "rollup.report", line)
    return said
