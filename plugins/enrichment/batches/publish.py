"""Publish and record: what was staged, routed and sent in one transaction, and the ledger completed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np

from enrichment.batch import LIVE, Batch
from enrichment.batches.kinds import Kind
from enrichment.batches.outages import Outage, without_down
from enrichment.batches.provenance import Counts, StagedEnrichment
from enrichment.batches.route import Routed, Router
from enrichment.batches.staged import EVENTS, REFUSED, Drained, Published, codes_of, values_of
from enrichment.codec.hot_loops import quiet_gc
from enrichment.enrichers.base import JSON, STATUS
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import BatchUnbalanced, OffsetsMoved
from enrichment.kafka.clients import Clients
from enrichment.kafka.refusals import Refusals, publish_around
from enrichment.kafka.retention import OldMessages, now_in_milliseconds
from enrichment.kafka.sink import GroupPosition, LanePublisher, Transaction
from enrichment.settings import PipelineSettings, Settings
from enrichment.store.contents import DEAD_LETTERS, kept
from enrichment.store.histogram import Histogram
from enrichment.store.jobs import Ledger, Outcome
from enrichment.store.staging import Staging

# Message timestamps, all of a batch at once: eight bytes each, since their age is known only when all are visible.
Milliseconds = np.ndarray[Any, np.dtype[np.int64]]


def utc_now() -> datetime:
    """The processing time."""
    return datetime.now(UTC)


def publish(
    clients: Clients, staging: Staging, drained: Drained, kind: Kind, settings: Settings,
    now: Callable[[], datetime] = utc_now,
    outages: Sequence[Outage] = (), recording: AbstractContextManager[None] | None = None,
) -> Published:  # fmt: skip
    """Publish a batch exactly once: produce and commit, or only count when the group is already past its end.

    A required source that is down (`outages`) does not dead-letter messages; `recording` is entered before the
    transaction and left after it. Messages that a broker refuses become dead letters. Raises `OffsetsMoved`,
    `PublishRefused`, `StagingMissing`, and `BatchUnbalanced` before anything is committed.
    """
    batch = drained.batch
    clients = clients.for_batch(batch)
    required = without_down(settings.pipeline.required_sources, outages)
    with quiet_gc(), ExitStack() as around:
        # Once, however often refusals of the broker make the attempt start again.
        start_recording = cache(lambda: around.enter_context(recording or nullcontext()))

        def attempt(refusals: Refusals) -> Published:
            with kind.publisher_of(clients, batch, refusals) as publisher:
                produce = not batch.dry_run and publisher.standing() is GroupPosition.AT_START
                old = OldMessages(publisher.kept, now_in_milliseconds(), clients.settings.retention_bytes)
                start_recording()
                with publisher.transaction() if produce else nullcontext() as transaction:
                    counts, times, dead, fingerprints = _send(
                        clients, staging, drained, publisher, transaction, required, now, old
                    )
                    check_balance(drained, counts)
                    check_dead_letters(drained, counts, settings.pipeline, dead)
            freshness = Histogram() if batch.dry_run else ages(times, now())
            # A replay or a redrive reads more than it takes: their claims have checked that.
            least = drained.value_bytes // max(1, len(batch.ranges)) if batch.purpose.kind == LIVE.kind else 0
            contents = {DEAD_LETTERS: kept(fingerprints)} if fingerprints else {}
            return Published(counts, produce, freshness, old.warnings(least), contents)

        return publish_around(attempt, clients.settings.transaction_timeout_sec)


def _send(
    clients: Clients, staging: Staging, drained: Drained, publisher: LanePublisher, transaction: Transaction | None,
    required: frozenset[str], now: Callable[[], datetime], old: OldMessages,
) -> tuple[Counts, list[Milliseconds], Counter[int], Counter[str]]:  # fmt: skip
    """Route the batch and send it, if there is a transaction. Returns the counts of its messages, the times of the
    enriched ones, and the dead ones by partition and by fingerprint. `old` sees the times of all."""
    kafka, counts = clients.settings, Counts()
    times: list[Milliseconds] = []
    dead: Counter[int] = Counter()
    fingerprints: Counter[str] = Counter()
    for routed in route(staging, drained.batch, publisher, required, now):
        counts = counts + routed.counts
        # A copy: a view of the column would keep all of the slice in memory.
        times.append(routed.analytics.columns["timestamp"].to_numpy().copy())
        old.see(kafka.output_topic, times[-1])
        old.see(kafka.dlq_topic, routed.dead_letters.columns["timestamp"].to_numpy())
        dead.update(routed.dead_letters.partitions)
        fingerprints.update(routed.fingerprints)
        if transaction is not None:
            transaction.send(kafka.output_topic, routed.analytics)
            transaction.send(kafka.dlq_topic, routed.dead_letters)
    return counts, times, dead, fingerprints


def ages(times: Sequence[Milliseconds], moment: datetime) -> Histogram:
    """The ages at `moment` of these times, in milliseconds since the epoch. 0 or less means no time."""
    # Part by part: what it takes to count them all at once is many times their memory, when a task has most of it.
    return Histogram.total(Histogram.of(moment.timestamp() - part[part > 0] / 1000) for part in times)


def route(
    staging: Staging, batch: Batch, limits: LanePublisher, required: frozenset[str], now: Callable[[], datetime]
) -> Iterator[Routed]:
    """The batch's chunks, routed to the two topics."""
    drain_id = staging.drain_of(batch.batch_id, REFUSED)
    additions = [_additions(staging, batch, declaration, drain_id) for declaration in REGISTRY.enrichers]
    events = staging.read(batch.batch_id, EVENTS, drain=drain_id)
    for refusals in staging.read(batch.batch_id, REFUSED, drain=drain_id):
        moment = now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        router = Router(batch, moment, limits.output, limits.dead_letters, required)
        yield from router.route(events, [next(staged) for staged in additions], refusals)


def _additions(
    staging: Staging, batch: Batch, declaration: LookupEnricher, drain_id: str
) -> Iterator[StagedEnrichment]:
    codes = staging.read(batch.batch_id, codes_of(declaration), drain=drain_id)
    values = staging.read(batch.batch_id, values_of(declaration), [STATUS, JSON], drain_id)
    for code, value in zip(codes, values, strict=True):
        yield StagedEnrichment(declaration.source, code["code"].to_numpy(), value[STATUS], value[JSON])


def record(ledger: Ledger, drained: Drained, published: Published, **details: Any) -> bool:
    """Complete the batch's row in the ledger; `details` are those of `Outcome` beside the counts. Returns whether no
    other try had done so.

    When a publish dies between its commit and this, its next try finds the batch published and completes the row.
    Raises `OffsetsMoved` when the group is past the batch because somebody moved it there.
    """
    counts, batch = published.counts, drained.batch
    if not published.produced and not batch.dry_run and ledger.positions.passed_over(batch.batch_id):
        raise OffsetsMoved(
            f"group {batch.group_id} is past batch {batch.batch_id} because somebody moved it there "
            "(enrichment_group_moves), so its messages were left out. It is not recorded as published; leave it"
        )
    return ledger.published(
        batch.batch_id,
        Outcome(
            read=drained.messages,
            enriched=counts.enriched,
            partial=counts.partial,
            dead=counts.dead,
            errors_by_reason=counts.by_reason,
            warnings=published.warnings,
            **details,
        ),
    )


def check_balance(drained: Drained, counts: Counts) -> None:
    """Nothing lost, nothing doubled; raises `BatchUnbalanced`."""
    if counts.total != drained.messages:
        raise BatchUnbalanced(
            f"batch {drained.batch.batch_id}: read {drained.messages}, but {counts.enriched} enriched "
            f"+ {counts.partial} partial + {counts.dead} dead = {counts.total}; nothing was committed"
        )


def check_dead_letters(
    drained: Drained, counts: Counts, settings: PipelineSettings, dead_by_partition: Counter[int]
) -> None:
    """Raise `BatchUnbalanced` when a suspiciously large share of the batch is dead for one reason.

    The next claim over these offsets is smaller in the partitions concerned, until it is too small to be suspected: a
    flood of junk passes slowly and visibly, as failed runs, and stops nothing. Only live draining is checked: dead
    letters of a replay or a redrive have been suspected before.
    """
    batch, suspected = drained.batch, max(counts.dead_by_reason.items(), key=lambda item: item[1], default=("", 0))
    if batch.quarantined or batch.purpose.kind != LIVE.kind or drained.messages < settings.dead_letter_share_from:
        return
    reason, dead = suspected
    share = settings.max_dead_letter_share
    if dead > share * drained.messages:
        raise BatchUnbalanced(
            f"batch {batch.batch_id}: {dead} of {drained.messages} messages would be dead letters with {reason}, more "
            f"than ENRICHMENT_MAX_DEAD_LETTER_SHARE={share:g}; nothing was "
            "committed, suspect the code or the source",
            # Where even a single message is suspected, it is quarantined.
            {r.partition for r in batch.ranges if batch.span > 1 and dead_by_partition[r.partition] > share * r.span},
        )
