"""The tasks of `stacklens_enrichment` before its batches: when it runs, and what it claims."""

from __future__ import annotations

from typing import Any

from airflow.sdk import (
    Asset,
    AssetOrTimeSchedule,
    AssetWatcher,
    CronTriggerTimetable,
    Param,
    get_current_context,
    task,
)

from enrichment.errors import SettingsError
from enrichment.orchestration.batches import enrich_at_once, roll_up_minutes
from enrichment.orchestration.common import BACKLOG, ENRICHED, PUBLISHED, WAITING, resources, run_params
from enrichment.orchestration.metrics import sending_the_moment
from enrichment.orchestration.notes import note_warnings
from enrichment.orchestration.wake_up import BacklogTrigger
from enrichment.settings import WakeUpSettings, load_room


def is_watched() -> bool:
    """Whether the triggerer watches the backlog. A value that cannot be read is the tasks' to complain about."""
    try:
        return load_room(WakeUpSettings).enabled
    except SettingsError:
        return True


# Every minute, and whenever messages wait: the triggerer and the task `publish` ring by events of the backlog.
WHEN_MESSAGES_WAIT = AssetOrTimeSchedule(
    timetable=CronTriggerTimetable("* * * * *", timezone="UTC"),
    assets=[
        Asset(
            BACKLOG.name,
            watchers=[AssetWatcher(name="backlog", trigger=BacklogTrigger())] if is_watched() else [],
        )
    ],
)

LIVE_PARAMS = {
    "max_messages": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Messages at most",
        description_md="In each batch of this run. Empty: the setting `KAFKA_BATCH_SIZE`.",
    ),
    "partitions": Param(
        None,
        type=["null", "array"],
        items={"type": "integer", "minimum": 0},
        title="Partitions",
        description_md="Only these partitions of the input topic. Empty: all.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description_md="Read and enrich, but publish nothing and commit nothing; the counts are in the XCom of "
        "`publish`. It takes what waits and, where that is less than *Messages at most* (or nothing), the last "
        "messages before it, which are published already: the run of the minute may have been quicker.",
    ),
}


@task(inlets=[ENRICHED], outlets=[PUBLISHED, WAITING])
def claim(*, outlet_events: Any = None) -> list[dict[str, Any]]:
    """Fix the offset ranges of this run's batches, one per lane, and write them to the ledger.

    A run that is cleared gets its ranges back. Batches that together have `KAFKA_AT_ONCE_MESSAGES` at most are enriched
    and published here, at once. Returns the others, and those that did not succeed; without any, the tasks after this
    are skipped.
    """
    from enrichment.batches.claim import claim as claim_batches

    context = get_current_context()
    params = run_params(context["params"], LIVE_PARAMS)
    with resources() as r, sending_the_moment(r):
        batches = claim_batches(
            r.clients, r.ledger, r.settings, dag_id=context["dag"].dag_id, run_id=context["run_id"], **params
        )
        note_warnings(r, [batch.batch_id for batch in batches])
        at_once = sum(batch.span for batch in batches) <= r.settings.kafka.at_once_messages
        left = [b for b in batches if b.dry_run or not at_once or not enrich_at_once(r, b, outlet_events)]
        if not left:  # otherwise messages wait, and the last task of each batch does it
            roll_up_minutes(r)
    return [batch.to_manifest() for batch in left]
