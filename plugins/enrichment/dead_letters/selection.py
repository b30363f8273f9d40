"""Which dead letters of those that a redrive reads go on, and as what."""

from __future__ import annotations

from collections.abc import Callable

from enrichment.batch import Batch
from enrichment.codec.records import Chunk
from enrichment.dead_letters.markers import read_markers
from enrichment.dead_letters.reader import unwrap
from enrichment.kafka.clients import Clients


def wanted_letters(clients: Clients, batch: Batch) -> Callable[[Chunk], Chunk]:
    """The messages of the letters that are wanted. What another batch has sent in again is left out; what this batch
    itself has, so that a drain which runs again reads the same."""
    wanted = batch.purpose.letters
    if wanted is None:
        raise ValueError(f"batch {batch.batch_id} does not say which letters it is for")
    redriven = {letter for letter, by in read_markers(clients).items() if by != batch.batch_id}
    return lambda chunk: unwrap(chunk, wanted, redriven, batch.topic)
