"""The tasks of a claimed batch: the task group that live draining, replay and redrive share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context, task, task_group

from enrichment.batch import LIVE
from enrichment.batches.pipeline import run_stages
from enrichment.enrichers.registry import REGISTRY
from enrichment.orchestration.common import (
    LOOKUP_ARGS,
    PUBLISHED,
    WAITING,
    Manifest,
    resources,
    tell_published,
    tell_waiting,
)
from enrichment.orchestration.metrics import send_batch
from enrichment.orchestration.notes import note_warnings

if TYPE_CHECKING:
    from enrichment.batch import Batch
    from enrichment.batches.staged import Drained
    from enrichment.batches.stages import LookedUp
    from enrichment.enrichers.declare import LookupEnricher
    from enrichment.resources import Resources

log = logging.getLogger(__name__)

# What a batch's tasks are called in the UI's grid; each task fills it in.
BATCH_LABEL = "{{ batch_label }}"


def batch_of(manifest: dict[str, Any]) -> Batch:
    """The batch of a manifest; it also names the task's square in the UI's grid."""
    from enrichment.batch import Batch

    batch = Batch.from_manifest(manifest)
    get_current_context()["batch_label"] = batch.label  # type: ignore[typeddict-unknown-key]
    return batch


@task(multiple_outputs=False, map_index_template=BATCH_LABEL)
def drain(batch: Manifest) -> dict[str, Any]:
    """Read the batch's messages, decode them, and stage events, their keys, and what was refused."""
    from enrichment.batches.stages import drain_batch
    from enrichment.orchestration.purposes import kind_of

    claimed = batch_of(batch)
    with resources() as r:
        return drain_batch(r, kind_of(claimed), claimed).to_manifest()


@task(multiple_outputs=False, map_index_template=BATCH_LABEL, **LOOKUP_ARGS)
def look_up(drained: Manifest, name: str, earlier: Sequence[Manifest]) -> dict[str, Any]:
    """Run a declared enrichment over the batch, after the `earlier` ones that it reads: what these added is staged."""
    del earlier
    from msgspec import to_builtins

    from enrichment.batches import stages

    batch = batch_of(drained["batch"])
    with resources() as r:
        looked_up: dict[str, Any] = to_builtins(stages.look_up(r, REGISTRY.by_name[name], batch))
    return looked_up


@task(multiple_outputs=False, map_index_template=BATCH_LABEL, outlets=[PUBLISHED, WAITING])
def publish(drained: Manifest, lookups: Mapping[str, Manifest], *, outlet_events: Any = None) -> dict[str, Any]:
    """Publish enriched messages, dead letters and the group's offsets in one transaction, and complete the ledger.

    A batch that turns out to be published already (an earlier try died before it could say so) is only recorded. The
    sources that it is missing because they failed are recorded for `stacklens_repair`. Where more messages wait, the
    next run follows at once.
    """
    from msgspec import convert

    from enrichment.batches.staged import Drained
    from enrichment.batches.stages import LookedUp

    batch_of(drained["batch"])
    done = {name: convert(looked_up, LookedUp) for name, looked_up in lookups.items()}
    with resources() as r:
        return publish_and_tell(r, convert(drained, Drained), done, outlet_events)


def publish_and_tell(
    r: Resources, drained: Drained, lookups: Mapping[str, LookedUp], outlet_events: Any
) -> dict[str, Any]:
    """Publish a batch, and tell of it: in the run's note, by asset events, and in what is returned."""
    from msgspec import to_builtins

    from enrichment.batches.stages import publish_batch
    from enrichment.group.doorbell import left_after
    from enrichment.orchestration.purposes import kind_of
    from enrichment.repair.spans import record_missing_sources

    batch = drained.batch
    outages = [looked_up.outage for looked_up in lookups.values() if looked_up.outage is not None]
    topics = r.clients.for_batch(batch).settings
    required = r.settings.pipeline.required_sources
    recording = None if batch.dry_run else record_missing_sources(r.pending, r.clients, required, batch, outages)
    published = publish_batch(r, kind_of(batch), drained, lookups, recording)
    if published is None:
        return {"batch_id": batch.batch_id, "dry_run": False, "produced": False}
    if published.warnings:
        note_warnings(r, [batch.batch_id])
    counts = published.counts
    summary = {
        "batch_id": batch.batch_id, "kind": batch.purpose.kind, "dry_run": batch.dry_run,
        "counts": to_builtins(counts), "produced": published.produced,
    }  # fmt: skip
    if not batch.dry_run:
        told = {topics.output_topic: counts.total - counts.dead, topics.dlq_topic: counts.dead}
        tell_published(outlet_events, told, summary)
        ring = left_after(batch, r.ledger, r.clients, r.settings.wake_up) if batch.purpose.kind == LIVE.kind else None
        if ring is not None:
            tell_waiting(outlet_events, ring)
    if published.recorded:
        send_batch(r, batch)
    return summary


def enrich_at_once(r: Resources, batch: Batch, outlet_events: Any) -> bool:
    """Run all stages of a batch here and now; returns whether that went well.

    Six tasks cost three seconds beside their stages. Where a stage fails, the batch is left to the tasks: they do
    again what was done, and have their retries and policies.
    """
    from enrichment.batches.at_once import run_at_once
    from enrichment.orchestration.purposes import kind_of

    try:
        run_at_once(
            r, kind_of(batch), batch, lambda drained, lookups: publish_and_tell(r, drained, lookups, outlet_events)
        )
        r.staging.remove(batch.batch_id)
    except Exception:
        log.warning("batch.left_to_tasks batch_id=%s", batch.batch_id, exc_info=True)
        return False
    return True


def roll_up_minutes(r: Resources) -> None:
    """Roll up the minutes that have gone by since a run last did. Their plots are not worth a failed run: a failure is
    logged, and `stacklens_metrics_rollup` makes up for it."""
    import psycopg
    from msgspec import ValidationError

    from enrichment.rollup.table import Rollups

    try:
        if minutes := Rollups(r.postgres).due_minutes():
            with r.cache_connection() as connection:  # it does not wait for long
                Rollups(connection).roll_up_minutes(minutes)
    except (psycopg.Error, ValidationError) as failed:
        log.warning("minutes.not_rolled_up error=%s", str(failed).strip())


@task(map_index_template=BATCH_LABEL)
def clean(batch: Manifest) -> None:
    """Remove what the batch staged, however its tasks ended."""
    claimed = batch_of(batch)
    with resources() as r:
        r.staging.remove(claimed.batch_id)
        if claimed.purpose.kind == LIVE.kind:
            roll_up_minutes(r)


def look_up_task(drained: Manifest, declaration: LookupEnricher, earlier: Sequence[Manifest]) -> Manifest:
    """The task of a declared enrichment, downstream of those that it reads."""
    own = look_up.override(
        task_id=declaration.name,
        task_display_name=f"{declaration.name}: {declaration.title}",
        doc_md=declaration.doc,
    )
    return own(drained, declaration.name, list(earlier))


@task_group(group_id="batch")
def enrich_batch(batch: Manifest) -> None:
    """One batch, from its offset ranges to its ledger row."""
    run_stages(batch, drain, look_up_task, publish) >> clean(batch).as_teardown()
