"""The tasks of `stacklens_repair`: find the batches that are due, and make a pass over each."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from airflow.sdk import CronTriggerTimetable, Param, get_current_context, task, task_group

from enrichment.enrichers.registry import REGISTRY
from enrichment.orchestration.common import ANALYTICS, PUBLISHED, Manifest, resources, run_params, tell_published

if TYPE_CHECKING:
    from enrichment.repair.passes import Pass

EVERY_FIVE_MINUTES = CronTriggerTimetable("*/5 * * * *", timezone="UTC")

BY_HAND = "manual"  # Airflow's type of a run that a person triggered
# What a pass is called in the UI's grid; each task fills it in.
LABEL = "{{ repaired }}"

REPAIR_PARAMS = {
    "batch_id": Param(
        None,
        type=["null", "string"],
        minLength=1,
        title="Batch",
        description_md="Only this batch (`SELECT batch_id FROM enrichment_pending WHERE state = 'open'`), now, however "
        "long its pause would last. Empty: every batch that is due.",
    ),
    "source": Param(
        None,
        type=["null", "string"],
        enum=[None, *REGISTRY.by_source],
        title="Source",
        description_md="Only what is missing of this source. `null`: of all.",
    ),
    "dry_run": Param(
        True,
        type="boolean",
        title="Dry run",
        description_md="Of a run by hand: look everything up and count, but publish nothing; the counts are in the "
        "tasks' XComs. Take the tick away to publish the corrections. Scheduled runs always publish them.",
    ),
}


@task
def plan() -> list[dict[str, Any]]:
    """Find the batches that are due and where they lie, the oldest first. Nothing pending: the rest is skipped."""
    from msgspec import to_builtins

    from enrichment.errors import RunRefused
    from enrichment.kafka.offsets import log_ends
    from enrichment.repair import passes as repair

    params = run_params(get_current_context()["params"], REPAIR_PARAMS)
    dry_run = params["dry_run"] and get_current_context()["dag_run"].run_type == BY_HAND
    with resources() as r:
        at_most = r.settings.pipeline.repair_batches_per_run
        due = r.pending.due(params["batch_id"], params["source"], rows=3 * at_most)
        if params["batch_id"] is not None and not due:
            source = "" if params["source"] is None else f" of {params['source']}"
            raise RunRefused(
                f"nothing{source} is missing in a published batch {params['batch_id']!r}: the partial messages on the "
                "page, and enrichment_pending where its state is open, have the batches that are to be repaired"
            )
        passes = []
        for batch_id, missing in groupby(due, key=lambda m: m.batch_id):
            of_batch = list(missing)
            # A publish that died before it could record the end of its batch's span.
            if not r.pending.publications(batch_id)[0].complete:
                r.pending.settle(batch_id, 0, log_ends(r.clients, of_batch[0].topic))
            places = r.pending.publications(batch_id)
            group_id = r.settings.kafka.consumer_group
            passes.append(repair.plan(of_batch, places, group_id, dry_run=dry_run))
    return [to_builtins(one) for one in passes[:at_most]]


def pass_of(manifest: dict[str, Any]) -> Pass:
    """The pass of a manifest; it also names the task's square in the UI's grid."""
    from msgspec import convert

    from enrichment.repair.passes import Pass

    one = convert(manifest, Pass)
    get_current_context()["repaired"] = one.batch.batch_id  # type: ignore[typeddict-unknown-key]
    return one


@task(multiple_outputs=False, map_index_template=LABEL, inlets=[ANALYTICS], outlets=[PUBLISHED])
def correct(planned: Manifest, *, outlet_events: Any = None) -> dict[str, Any]:
    """Read what a batch is missing, look it up, and publish the corrections, in one transaction.

    May be killed and run again at any point: a pass is published once. Fails when messages will stay as they are.
    """
    from msgspec import to_builtins

    from enrichment.batches.publish import utc_now
    from enrichment.errors import RepairIncomplete
    from enrichment.repair import passes as repair

    one = pass_of(planned)
    with resources() as r:
        prepared, produced, states = repair.run(r, one, utc_now)
    summary = {
        "batch_id": one.repaired_id,
        "pass": one.number,
        "dry_run": one.batch.dry_run,
        "produced": produced,
        "states": states,
        **to_builtins(prepared),
    }
    if produced:
        tell_published(outlet_events, {one.batch.topic: prepared.tally.messages}, summary)
    ended = repair.to_be_told(one, states)
    if ended and not one.batch.dry_run:
        raise RepairIncomplete(f"batch {one.repaired_id}: {ended}; enrichment_pending says more")
    return summary


@task(map_index_template=LABEL)
def clean(planned: Manifest) -> None:
    """Remove what the pass staged, however it ended."""
    one = pass_of(planned)
    with resources() as r:
        r.staging.remove(one.batch.batch_id)


@task_group(group_id="batch")
def repair_batch(planned: Manifest) -> None:
    """One batch, from its place in the topic to its row in `enrichment_pending`."""
    correct(planned) >> clean(planned).as_teardown()
