"""The table of computed risks, for views and people."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import psycopg
import pyarrow as pa
from psycopg.adapt import PyFormat, Transformer

from enrichment import sql
from enrichment.caches.behind import OneBehind
from enrichment.caches.postgres import columns_as_json, storable_keys
from enrichment.databases import KeptConnection, Pause, can_be_text

log = logging.getLogger(__name__)


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
    rows = [row for row in zip(*risks, strict=True) if row[0] in known and all(map(can_be_text, row[3] or ()))]
    if not rows:
        return 0
    *columns, indicators = zip(*rows, strict=True)
    texts = [names if names is None else _array_text(tuple(names)) for names in indicators]
    given = columns_as_json([pa.array(column) for column in (*columns, texts)])
    parameters = dict(zip(("request_ids", "scores", "levels", "indicators"), given, strict=True))
    return connection.execute(sql.load("business_risks/put_many"), parameters).rowcount


@lru_cache(maxsize=10_000)
def _array_text(names: tuple[str, ...]) -> str:
    """What PostgreSQL writes for an array of text."""
    given = list(names)
    return bytes(Transformer().get_dumper(given, PyFormat.TEXT).dump(given) or b"").decode()
