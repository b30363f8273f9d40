"""The query over the users' own tables (`include/sql/business_context/fetch.sql`) as a source."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg

from enrichment.enrichers.business import DATABASE_ERROR, NOT_FOUND, QUERY, Context
from enrichment.messages import REQUEST_ID
from enrichment.sources.sql_query import Query, SqlSource


def business_query(
    connect: Callable[[], psycopg.Connection[Any]],
    text: str,
    *,
    timeout_seconds: float = 30,
    clock: Callable[[], float] = time.monotonic,
) -> SqlSource:
    """Contexts by request id: the query gets the array `%(request_ids)s`; the rest is as `SqlSource` has it."""
    return SqlSource(
        connect, Query(text, f"include/sql/{QUERY}.sql", "request_ids", REQUEST_ID, Context),
        unknown=NOT_FOUND, unavailable=DATABASE_ERROR, timeout_seconds=timeout_seconds, clock=clock,
    )  # fmt: skip
