"""What is done to a batch, whoever claimed it: the task group that live draining, replay and redrive share.

A batch that the ledger has as published is done: whichever of its tasks is cleared has nothing left to do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context, task, task_group

from enrichment.orchestration.common import LOOKUP_ARGS, PUBLISHED, Manifest, resources, tell_published
from enrichment.orchestration.notes import note_warnings

if TYPE_CHECKING:
    from enrichment.batch import Batch
    from enrichment.enrichers.base import Enricher
    from enrichment.resources import Resources

# What a batch's tasks are called in the UI's grid; each task fills it in.
BATCH_LABEL = "{{ batch_label }}"


def batch_of(manifest: dict[str, Any]) -> Batch:
    """The batch of a manifest; it also names the task's square in the UI's grid."""
    from enrichment.batch import Batch

    batch = Batch.from_manifest(manifest)
    get_current_context()["batch_label"] = f"lane {batch.lane}: {batch.span:,} offsets"  # type: ignore[typeddict-unknown-key]
    return batch


@task(multiple_outputs=False, map_index_template=BATCH_LABEL)
def drain(batch: Manifest) -> dict[str, Any]:
    """Read the batch's messages, decode them, and stage events, their keys, and what was refused."""
    from enrichment.batches import pipeline
    from enrichment.batches.stage_clock import timed_stage
    from enrichment.orchestration.purposes import kind_of

    claimed = batch_of(batch)
    with resources() as r:
        job = r.ledger.get(claimed.batch_id)
        settled = pipeline.settle(claimed, job)
        if job is not None and job.is_published:
            return pipeline.Drained(settled, job.messages_read or 0, 0, job.value_bytes or 0).to_manifest()
        with timed_stage(r, claimed.batch_id, "drain") as stage:
            drained = pipeline.drain(r.clients, r.staging, settled, kind_of(settled))
            r.ledger.drained(drained.batch, drained.messages, drained.value_bytes)
            stage.messages = drained.messages
            stage.counts = {"refused": drained.refused, "value_bytes": drained.value_bytes}
    return drained.to_manifest()


@task(multiple_outputs=False, map_index_template=BATCH_LABEL, **LOOKUP_ARGS)
def geo(drained: Manifest) -> dict[str, Any]:
    """Add the place of each message's address."""
    with resources() as r:
        # Of this task, not of a later one: the database may be replaced between them.
        return look_up(r, "geo", drained, r.geo_enricher()) | {"build": r.geo_database.build}


@task(multiple_outputs=False, map_index_template=BATCH_LABEL, **LOOKUP_ARGS)
def user(drained: Manifest) -> dict[str, Any]:
    """Add the profile of each message's user."""
    with resources() as r:
        return look_up(r, "user", drained, r.user_enricher())


@task(multiple_outputs=False, map_index_template=BATCH_LABEL, **LOOKUP_ARGS)
def business(drained: Manifest, placed: Manifest, profiled: Manifest) -> dict[str, Any]:
    """Add the business context of each message's request, and the risk that follows from context, place and profile."""
    del placed, profiled  # they say that geo and user are done; what they added is staged
    from enrichment.messages import Source

    with resources() as r:
        return look_up(
            r, "business", drained, r.business_enricher(), after=(Source.GEO, Source.USER), on_chunk=r.record_risks
        )


def look_up(r: Resources, name: str, manifest: dict[str, Any], enricher: Enricher, **how: Any) -> dict[str, Any]:
    """Run an enricher over the batch; returns how its messages were answered, the seconds that it took, and what its
    source failed for, if it did. Raises `OutageHeld` when the source is down and the batch is to wait for it."""
    from msgspec import to_builtins

    from enrichment.batches import pipeline
    from enrichment.batches.outages import Outage, OutageDetector, hold
    from enrichment.batches.stage_clock import timed_stage
    from enrichment.messages import Source

    batch = batch_of(manifest["batch"])
    job = r.ledger.get(batch.batch_id)
    if job is not None and job.is_published:
        return {"counts": job.cache_counts.get(name, {}), "seconds": job.durations.get(name, 0.0), "outage": None}
    meter = OutageDetector(how.pop("on_chunk", None))
    with timed_stage(r, batch.batch_id, name) as stage:
        counts = pipeline.enrich(r.staging, batch, enricher, on_chunk=meter, **how)
        stage.messages, stage.counts = counts.messages, to_builtins(counts)
    outage = Outage.of(Source(enricher.name), meter.asked, r.settings.pipeline.outage_share)
    if outage is not None and outage.down:
        hold(r.ledger, r.settings.pipeline, batch, outage)
    return {"counts": stage.counts, "seconds": stage.seconds, "outage": to_builtins(outage)}


@task(multiple_outputs=False, map_index_template=BATCH_LABEL, outlets=[PUBLISHED])
def publish(
    drained: Manifest, placed: Manifest, profiled: Manifest, scored: Manifest,
    *, outlet_events: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Publish enriched messages, dead letters and the group's offsets in one transaction, and complete the ledger.

    A batch that turns out to be published already (an earlier try died before it could say so) is only recorded. What
    it goes without because a source failed is noted for `stacklens_repair`.
    """
    from msgspec import convert, to_builtins
    from msgspec.structs import replace

    from enrichment.batches import pipeline
    from enrichment.batches.alerts import alerts_of, strange_fields
    from enrichment.batches.outages import Outage
    from enrichment.batches.stage_clock import timed_stage
    from enrichment.caches.base import LookupCounts
    from enrichment.orchestration.purposes import kind_of
    from enrichment.repair.spans import noting

    batch = batch_of(drained["batch"])
    staged = convert(drained, pipeline.Drained)
    lookups = {"geo": placed, "user": profiled, "business": scored}
    outages = [convert(done["outage"], Outage) for done in lookups.values() if done["outage"]]
    with resources() as r:
        topics = r.clients.for_batch(batch).settings
        job = r.ledger.get(batch.batch_id)
        if job is not None and job.is_published:
            return {"batch_id": batch.batch_id, "dry_run": False, "produced": False}
        with timed_stage(r, batch.batch_id, "publish") as stage:
            required = r.settings.pipeline.required_sources
            noted = None if batch.dry_run else noting(r.pending, r.clients, required, batch, outages)
            published = pipeline.publish(
                r.clients, r.staging, staged, kind_of(batch), r.settings, outages=outages, noted=noted
            )
            counts = {name: convert(done["counts"], LookupCounts) for name, done in lookups.items()}
            alerts = alerts_of(staged, published, counts, r.settings, partial(strange_fields, r.staging, batch))
            published = replace(published, warnings=(*published.warnings, *alerts))
            stage.messages = published.counts.total
            stage.counts = {"counts": to_builtins(published.counts), "produced": published.produced}
            stage.histograms = {"freshness": published.freshness}
        pipeline.record(
            r.ledger, staged, published,
            cache_counts={name: done["counts"] for name, done in lookups.items()},
            durations={"publish": stage.seconds} | {name: done["seconds"] for name, done in lookups.items()},
            source_builds={"geo": placed["build"]} if placed["build"] else {},
        )  # fmt: skip
        if published.warnings:
            note_warnings(r, [batch.batch_id])
    summary = {"batch_id": batch.batch_id, "kind": batch.purpose.kind, "dry_run": batch.dry_run, **stage.counts}
    if not batch.dry_run:
        enriched, dead = published.counts.total - published.counts.dead, published.counts.dead
        tell_published(outlet_events, {topics.output_topic: enriched, topics.dlq_topic: dead}, summary)
    return summary


@task(map_index_template=BATCH_LABEL)
def clean(batch: Manifest) -> None:
    """Remove what the batch staged, however its tasks ended."""
    claimed = batch_of(batch)
    with resources() as r:
        r.staging.remove(claimed.batch_id)


@task_group(group_id="batch")
def enrich_batch(batch: Manifest) -> None:
    """One batch, from its offset ranges to its ledger row."""
    drained = drain(batch)
    placed, profiled = geo(drained), user(drained)
    scored = business(drained, placed, profiled)
    publish(drained, placed, profiled, scored) >> clean(batch).as_teardown()
