"""All stages of a batch in one process, which needs no more memory for them than the largest of them does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa

from enrichment.batch import Batch
from enrichment.batches import stages
from enrichment.batches.kinds import Kind
from enrichment.batches.pipeline import run_stages
from enrichment.batches.staged import Drained
from enrichment.batches.stages import LookedUp, Workplace
from enrichment.enrichers.declare import LookupEnricher

P = TypeVar("P")


def run_at_once(
    work: Workplace, kind: Kind, batch: Batch, publish: Callable[[Drained, Mapping[str, LookedUp]], P]
) -> P:
    """Run a batch's stages, one after the other. Raises as they do.

    What a stage has opened and left in memory is given back before the next one, as the end of a task of its own would.
    A batch of a single chunk leaves little: what it has opened is kept, for the batches of other lanes.
    """

    kafka = work.settings.kafka

    def give_back(drained: Drained) -> None:
        if drained.messages > kafka.chunk_size or drained.value_bytes > kafka.chunk_bytes:
            work.close_enrichers()
            pa.system_memory_pool().release_unused()  # and what the C library keeps for later

    def drain(claimed: Batch) -> Drained:
        drained = stages.drain_batch(work, kind, claimed)
        give_back(drained)
        return drained

    def look_up(drained: Drained, declaration: LookupEnricher, _earlier: Sequence[LookedUp]) -> LookedUp:
        looked_up = stages.look_up(work, declaration, drained.batch)
        give_back(drained)
        return looked_up

    return run_stages(batch, drain, look_up, publish)
