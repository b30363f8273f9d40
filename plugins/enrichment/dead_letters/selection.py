"""The drain filter of a redrive: which of the dead letters that it reads go on, and as which messages."""

from __future__ import annotations

from collections.abc import Callable

from enrichment.batch import Batch
from enrichment.codec.records import Chunk
from enrichment.dead_letters.markers import read_markers
from enrichment.dead_letters.reader import unwrap
from enrichment.kafka.clients import Clients


def wanted_letters(clients: Clients, batch: Batch) -> Callable[[Chunk], Chunk]:
    """The messages of the dead letters that are wanted. Those that another batch has sent in again are left out; those
    of this batch are kept, so that a repeated drain reads the same."""
    wanted = batch.purpose.letters
    if wanted is None:
        raise ValueError(f"batch {batch.batch_id} does not say which letters it is for")
    redriven = {letter for letter, by in read_markers(clients).items() if by != batch.batch_id}
    return lambda chunk: unwrap(chunk, wanted, redriven, batch.topic)
