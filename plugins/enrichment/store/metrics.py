"""The table `enrichment_metrics`: one row per batch and stage, with what the stage did and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import psycopg

from enrichment.statements import Statements, jsonb


def record(
    connection: psycopg.Connection[Any],
    batch_id: str,
    stage: str,
    messages: int,
    seconds: float,
    peak_rss_bytes: int | None = None,
    counts: Mapping[str, Any] | msgspec.Struct | None = None,
) -> None:
    """Write the row of a batch's stage, replacing that of an earlier try.

    Raises `psycopg.Error` when the database refuses, `ForeignKeyViolation` when the ledger does not know the batch.
    """
    Statements(connection).execute(
        "enrichment_metrics/record",
        {
            "batch_id": batch_id,
            "stage": stage,
            "messages": messages,
            "seconds": seconds,
            "peak_rss_bytes": peak_rss_bytes,
            "counts": jsonb({} if counts is None else counts),
        },
    )
