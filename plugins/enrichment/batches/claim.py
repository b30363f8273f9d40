"""Claim: the offset ranges of a run, fixed as batches in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec

from enrichment.batch import Batch
from enrichment.batches.cornering import shares_of
from enrichment.errors import RunRefused
from enrichment.group.lanes import check_claim
from enrichment.group.progress import anchor, find_progress
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import look_back, plan_ranges
from enrichment.kafka.retention import claim_warnings, now_in_milliseconds, time_limits
from enrichment.settings import Settings
from enrichment.store.jobs import Job, Ledger

DRY_RUN_MESSAGES = 1_000  # that a dry run looks back over by default, where nothing waits


def claim(
    clients: Clients, ledger: Ledger, settings: Settings, *, dag_id: str, run_id: str,
    max_messages: int | None = None, partitions: Sequence[int] | None = None, dry_run: bool = False,
) -> list[Batch]:  # fmt: skip
    """Fix the offset ranges of a run's batches and write them to the ledger; a run that claimed before gets the same
    ones.

    Where batches failed because of what they hold, the next ones over these offsets are smaller, and a message that
    fails alone is quarantined; the other partitions go on in between. A dry run that finds fewer messages waiting than
    `max_messages` takes the last ones published before them, too. Raises `OffsetsLost` by the configured policy,
    `OffsetsMoved` when the group is not where it has published to, `SettingsError` when its number of lanes differs,
    `RunRefused` for an invalid parameter.
    """
    claimed = ledger.find_run(dag_id, run_id)
    if claimed:
        return claimed
    if max_messages is not None and max_messages < 1:
        raise RunRefused(f"max_messages={max_messages}: at least one, or none for KAFKA_BATCH_SIZE")
    kafka = clients.settings
    clients.check_options()
    check_claim(clients, ledger.lanes, dry_run=dry_run)
    unrecorded = ledger.lanes.open_batches(kafka.consumer_group)
    limits = cache(lambda: time_limits(clients, now_in_milliseconds()))
    backlog, topic_id, seen = find_progress(
        clients, ledger.positions, partitions or None, dry_run=dry_run, unrecorded=unrecorded,
        needs_first=lambda: bool(limits()),
    )  # fmt: skip
    size = min(max_messages or kafka.batch_size, kafka.batch_size)
    if dry_run:
        # The minute's own run takes all that waits, so a dry run that only read that would often find nothing.
        waits = any(b.span for b in backlog)
        backlog = look_back(backlog, min(max_messages or (0 if waits else DRY_RUN_MESSAGES), size))
    plan = plan_ranges(backlog, kafka.lanes, size, kafka.batches_per_run)
    shares = shares_of(plan, backlog, ledger, kafka, size)
    batches = [
        Batch(
            batch_id=f"{dag_id}/{run_id}/{lane}",
            topic=kafka.input_topic,
            group_id=kafka.consumer_group,
            lane=lane,
            ranges=share.ranges,
            dry_run=dry_run,
            max_bytes=kafka.batch_bytes,
            quarantined=share.quarantined,
            topic_id=topic_id,
            lanes=kafka.lanes,
        )
        for lane, share in shares.items()
    ]
    ends = {r.partition: r.end for batch in batches for r in batch.ranges}
    lag = {b.partition: max(0, b.high - ends.get(b.partition, b.start)) for b in backlog}
    if not dry_run:
        anchor(clients, batches, backlog)
    warnings = claim_warnings(kafka, batches, seen, limits()) if batches else {}
    for batch in batches:
        ledger.claim(batch, dag_id, run_id, settings.fingerprint, lag, warnings.get(batch.batch_id, ()))
    return batches


def settle(batch: Batch, job: Job | None) -> Batch:
    """The batch with the ranges of its first drain, so that a repeated drain reads the same messages."""
    if job is None or job.drained_at is None:
        return batch
    return msgspec.structs.replace(batch, ranges=job.ranges, max_bytes=None)
