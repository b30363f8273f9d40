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
    """Run a batch's stages, one after the other. Raises as they do."""

    def drain(claimed: Batch) -> Drained:
        drained = stages.drain_batch(work, kind, claimed)
        give_back(work)
        return drained

    def look_up(drained: Drained, declaration: LookupEnricher, _earlier: Sequence[LookedUp]) -> LookedUp:
        looked_up = stages.look_up(work, declaration, drained.batch)
        give_back(work)
        return looked_up

    return run_stages(batch, drain, look_up, publish)


def give_back(work: Workplace) -> None:
    """Give back, before the next stage, what one has opened and left in memory, as the end of its task would."""
    work.close_enrichers()
    pa.system_memory_pool().release_unused()  # and what the C library keeps for later
