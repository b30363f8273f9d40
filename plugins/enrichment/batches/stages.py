"""What each stage of a batch does, with its clock and its entries in the ledger. Airflow's tasks call these functions.

A batch that the ledger has as published is done: a stage of it that runs again does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

import msgspec

from enrichment.batch import Batch
from enrichment.batches.alerts import alerts_of, strange_fields
from enrichment.batches.claim import settle
from enrichment.batches.contents import ContentCounter
from enrichment.batches.drain import drain
from enrichment.batches.enrich import enrich
from enrichment.batches.kinds import Kind
from enrichment.batches.outages import Outage, OutageDetector, hold
from enrichment.batches.publish import publish, record
from enrichment.batches.stage_clock import StageRecords, timed_stage
from enrichment.batches.staged import Drained, Published
from enrichment.caches.base import LookupCounts
from enrichment.enrichers.base import OpenEnricher
from enrichment.enrichers.declare import LookupEnricher
from enrichment.kafka.clients import Clients
from enrichment.settings import Settings
from enrichment.store.staging import Staging


class Workplace(StageRecords, Protocol):
    """What stages work with; opened when it is needed (`enrichment.resources`)."""

    @property
    def settings(self) -> Settings:
        """All settings."""
        ...

    @property
    def clients(self) -> Clients:
        """Makers of Kafka clients."""
        ...

    @property
    def staging(self) -> Staging:
        """The files that stages hand to each other."""
        ...

    def enricher(self, declaration: LookupEnricher) -> OpenEnricher:
        """A declared enrichment, opened."""
        ...

    def close_enrichers(self) -> None:
        """Close all that enrichments have opened."""
        ...


class LookedUp(msgspec.Struct, frozen=True):
    """How an enrichment answered the messages of a batch: counts, seconds, the outage of its source, if any, and the
    source's build."""

    counts: LookupCounts = LookupCounts()
    seconds: float = 0.0
    outage: Outage | None = None
    build: str = ""


def drain_batch(work: Workplace, kind: Kind, claimed: Batch) -> Drained:
    """Read the batch's messages, decode them, and stage events, their keys, and what was refused."""
    job = work.ledger.get(claimed.batch_id)
    settled = settle(claimed, job)
    if job is not None and job.is_published:
        return Drained(settled, job.messages_read or 0, 0, job.value_bytes or 0)
    with timed_stage(work, claimed.batch_id, "drain") as stage:
        drained = drain(work.clients, work.staging, settled, kind)
        work.ledger.drained(drained.batch, drained.messages, drained.value_bytes)
        stage.messages = drained.messages
        stage.counts = {"refused": drained.refused, "value_bytes": drained.value_bytes}
    return drained


def look_up(work: Workplace, declaration: LookupEnricher, batch: Batch) -> LookedUp:
    """Run an enrichment over the batch. Raises `OutageHeld` when its source is down and the batch is to wait for it."""
    name = declaration.name
    job = work.ledger.get(batch.batch_id)
    if job is not None and job.is_published:
        counts = msgspec.convert(job.cache_counts.get(name, {}), LookupCounts)
        return LookedUp(counts, job.durations.get(name, 0.0))
    with timed_stage(work, batch.batch_id, name) as stage:
        enricher = work.enricher(declaration)
        detector = OutageDetector(enricher.on_chunk)
        counter = ContentCounter(declaration, detector)
        counts = enrich(work.staging, batch, enricher, counter)
        stage.messages, stage.counts = counts.messages, msgspec.to_builtins(counts)
        stage.details = {"contents": counter.contents}
    outage = Outage.of(declaration.source, detector.asked, work.settings.pipeline.outage_share)
    if outage is not None and outage.down:
        hold(work.ledger, work.settings.pipeline, batch, outage)
    return LookedUp(counts, stage.seconds, outage, enricher.build)


def publish_batch(
    work: Workplace, kind: Kind, drained: Drained, lookups: Mapping[str, LookedUp],
    recording: AbstractContextManager[None] | None = None,
) -> Published | None:  # fmt: skip
    """Publish enriched messages, dead letters and the group's offsets in one transaction, and complete the ledger.

    A batch that turns out to be published already (an earlier try died before it could say so) is only recorded.
    Returns None where the ledger has it as published. `recording` is as in `publish`.
    """
    batch = drained.batch
    job = work.ledger.get(batch.batch_id)
    if job is not None and job.is_published:
        return None
    outages = [done.outage for done in lookups.values() if done.outage is not None]
    counts = {name: done.counts for name, done in lookups.items()}
    with timed_stage(work, batch.batch_id, "publish") as stage:
        published = publish(
            work.clients, work.staging, drained, kind, work.settings, outages=outages, recording=recording
        )  # fmt: skip
        alerts = alerts_of(drained, published, counts, work.settings, partial(strange_fields, work.staging, batch))
        published = msgspec.structs.replace(published, warnings=(*published.warnings, *alerts))
        stage.messages = published.counts.total
        stage.counts = {"counts": msgspec.to_builtins(published.counts), "produced": published.produced}
        stage.details = {"freshness": published.freshness, "contents": published.contents}
    recorded = record(
        work.ledger, drained, published,
        cache_counts=msgspec.to_builtins(counts),
        durations={"publish": stage.seconds} | {name: done.seconds for name, done in lookups.items()},
        source_builds={name: done.build for name, done in lookups.items() if done.build},
    )  # fmt: skip
    return msgspec.structs.replace(published, recorded=recorded)
