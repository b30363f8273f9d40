"""Enrich: what one enricher adds to the staged keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
import pandas as pd
import pyarrow as pa

from enrichment.batch import Batch
from enrichment.batches.prefetch import prefetched
from enrichment.batches.staged import CODE_SCHEMA, KEYS, VALUE_FIELDS, codes_of, values_of
from enrichment.caches.base import LookupCounts
from enrichment.caches.entries import Answers
from enrichment.codec.hot_loops import quiet_gc
from enrichment.enrichers.base import JSON, STATUS, Enricher, Enrichment
from enrichment.messages import KEY_COLUMNS, Source
from enrichment.store.staging import Staging


def enrich(
    staging: Staging, batch: Batch, enricher: Enricher, after: Sequence[Source] = (),
    on_chunk: Callable[[pd.DataFrame, Enrichment], None] | None = None,
) -> LookupCounts:  # fmt: skip
    """Run one enricher over the staged keys, after those enrichers whose columns it reads, and stage what it adds.

    The keys of the next chunk are looked up in a thread meanwhile. `on_chunk` sees each chunk's keys and what was added
    to it.
    """
    source = Source(enricher.name)
    schema = pa.schema(
        [*((name, VALUE_FIELDS[name]) for name in enricher.writes), (STATUS, pa.string()), (JSON, pa.binary())]
    )
    wanted = [name for name in enricher.reads if name in KEY_COLUMNS]
    drain_id = staging.drain_of(batch.batch_id, KEYS)
    counts = LookupCounts()
    with (
        quiet_gc(),
        staging.write(batch.batch_id, codes_of(source), drain_id) as codes,
        staging.write(batch.batch_id, values_of(source), drain_id) as values,
        closing(prefetched(_look_up(enricher, staging.read(batch.batch_id, KEYS, wanted, drain_id)))) as chunks,
    ):
        earlier = {name: _staged(staging, batch, name, drain_id) for name in after}
        for events, answers in chunks:
            added = enricher.enrich(events, answers, {name: next(before) for name, before in earlier.items()})
            codes.write(pa.record_batch([pa.array(added.codes, pa.int32())], schema=CODE_SCHEMA))
            values.write(pa.RecordBatch.from_pandas(added.values, schema=schema, preserve_index=False))
            counts = counts + added.counts
            if on_chunk is not None:
                on_chunk(events, added)
    return counts


def _look_up(enricher: Enricher, chunks: Iterator[pa.RecordBatch]) -> Iterator[tuple[pd.DataFrame, Answers]]:
    """Each chunk's keys, and the answers for them."""
    for keys in chunks:
        events = pd.DataFrame({name: keys[name].dictionary_encode().to_pandas() for name in keys.schema.names})
        yield events, enricher.look_up(events)


def _staged(staging: Staging, batch: Batch, source: Source, drain_id: str) -> Iterator[Enrichment]:
    codes = staging.read(batch.batch_id, codes_of(source), drain=drain_id)
    values = staging.read(batch.batch_id, values_of(source), drain=drain_id)
    for code, value in zip(codes, values, strict=True):
        values = value.to_pandas(types_mapper=pd.ArrowDtype)
        yield Enrichment(code["code"].to_numpy(), values, np.zeros(len(values), dtype=bool), LookupCounts())
