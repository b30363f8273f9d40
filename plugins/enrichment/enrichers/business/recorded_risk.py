"""The table of computed risks, for views and people."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psycopg

from enrichment import sql
from enrichment.caches.behind import OneBehind
from enrichment.caches.postgres import rows_as_json, storable_keys
from enrichment.databases import KeptConnection, Pause

log = logging.getLogger(__name__)


class RiskRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `business_risks/put_many.sql`."""

    request_id: str
    risk_score: float | None
    risk_level: str | None
    fraud_indicators: Sequence[str] | None


class RiskTable:
    """The table of risks, written behind the caller, one call at a time. A failure of the database costs only these
    rows; where it does not answer in time it is skipped for `pause_seconds`, then twice as long. `connect` opens a
    connection, which is kept."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], pause_seconds: float = 30) -> None:
        self._kept = KeptConnection(connect)
        self._pause = Pause(pause_seconds)
        self._behind = OneBehind()

    def record(self, *risks: Sequence[Any]) -> None:
        """As `record_risk`, which never fails here; what was begun before is waited for."""
        self._behind.run(lambda: self._record(risks))

    def _record(self, risks: Sequence[Sequence[Any]]) -> None:
        if self._pause.seconds_left:
            return
        try:
            with self._pause.watch():
                self._kept.run(lambda connection: _record(connection, risks))
        except psycopg.Error as refused:
            log.warning("risks.not_recorded requests=%d error=%s", len(risks[0]), refused)

    def close(self) -> None:
        """Wait until all is written, and close the connection."""
        self._behind.close()
        self._kept.close()


def record_risk(
    connection: psycopg.Connection[Any],
    request_ids: Sequence[str],
    scores: Sequence[float | None],
    levels: Sequence[str | None],
    indicators: Sequence[Sequence[str] | None],
) -> int:
    """Write the risks of requests where they differ from what is there; returns how many did.

    All four are as long as each other, request ids distinct. Raises `psycopg.Error` when the database refuses.
    """
    with connection.transaction():
        return _record(connection, (request_ids, scores, levels, indicators))


def _record(connection: psycopg.Connection[Any], risks: Sequence[Sequence[Any]]) -> int:
    known = set(storable_keys(risks[0]))
    rows = [RiskRow(*risk) for risk in zip(*risks, strict=True) if risk[0] in known]
    return connection.execute(sql.load("business_risks/put_many"), {"rows": rows_as_json(rows)}).rowcount
