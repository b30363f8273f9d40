"""The tab *Partials*: messages that were published without a source, and what becomes of them."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter, Response

from enrichment.page.reading import Reader, as_json
from enrichment.repair.pending import PendingState
from enrichment.repair.unrepaired import list_partials
from enrichment.statements import Statements


def routes(reader: Reader) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter()

    @router.get("/partials")
    def partials(
        state: PendingState | None = None,
        source: str | None = None,
        before_at: datetime | None = None,
        before_id: str = "",
        before_source: str = "",
    ) -> Response:
        before = None if before_at is None else (before_at, before_id, before_source)
        with reader.connection() as connection:
            return as_json(list_partials(Statements(connection), state, source, before))

    return router
