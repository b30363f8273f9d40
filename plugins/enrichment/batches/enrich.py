"""Enrich: what one enricher adds to the staged keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pandas as pd
import pyarrow as pa

from enrichment.batch import Batch
from enrichment.batches.prefetch import prefetched
from enrichment.batches.staged import CODE_SCHEMA, KEYS, codes_of, values_of
from enrichment.caches.base import LookupCounts
from enrichment.caches.entries import Answers
from enrichment.codec.hot_loops import quiet_gc
from enrichment.enrichers.base import (
    JSON,
    STATUS,
    Enrichment,
    OnChunk,
    OpenEnricher,
    batch_of,
    events_of,
    frame_of,
    value_types,
)
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY
from enrichment.store.staging import Staging


def enrich(staging: Staging, batch: Batch, enricher: OpenEnricher, on_chunk: OnChunk | None = None) -> LookupCounts:
    """Run one enricher over the staged keys and stage what it adds; those whose columns it reads have run before.

    The keys of the next chunk are looked up in a thread meanwhile. `on_chunk` sees each chunk's keys and what was added
    to it. Raises `StagingMissing` when drain, or an enricher that it reads, has not staged what it needs.
    """
    declaration = enricher.declaration
    schema = pa.schema([*value_types(declaration).items(), (STATUS, pa.string()), (JSON, pa.binary())])
    drain_id = staging.drain_of(batch.batch_id, KEYS)
    counts = LookupCounts()
    with (
        quiet_gc(),
        staging.write(batch.batch_id, codes_of(declaration), drain_id) as codes,
        staging.write(batch.batch_id, values_of(declaration), drain_id) as values,
        closing(
            prefetched(_look_up(enricher, staging.read(batch.batch_id, KEYS, [declaration.key], drain_id)))
        ) as chunks,
    ):
        before = {e.name: _staged(staging, batch, e, drain_id) for e in REGISTRY.earlier(declaration)}
        for events, answers in chunks:
            added = enricher.enrich(events, answers, {name: next(staged) for name, staged in before.items()})
            codes.write(pa.record_batch([pa.array(added.codes, pa.int32())], schema=CODE_SCHEMA))
            values.write(batch_of(added.values, schema))
            counts = counts + added.counts
            if on_chunk is not None:
                on_chunk(events, added)
            del events, answers, added  # before the next ones are awaited, which take memory of their own to look up
    return counts


def _look_up(enricher: OpenEnricher, chunks: Iterator[pa.RecordBatch]) -> Iterator[tuple[pd.DataFrame, Answers]]:
    """Each chunk's keys, and the answers for them."""
    for keys in chunks:
        events = events_of(dict(zip(keys.schema.names, keys.columns, strict=True)))
        yield events, enricher.look_up(events)


def _staged(staging: Staging, batch: Batch, declaration: LookupEnricher, drain_id: str) -> Iterator[Enrichment]:
    codes = staging.read(batch.batch_id, codes_of(declaration), drain=drain_id)
    values = staging.read(batch.batch_id, values_of(declaration), drain=drain_id)
    for code, value in zip(codes, values, strict=True):
        frame = frame_of(dict(zip(value.schema.names, value.columns, strict=True)))
        yield Enrichment(code["code"].to_numpy(), frame, np.zeros(len(frame), dtype=bool), LookupCounts())
