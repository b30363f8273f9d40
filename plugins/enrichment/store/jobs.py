"""The ledger: one row of `enrichment_jobs` for each batch, with its ranges, state and outcome."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
import psycopg

from enrichment.batch import Batch, OffsetRange, Purpose
from enrichment.statements import Statements, jsonb
from enrichment.store.lanes import LaneCounts
from enrichment.store.positions import Positions

log = logging.getLogger(__name__)


class JobState(StrEnum):
    """The state of a batch."""

    CLAIMED = "claimed"
    DRAINED = "drained"
    PUBLISHED = "published"
    FAILED = "failed"
    DRY_RUN = "dry-run"  # a dry batch that came as far as it may


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of publishing a batch. `read` equals `enriched + partial + dead`, or the ledger refuses it.

    `cache_counts` has the `LookupCounts` of each enrichment by its name, `durations` the seconds of each stage,
    `source_builds` the build of each enricher's source by the enricher's name. `warnings` are added to those of the
    claim.
    """

    read: int
    enriched: int
    partial: int
    dead: int
    cache_counts: Mapping[str, Any] = {}
    errors_by_reason: Mapping[str, int] = {}
    durations: Mapping[str, float] = {}
    source_builds: Mapping[str, str] = {}
    warnings: Sequence[str] = ()


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger; the schema says what each column means."""

    batch_id: str
    dag_id: str
    run_id: str
    lane: int
    topic: str
    group_id: str
    ranges: tuple[OffsetRange, ...]
    max_bytes: int | None
    dry_run: bool
    quarantined: bool = msgspec.field(name="set_aside")
    purpose: Purpose
    lag: dict[str, int]
    state: JobState
    attempts: int
    messages_read: int | None
    messages_enriched: int | None
    messages_partial: int | None
    messages_dead: int | None
    value_bytes: int | None
    cache_counts: dict[str, dict[str, int]]
    errors_by_reason: dict[str, int]
    durations: dict[str, float]
    source_builds: dict[str, str]
    settings_fingerprint: str
    error: str | None
    topic_id: str | None
    lanes: int | None
    warnings: tuple[str, ...]
    claimed_at: datetime
    drained_at: datetime | None
    published_at: datetime | None
    updated_at: datetime

    @property
    def is_published(self) -> bool:
        """Whether its outputs are visible: its tasks have nothing left to do."""
        return self.state is JobState.PUBLISHED

    @property
    def left(self) -> int:
        """Messages that its run left waiting when it was claimed."""
        return sum(self.lag.values())

    @property
    def batch(self) -> Batch:
        """The batch that the row is about, with the ranges that the ledger has."""
        return msgspec.convert(self, Batch, from_attributes=True)


class Suspicion(msgspec.Struct, frozen=True):
    """How many failed batches covered the next offset of a partition, and the smallest number of suspect offsets in one
    of them. `is_alone`: one batch had this offset alone and failed for an unknown reason."""

    partition: int
    failures: int
    span: int
    is_alone: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the audit log: who changed what of a job. `action` is INSERT, UPDATE or DELETE."""

    batch_id: str
    action: str
    old_state: JobState | None
    new_state: JobState | None
    changed_columns: tuple[str, ...]
    changed_by: str
    application_name: str
    changed_at: datetime


class Ledger:
    """Every method is a transaction of its own, may be repeated, and raises `psycopg.Error` when the database refuses.

    The row of a batch that has been published (or has finished a dry run) no longer changes: tasks are cleared and run
    again, and the first publish is the one that happened.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._statements = Statements(connection)
        self.positions = Positions(connection)
        self.lanes = LaneCounts(connection)

    def claim(
        self, batch: Batch, dag_id: str, run_id: str, settings_fingerprint: str,
        lag: Mapping[int, int] | None = None, warnings: Sequence[str] = (),
    ) -> Batch:  # fmt: skip
        """Record a batch and return it; if its id is there already, the batch as it was recorded first.

        `lag` is the number of messages that its run leaves waiting in each partition, as far as known; `warnings` are
        what somebody should look at, although the batch goes on.
        """
        _warn(batch.batch_id, warnings)
        self._statements.execute(
            "enrichment_jobs/claim",
            {
                **_columns(batch),
                "lag": jsonb(lag or {}),
                "warnings": jsonb(warnings),
                "dag_id": dag_id,
                "run_id": run_id,
                "settings_fingerprint": settings_fingerprint,
            },
        )
        return self._statements.rows("enrichment_jobs/get", Job, {"batch_id": batch.batch_id})[0].batch

    def find_run(self, dag_id: str, run_id: str) -> list[Batch]:
        """The batches that a run has claimed, in the order of their lanes; a retried claim returns these."""
        jobs = self._statements.rows("enrichment_jobs/find_run", Job, {"dag_id": dag_id, "run_id": run_id})
        return [job.batch for job in jobs]

    def get(self, batch_id: str) -> Job | None:
        """A batch's row, or None when the ledger does not know it."""
        return self._statements.row("enrichment_jobs/get", Job, {"batch_id": batch_id})

    def drained(self, batch: Batch, read: int, value_bytes: int) -> None:
        """Record that a batch has been read, with its final ranges, within those claimed. Counts one attempt."""
        self._statements.execute(
            "enrichment_jobs/record_drained", {**_columns(batch), "messages_read": read, "value_bytes": value_bytes}
        )

    def published(self, batch_id: str, outcome: Outcome) -> bool:
        """Record that a batch is visible in the output topics, and that live draining goes on after it (`positions`).

        Returns whether this was the first record of it. Raises `psycopg.errors.CheckViolation` when the counts do not
        add up.
        """
        _warn(batch_id, outcome.warnings)
        [row] = self._statements.rows(
            "enrichment_jobs/record_published",
            dict[str, bool],
            {
                "batch_id": batch_id,
                "messages_read": outcome.read,
                "messages_enriched": outcome.enriched,
                "messages_partial": outcome.partial,
                "messages_dead": outcome.dead,
                "cache_counts": jsonb(outcome.cache_counts),
                "errors_by_reason": jsonb(outcome.errors_by_reason),
                "durations": jsonb(outcome.durations),
                "source_builds": jsonb(outcome.source_builds),
                "warnings": jsonb(outcome.warnings),
            },
        )
        return row["recorded"]

    def failed(self, batch_id: str, error: str, suspects: Iterable[int] = ()) -> None:
        """Record that a batch has failed because of what it holds; a later try may still publish it.

        `suspects` are the partitions that may hold the culprit; empty: any of the batch's.
        """
        parameters = {"batch_id": batch_id, "error": error, "suspects": list(suspects)}
        self._statements.execute("enrichment_jobs/record_failed", parameters)

    def noted(self, batch_id: str, error: str) -> None:
        """Record that a try of the batch has failed for a reason outside the batch."""
        self._statements.execute("enrichment_jobs/record_error", {"batch_id": batch_id, "error": error})

    def suspicions(self, topic: str, group_id: str, starts: Mapping[int, int]) -> dict[int, Suspicion]:
        """The partitions whose next offset (in `starts`) failed batches have covered, with how many did."""
        first = [{"partition": partition, "start": start} for partition, start in starts.items()]
        parameters = {"topic": topic, "group_id": group_id, "starts": jsonb(first)}
        found = self._statements.rows("enrichment_jobs/find_suspicions", Suspicion, parameters)
        return {each.partition: each for each in found}

    def latest_partitions(self, topic: str, group_id: str, lane: int) -> frozenset[int]:
        """The partitions of the batch that the lane claimed last."""
        parameters = {"topic": topic, "group_id": group_id, "lane": lane}
        found = self._statements.rows("enrichment_jobs/find_latest", dict[str, tuple[OffsetRange, ...]], parameters)
        return frozenset(r.partition for row in found for r in row["ranges"] if r.span)

    def held_seconds(self, batch: Batch) -> float:
        """How long the batch's first offsets have been claimed, by it or an earlier batch, without being published."""
        first = [{"partition": r.partition, "start": r.start} for r in batch.ranges]
        parameters = {**_columns(batch), "starts": jsonb(first)}
        found = self._statements.rows("enrichment_jobs/held_seconds", dict[str, float | None], parameters)
        return found[0]["seconds"] or 0.0

    def changes(self, batch_id: str, at_most: int) -> list[Change]:
        """Who changed what of a batch: the latest changes, newest first."""
        return self._statements.rows("enrichment_audit_log/latest", Change, {"batch_id": batch_id, "rows": at_most})


def _warn(batch_id: str, warnings: Sequence[str]) -> None:
    for text in warnings:
        log.warning("batch.warning batch_id=%s %s", batch_id, text)


def _columns(batch: Batch) -> dict[str, Any]:
    return {**batch.to_manifest(), "ranges": jsonb(batch.ranges), "purpose": jsonb(batch.purpose)}
