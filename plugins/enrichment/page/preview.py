"""The tab *Preview*: what today's settings would make of a message, pasted or taken from a topic."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Request, Response

from enrichment.inspection.asked import Preview
from enrichment.page.messages import Offset, Partition, Topic
from enrichment.page.reading import encoded, may_read_messages
from enrichment.page.scans import Scans

MOST_BYTES = 1_000_000


async def body_of(request: Request) -> bytes:
    """A request's body. Raises `HTTPException` when it is larger than `MOST_BYTES`, without reading the rest."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"a message of more than {MOST_BYTES:,} bytes is not tried out here")
    return bytes(body)


def check_origin(request: Request) -> None:
    """Raise `HTTPException` for a request that another site's page has made: the browser adds its cookie to that, too.
    A program with a token of its own names no page."""
    site, page = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_own = page is None or urlsplit(page).netloc == request.headers.get("host")
    if site not in (None, "same-origin", "none") or (site is None and not is_own):
        raise HTTPException(403, "this is for the StackLens page itself, not for pages of other sites")


def routes(scans: Scans) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.post("/preview")
    async def previewed(
        request: Request, topic: Topic | None = None, partition: Partition | None = None, offset: Offset | None = None
    ) -> Response:
        check_origin(request)
        value = await body_of(request)
        position = None
        if topic is not None and partition is not None and offset is not None:
            position = topic, partition, offset
        return encoded(await scans.run(Preview(value, position), request))

    return router
