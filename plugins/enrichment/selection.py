"""What of the messages that a drain reads goes on, and as what: a batch's purpose in, a function over chunks out.

Live batches have none, and pay nothing. A kind of purpose that needs one puts a line into `MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from enrichment.columns import Chunk
from enrichment.kafka.clients import Clients
from enrichment.letters import unwrap
from enrichment.markers import read_markers
from enrichment.messages import REDRIVE, REPLAY, Batch
from enrichment.replay.window import window_selection

# Takes a chunk as it was read and gives the messages that go on, in the order of the offsets: fewer ones
# (`Chunk.take`), or others in their place. It runs before decoding. What it leaves out is as if it had never been in
# the range: it is in no count, and publishing moves the group past it.
Select = Callable[[Chunk], Chunk]


def selection(clients: Clients, batch: Batch) -> Select | None:
    """The selection that the batch's purpose asks for; None when all messages go on as they are."""
    make = MAKERS.get(batch.purpose.kind)
    return None if make is None else make(clients, batch)


def dead_letters(clients: Clients, batch: Batch) -> Select:
    """The messages of the letters that are wanted. What another batch has sent in again is left out; what this batch
    itself has, so that a drain which runs again reads the same."""
    wanted = batch.purpose.letters
    if wanted is None:
        raise ValueError(f"batch {batch.batch_id} does not say which letters it is for")
    redriven = {letter for letter, by in read_markers(clients).items() if by != batch.batch_id}
    return lambda chunk: unwrap(chunk, wanted, redriven, batch.topic)


# By the purpose's kind. The maker is called once a drain, with the clients of the batch's own group.
MAKERS: dict[str, Callable[[Clients, Batch], Select]] = {REPLAY: window_selection, REDRIVE: dead_letters}
