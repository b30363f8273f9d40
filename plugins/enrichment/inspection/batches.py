"""An input offset, or ids of batches, in; the batches that had it out, by the ledger.

The ledger has no index of offsets. Batches of live draining are published in the order of their offsets, so the one
that holds an offset is found by halving the time between the first batch and the last: some twenty look-ups by index.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

import msgspec

from enrichment.batch import OffsetRange
from enrichment.conservation.origins import Origin
from enrichment.settings import KafkaSettings
from enrichment.statements import Statements
from enrichment.store.jobs import Job

MOST_BATCHES = 20
MOST_STEPS = 60
CLOSE = timedelta(milliseconds=1)  # batches of a partition are hardly ever published as close together


class TierCounts(msgspec.Struct, frozen=True):
    """How the messages of a batch were answered by an enrichment: `memory` and `postgres` are caches, `misses` asked
    the source."""

    memory: int = 0
    postgres: int = 0
    misses: int = 0
    stale: int = 0
    failed: int = 0


class BatchFate(msgspec.Struct, frozen=True):
    """What the ledger has of a batch that may concern a message. `kind` is live, replay, redrive or repair."""

    batch_id: str
    dag_id: str
    run_id: str
    kind: str
    state: str
    attempts: int
    claimed_at: datetime
    published_at: datetime | None
    error: str | None
    warnings: tuple[str, ...]
    quarantined: bool
    answered: dict[str, TierCounts]
    source_builds: dict[str, str]


class _Held(msgspec.Struct, frozen=True):
    batch_id: str
    ranges: tuple[OffsetRange, ...]
    published_at: datetime | None = None


def fates_of(
    statements: Statements, kafka: KafkaSettings, origin: Origin | None, batch_ids: Collection[str]
) -> list[BatchFate]:
    """The batches with these ids, and those of live draining that hold an input offset; the first claimed first.

    Raises `psycopg.Error` when the database does not answer.
    """
    wanted = dict.fromkeys(list(batch_ids)[:MOST_BATCHES])
    if origin is not None and origin.topic == kafka.input_topic:
        wanted |= dict.fromkeys(_holding(statements, kafka, origin))
    jobs = [statements.row("enrichment_jobs/get", Job, {"batch_id": batch_id}) for batch_id in wanted]
    return sorted((_fate(job) for job in jobs if job is not None), key=lambda fate: fate.claimed_at)


def _holding(statements: Statements, kafka: KafkaSettings, origin: Origin) -> Iterator[str]:
    """The ids of the batches that hold this offset: those under way, the last ones that failed, and a published one."""
    asked = {"group_id": kafka.consumer_group, "topic": origin.topic, "partition": origin.partition}
    unpublished = {**asked, "offset": origin.offset, "most": MOST_BATCHES}
    yield from (held.batch_id for held in statements.rows("enrichment_jobs/find_holding", _Held, unpublished))
    [span] = statements.rows("enrichment_jobs/published_span", dict[str, datetime | None], {})
    first, last = span["first_at"], span["last_at"]
    if first is None or last is None:
        return
    last += CLOSE
    for _ in range(MOST_STEPS):
        is_close = last - first <= CLOSE  # then one after the other
        middle = first if is_close else first + (last - first) / 2
        held_at = statements.row("enrichment_jobs/first_published_with", _Held, {**asked, "at": middle, "before": last})
        side = 1 if held_at is None else _compare(held_at, origin)
        if held_at is not None and side == 0:
            yield held_at.batch_id
        if side == 0 or (side > 0 and is_close):
            return
        if side > 0:
            last = middle
        elif held_at is not None and held_at.published_at is not None:
            first = held_at.published_at + timedelta(microseconds=1)


def _compare(held: _Held, origin: Origin) -> int:
    """0 where the batch holds the offset, below 0 where it ends before it, above 0 where it begins after it."""
    own = next((r for r in held.ranges if r.partition == origin.partition), None)
    if own is None or own.start > origin.offset:
        return 1
    return 0 if origin.offset < own.end else -1


def _fate(job: Job) -> BatchFate:
    return BatchFate(
        batch_id=job.batch_id,
        dag_id=job.dag_id,
        run_id=job.run_id,
        kind=job.purpose.kind,
        state=job.state,
        attempts=job.attempts,
        claimed_at=job.claimed_at,
        published_at=job.published_at,
        error=job.error,
        warnings=job.warnings,
        quarantined=job.quarantined,
        answered=msgspec.convert(job.cache_counts, dict[str, TierCounts]),
        source_builds=job.source_builds,
    )
