"""How a kind of batch differs from live draining: which of the messages that it reads go on, and what its publication
compares and sets in place of the group's offsets.

The kinds themselves are handed in (`enrichment.orchestration.purposes`): live draining does not know the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from enrichment.batch import LIVE, Batch
from enrichment.codec.records import Chunk
from enrichment.kafka.clients import Clients
from enrichment.kafka.refusals import Refusals
from enrichment.kafka.sink import LanePublisher

# Takes a chunk as it was read and returns the messages that go on, in the order of the offsets: some of them
# (`Chunk.take`), or others in their place. It runs before decoding. What it drops counts as if it had never been in the
# range, and publishing moves the group past it.
DrainFilter = Callable[[Chunk], Chunk]


class Kind(NamedTuple):
    """A kind of batch, named as in its purpose. `make_filter` is called once a drain, with the clients of the batch's
    own group; without a filter, all messages go on as they are."""

    name: str
    make_filter: Callable[[Clients, Batch], DrainFilter] | None = None
    publisher: type[LanePublisher] = LanePublisher

    def filter_of(self, clients: Clients, batch: Batch) -> DrainFilter | None:
        """The filter of a batch. Raises `ValueError` for a batch of another kind."""
        self._check(batch)
        return None if self.make_filter is None else self.make_filter(clients, batch)

    def publisher_of(self, clients: Clients, batch: Batch, refusals: Refusals) -> LanePublisher:
        """The publisher of a batch. Raises `ValueError` for a batch of another kind."""
        self._check(batch)
        return self.publisher(clients, batch, refusals)

    def _check(self, batch: Batch) -> None:
        if batch.purpose.kind != self.name:
            raise ValueError(f"batch {batch.batch_id} is for {batch.purpose.kind}, not for {self.name}")


LIVE_KIND = Kind(LIVE.kind)
