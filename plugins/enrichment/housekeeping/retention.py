"""Deletes the pipeline's own records past their retention times, chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
import psycopg

from enrichment.statements import Statements


class OldRows(NamedTuple):
    """The statement that deletes a chunk of old rows, and the one that counts them."""

    taking: str
    counting: str


# By the name of its count in `Forgotten`. In this order metrics that go by their own retention are counted before
# batches take the others along, and hours go before their days.
KEPT = {
    "enrichment_metrics": OldRows("enrichment_metrics/delete_old", "enrichment_metrics/count_old"),
    "enrichment_jobs": OldRows("enrichment_jobs/delete_old", "enrichment_jobs/count_old"),
    "enrichment_audit_log": OldRows("enrichment_audit_log/delete_old", "enrichment_audit_log/count_old"),
    "minute_rollups": OldRows("enrichment_rollups/delete_old_minutes", "enrichment_rollups/count_old_minutes"),
    "hourly_rollups": OldRows("enrichment_rollups/delete_old_hours", "enrichment_rollups/count_old_hours"),
    "daily_rollups": OldRows("enrichment_rollups/delete_old_days", "enrichment_rollups/count_old_days"),
    "service_level_breaches": OldRows("service_level_breaches/delete_old", "service_level_breaches/count_old"),
    "counted_replays": OldRows("enrichment_replays/delete_old", "enrichment_replays/count_old"),
    "replay_details": OldRows("enrichment_replays/shorten_old", "enrichment_replays/count_long"),
}


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """Deleted rows by kind (in a dry run: old rows), and old batches that were never published, which stay until their
    group has published past them. Of finished windows (`replay_details`) only the details are deleted."""

    enrichment_metrics: int = 0
    enrichment_jobs: int = 0
    enrichment_audit_log: int = 0
    minute_rollups: int = 0
    hourly_rollups: int = 0
    daily_rollups: int = 0
    service_level_breaches: int = 0
    counted_replays: int = 0
    replay_details: int = 0
    unpublished: int = 0
    dry_run: bool = False


def forget(
    connection: psycopg.Connection[Any], keep: Mapping[str, timedelta], *, chunk_rows: int, dry_run: bool = False
) -> Forgotten:
    """Delete what is older than `keep` says by the names of `KEPT`, each chunk in a transaction of its own; dry, only
    count.

    With nothing old, this takes one statement for each kind and one more. Raises `psycopg.Error` when the database
    refuses; earlier chunks stay deleted, and the next try goes on from there.
    """
    if dry_run:
        counted = {what: _count(connection, what, keep) for what in KEPT}
        rows = {what: found["old"] for what, found in counted.items()}
        unpublished = counted["enrichment_jobs"]["unpublished"]
    else:
        rows = {what: _take(connection, what, keep, chunk_rows) for what in KEPT}
        unpublished = _count(connection, "enrichment_jobs", keep)["unpublished"]
    return msgspec.convert({**rows, "unpublished": unpublished, "dry_run": dry_run}, Forgotten)


def _take(connection: psycopg.Connection[Any], what: str, keep: Mapping[str, timedelta], chunk_rows: int) -> int:
    parameters = {**keep, "keep": keep[what], "row_limit": chunk_rows}
    taken = 0
    while True:
        rows = Statements(connection).execute(KEPT[what].taking, parameters)
        taken += rows
        if rows < chunk_rows:
            return taken


def _count(connection: psycopg.Connection[Any], what: str, keep: Mapping[str, timedelta]) -> dict[str, int]:
    return Statements(connection).rows(KEPT[what].counting, dict[str, int], {**keep, "keep": keep[what]})[0]
