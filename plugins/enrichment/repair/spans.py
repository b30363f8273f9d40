"""Notes, around a publication, what it goes without and where it lies, so that a repair finds it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from enrichment.batch import Batch
from enrichment.batches.outages import Outage, repairable
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import log_ends
from enrichment.repair.pending import PendingStore

log = logging.getLogger(__name__)


@contextmanager
def noting(
    pending: PendingStore, clients: Clients, required: Iterable[str], batch: Batch, outages: Sequence[Outage]
) -> Iterator[None]:
    """Note, around a batch's publication, what it goes without and between which offsets it lies."""
    missed = repairable(required, outages)
    if not missed:
        yield
        return
    topic = clients.for_batch(batch).settings.output_topic
    with placing(pending, clients, batch.batch_id, 0, topic):
        pending.expect(batch.batch_id, topic, missed)
        log.warning("outage.pending batch_id=%s %s", batch.batch_id, {o.source: o.messages for o in missed})
        yield


@contextmanager
def placing(pending: PendingStore, clients: Clients, batch_id: str, number: int, topic: str) -> Iterator[None]:
    """Note between which offsets of a topic a pass over a batch lies, which is published within the block.

    Before it, too, because nobody could tell afterwards where a publication began that died at its end.
    """
    pending.start(batch_id, number, log_ends(clients, topic))
    yield
    pending.settle(batch_id, number, log_ends(clients, topic))
