"""The table of computed risks, for views and people."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from enrichment import sql
from enrichment.caches.behind import OneBehind
from enrichment.caches.postgres import are_storable_keys
from enrichment.codec.postgres_arrays import array_cursor, arrays_of
from enrichment.databases import KeptConnection, Pause

log = logging.getLogger(__name__)


class RequestRisks(NamedTuple):
    """The risks of requests, as columns as long as each other: text, double, text, list of text. Requests are
    distinct."""

    request_ids: pa.Array
    scores: pa.Array
    levels: pa.Array
    indicators: pa.Array


class RiskTable:
    """The table of risks, written behind the caller, one call at a time. A failure of the database costs only these
    rows; where it does not answer in time it is skipped for `pause_seconds`, then twice as long. `connect` opens a
    connection, which is kept."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], pause_seconds: float = 30) -> None:
        self._kept = KeptConnection(connect)
        self._pause = Pause(pause_seconds)
        self._behind = OneBehind()

    def record(self, risks: RequestRisks) -> None:
        """As `record_risks`, which never fails here; what was begun before is waited for."""
        self._behind.run(lambda: self._record(risks))

    def _record(self, risks: RequestRisks) -> None:
        if self._pause.seconds_left:
            return
        try:
            with self._pause.watch():
                self._kept.run(lambda connection: record_risks(connection, risks))
        except psycopg.Error as refused:
            log.warning("risks.not_recorded requests=%d error=%s", len(risks.request_ids), refused)

    def close(self) -> None:
        """Wait until all is written, and close the connection."""
        self._behind.close()
        self._kept.close()


def record_risks(connection: psycopg.Connection[Any], risks: RequestRisks) -> int:
    """Write the risks of requests where they differ from what is there, in the caller's transaction; returns how many
    did. Those that no table can hold are left out. Raises `psycopg.Error` when the database refuses."""
    columns = (*risks[:3], _array_texts(risks.indicators))
    rows = pa.table(columns, names=("request_ids", "scores", "levels", "indicators"))
    given = arrays_of(rows.filter(are_storable_keys(risks.request_ids)))
    with array_cursor(connection) as cursor:
        return cursor.execute(sql.load("business_risks/put_many"), given).rowcount


def _array_texts(lists: pa.Array) -> pa.Array:
    """What PostgreSQL reads as these arrays of text: each name in quotes, within which it means nothing."""
    names = lists.flatten()
    for special in ("\\", '"'):
        names = pc.replace_substring(names, special, f"\\{special}")
    quoted = pc.binary_join_element_wise('"', names, '"', "")
    sizes = pc.fill_null(pc.list_value_length(lists), 0)
    ends = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(sizes).cast(pa.int32())])
    texts = pc.binary_join(pa.ListArray.from_arrays(ends, quoted), ",")
    return pc.if_else(lists.is_valid(), pc.binary_join_element_wise("{", texts, "}", ""), pa.scalar(None, pa.string()))
