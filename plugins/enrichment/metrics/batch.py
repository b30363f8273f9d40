"""A published batch in, as ledger and `enrichment_metrics` have it, its samples out."""

from __future__ import annotations

from collections.abc import Iterator

from enrichment.caches.base import Tier
from enrichment.databases import Connection
from enrichment.metrics import names
from enrichment.metrics.names import Sample
from enrichment.rollup.rollup import BatchRow
from enrichment.statements import Statements
from enrichment.store.histogram import Histogram

# Bounds in whole seconds: in a dotted name a fraction would be two parts.
FRESHNESS_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 900, 3600)


class BatchFigures(BatchRow, frozen=True, kw_only=True):
    """A published batch as rollups have it, and its lane."""

    lane: int


def find_figures(connection: Connection, batch_id: str) -> BatchFigures | None:
    """The figures of a batch, None unless it is published."""
    return Statements(connection).row("enrichment_jobs/get_figures", BatchFigures, {"batch_id": batch_id})


def samples_of_batch(found: BatchFigures) -> Iterator[Sample]:
    """The samples of a batch; adding them up over batches gives the page's figures."""
    yield names.MESSAGES.of(found.messages_enriched, "enriched")
    yield names.MESSAGES.of(found.messages_partial, "partial")
    yield names.MESSAGES.of(found.messages_dead, "dead")
    yield names.READ.of(found.value_bytes)
    yield names.BATCHES.of(1, found.lane)
    yield names.BATCH_SIZE.of(found.messages_read, found.lane)
    for reason, count in found.errors_by_reason.items():
        yield names.ERRORS.of(count, reason)
    for cache, counts in found.cache_counts.items():
        yield names.ANSWERS.of(counts.memory, cache, Tier.MEMORY)
        yield names.ANSWERS.of(counts.postgres, cache, Tier.POSTGRES)
        yield names.ANSWERS.of(counts.misses, cache, Tier.SOURCE)
        yield names.UNUSUAL_ANSWERS.of(counts.stale, cache, "stale")
        yield names.UNUSUAL_ANSWERS.of(counts.absent, cache, "absent")
        yield names.UNUSUAL_ANSWERS.of(counts.failed, cache, "failed")
    yield names.LATENCY.of((found.published_at - found.claimed_at).total_seconds())
    for stage, figures in found.stages.items():
        yield names.STAGE.of(figures.seconds, stage)
        if figures.peak_rss_bytes is not None:
            yield names.STAGE_PEAK_RSS.of(figures.peak_rss_bytes, stage)
        if figures.freshness is not None:
            yield from _samples_of_freshness(figures.freshness)


def _samples_of_freshness(freshness: Histogram) -> Iterator[Sample]:
    for bound in FRESHNESS_SECONDS:
        yield names.FRESHNESS.of(freshness.count_within(bound), bound)
    yield names.FRESHNESS.of(freshness.count, "inf")
