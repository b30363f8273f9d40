"""In the tab *Search*: what a dead letter's redrive did with it, or is about to do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from enrichment.inspection.asked import WasRedriven
from enrichment.page.messages import Offset, Partition, Topic, read_positions
from enrichment.page.reading import encoded, may_read_messages
from enrichment.page.scans import Scans


def routes(scans: Scans) -> APIRouter:
    """The routes of this part."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.get("/redriven")
    async def redriven(
        request: Request, topic: Topic, partition: Partition, offset: Offset,
        positions: Annotated[str, Query(max_length=100)] = "",
    ) -> Response:  # fmt: skip
        asked = WasRedriven(topic, partition, offset, read_positions(positions))
        return encoded(await scans.run(asked, request))

    return router
