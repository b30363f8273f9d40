"""What a stage of a batch did and took."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from enrichment.batch import Batch, OffsetRange
from enrichment.caches.base import LookupCounts
from enrichment.store import metrics
from enrichment.store.jobs import Ledger

Connection = psycopg.Connection[Any]


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    """All metrics."""
    return connection.execute(
        "SELECT batch_id, stage, messages, seconds, peak_rss_bytes, counts FROM enrichment_metrics ORDER BY stage"
    ).fetchall()


def test_record_replaces_the_stage_when_it_ran_again(postgres_connection: Connection) -> None:
    """A batch has one row per stage: the one of the last try."""
    Ledger(postgres_connection).claim(Batch("b", "in", "group", 0, (OffsetRange(0, 0, 9),)), "dag", "run", "0")
    metrics.record(postgres_connection, "b", "geo", 9, 2.5, 300, LookupCounts(messages=9))
    metrics.record(postgres_connection, "b", "drain", 9, 1.0)
    metrics.record(postgres_connection, "b", "geo", 8, 0.5, 200, {"messages": 8})
    assert rows(postgres_connection) == [
        ("b", "drain", 9, 1.0, None, {}),
        ("b", "geo", 8, 0.5, 200, {"messages": 8}),
    ]


def test_record_is_refused_when_the_batch_is_unknown(postgres_connection: Connection) -> None:
    """Metrics belong to a batch of the ledger."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        metrics.record(postgres_connection, "nothing", "geo", 1, 1.0)
