"""The tab *History*: what the live stream did in the last hours and days, in columns for plots."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec
from fastapi import APIRouter, Response

from enrichment.codec.hot_loops import quiet_gc
from enrichment.page.reading import PATIENCE_SECONDS, Reader, as_json
from enrichment.rollup.history import History, read_history
from enrichment.rollup.service_levels import Level, thresholds

RangeName = Literal["1h", "6h", "24h", "7d", "30d"]  # of `RANGES` in enrichment.rollup.history and .held


class ShownHistory(msgspec.Struct, frozen=True):
    """What the page shows of a range; `levels` are the service levels as they are set now."""

    history: History
    levels: dict[Level, float]


def routes(reader: Reader) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter()

    @router.get("/history")
    def history(range: RangeName = "24h") -> Response:  # noqa: A002 (the name in the address)
        with quiet_gc(), reader.resources() as r, r.query_connection(PATIENCE_SECONDS) as connection:
            levels = thresholds(r.settings.service_levels)
            return as_json(ShownHistory(read_history(connection, range, datetime.now(UTC)), levels))

    return router
