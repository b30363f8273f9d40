"""Takes computed risks, keeps them with the cached context of their requests, where views and people read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import psycopg

from enrichment import sql
from enrichment.caches.postgres import rows_as_json, storable_keys


class RiskRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `record_risk.sql`."""

    request_id: str
    risk_score: float | None
    risk_level: str | None
    fraud_indicators: Sequence[str] | None


def record_risk(
    connection: psycopg.Connection[Any],
    request_ids: Sequence[str],
    scores: Sequence[float | None],
    levels: Sequence[str | None],
    indicators: Sequence[Sequence[str] | None],
) -> int:
    """Write the risks of cached requests where they differ from what is there; returns how many did.

    All four are as long as each other, request ids distinct. Raises `psycopg.Error` when the database refuses.
    """
    known = set(storable_keys(request_ids))
    rows = [RiskRow(*risk) for risk in zip(request_ids, scores, levels, indicators, strict=True) if risk[0] in known]
    with connection.transaction():
        return connection.execute(sql.load("business_context_cache/record_risk"), {"rows": rows_as_json(rows)}).rowcount
