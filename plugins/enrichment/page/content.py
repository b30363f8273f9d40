"""The tab *Content*: what messages held, counted: where they come from, their risk, their errors and dead letters."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Response

from enrichment.codec.hot_loops import quiet_gc
from enrichment.page.history import RangeName
from enrichment.page.reading import PATIENCE_SECONDS, Reader, as_json, may_read_messages
from enrichment.rollup.held import read_held


def routes(reader: Reader) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.get("/content")
    def content(range: RangeName = "24h") -> Response:  # noqa: A002 (the name in the address)
        with quiet_gc(), reader.resources() as r, r.query_connection(PATIENCE_SECONDS) as connection:
            return as_json(read_held(connection, range, datetime.now(UTC)))

    return router
