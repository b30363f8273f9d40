"""The tasks of `stacklens_dlq_redrive` before its batch: its parameters and its claim."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, get_current_context, task

from enrichment.dead_letters.reasons import MAX_ATTEMPTS, all_reasons, default_reasons
from enrichment.log_lines import log_pairs
from enrichment.orchestration.common import DEAD_LETTERS, resources, run_params

if TYPE_CHECKING:
    from enrichment.batch import RedriveFilter

log = logging.getLogger(__name__)

MOMENT: dict[str, Any] = {
    "type": ["null", "string"],
    "format": "date-time",
    # The format alone is only the form's: nothing checks it where a run is triggered otherwise.
    "pattern": r"^\d{4}-[01]\d-[0-3]\d[T ][0-2]\d:[0-5]\d",
}
REDRIVE_PARAMS = {
    "dry_run": Param(
        True,
        type="boolean",
        title="Dry run",
        description_md="Count the dead letters by reason and detail (the XCom `survey` of `claim`) and let the chosen "
        "ones go through the pipeline without publishing (the counts in the XCom of `publish`). Nothing changes. Take "
        "the tick away to send them in again.",
    ),
    "reasons": Param(
        list(default_reasons()),
        type="array",
        items={"type": "string", "enum": list(all_reasons())},
        minItems=1,
        examples=list(all_reasons()),
        title="Reasons",
        description_md="Letters with these reasons are sent in again. The causes of those preset may have gone away by "
        "now; the others need a change of code or settings first.",
    ),
    "since": Param(
        None, **MOMENT, title="Set aside since",
        description_md="Only dead letters written then or later (UTC where no zone is named). Empty: all.",
    ),
    "until": Param(
        None, **MOMENT, title="Set aside before",
        description_md="Only dead letters written before this time. Empty: all.",
    ),
    "source_topic": Param(
        None,
        type=["null", "string"],
        title="Source topic",
        description_md="Only dead letters of messages of this topic. Empty: the setting `KAFKA_INPUT_TOPIC`.",
    ),
    "source_partition": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        title="Source partition",
        description_md="Only dead letters of messages of this partition of it. Empty: all.",
    ),
    "service": Param(
        None,
        type=["null", "string"],
        title="Service",
        description_md="Only dead letters of messages of this service. Empty: all, also those without one.",
    ),
    "max_letters": Param(
        10_000,
        type="integer",
        minimum=1,
        maximum=500_000,
        title="Dead letters at most",
        description_md="Sent in by this run, and never more than `KAFKA_BATCH_SIZE`. `waiting` in the survey says how "
        "many are left for the next run.",
    ),
    "max_attempts": Param(
        MAX_ATTEMPTS,
        type="integer",
        minimum=1,
        maximum=100,
        title="Attempts at most",
        description_md="A dead letter whose message was tried so often, the first time included, is parked: it is "
        "counted, and not sent in again unless this number is raised.",
    ),
}  # fmt: skip


@task(inlets=[DEAD_LETTERS])
def claim() -> list[dict[str, Any]]:
    """Count what the dead-letter topic holds and fix the batch of this run; with nothing to send in, the rest is
    skipped.

    The counts are the XCom `survey`. A run that is cleared gets its batch back.
    """
    from enrichment.dead_letters import redrive

    context = get_current_context()
    params = run_params(context["params"], REDRIVE_PARAMS)
    with resources() as r:
        wanted = wanted_of(params, r.settings.kafka.input_topic, redrive.max_letter_bytes(r.clients))
        batches, survey = redrive.claim(
            r.clients, r.ledger, r.settings, wanted, dag_id=context["dag"].dag_id, run_id=context["run_id"],
            max_letters=params["max_letters"], dry_run=params["dry_run"],
        )  # fmt: skip
    found = survey.to_manifest()
    context["ti"].xcom_push("survey", found)
    for group in found.pop("groups"):
        log_pairs(log, "redrive.group", {name: repr(value) for name, value in group.items()})
    log_pairs(log, "redrive.survey", {"dry_run": params["dry_run"], **found})
    return [batch.to_manifest() for batch in batches]


def wanted_of(params: Mapping[str, Any], input_topic: str, max_letter_bytes: int) -> RedriveFilter:
    """The redrive filter of a run, from its parameters. Raises `RunRefused` for a time that there is not."""
    from enrichment.batch import RedriveFilter

    return RedriveFilter(
        source_topic=params["source_topic"] or input_topic,
        reasons=tuple(params["reasons"]),
        max_attempts=params["max_attempts"],
        max_letter_bytes=max_letter_bytes,
        since=_moment("since", params["since"]),
        until=_moment("until", params["until"]),
        source_partition=params["source_partition"],
        service=params["service"] or "",
    )


def _moment(name: str, text: str | None) -> datetime | None:
    from enrichment.errors import RunRefused

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as wrong:  # the parameter's pattern lets a 13th month pass
        raise RunRefused(f"{name}={text!r} is no time: {wrong}. Write it as 2026-01-15T10:00:00Z") from wrong
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
