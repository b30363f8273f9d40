"""Records which sources a publication is missing and which output offsets it occupies, so that a repair finds it."""

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
def record_missing_sources(
    pending: PendingStore, clients: Clients, required: Iterable[str], batch: Batch, outages: Sequence[Outage]
) -> Iterator[None]:
    """Record, around a batch's publication, which sources the batch is missing and which output offsets it occupies."""
    missed = repairable(required, outages)
    if not missed:
        yield
        return
    topic = clients.for_batch(batch).settings.output_topic
    with record_span(pending, clients, batch.batch_id, 0, topic):
        pending.expect(batch.batch_id, topic, missed)
        log.warning("outage.pending batch_id=%s %s", batch.batch_id, {o.source: o.messages for o in missed})
        yield


@contextmanager
def record_span(pending: PendingStore, clients: Clients, batch_id: str, number: int, topic: str) -> Iterator[None]:
    """Record which offsets of a topic a pass over a batch occupies; the pass is published within the block.

    The start is recorded first: after a crash in the block nothing else would tell where the publication began.
    """
    pending.start(batch_id, number, log_ends(clients, topic))
    yield
    pending.settle(batch_id, number, log_ends(clients, topic))
