"""The tab *Dead letters*: the newest ones by fingerprint, with samples. They hold messages, so it takes the right to
read task logs."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Response

from enrichment.inspection.asked import RecentDead
from enrichment.page.reading import encoded, may_read_messages
from enrichment.page.scans import Scans

FRESH_SECONDS = 10.0


class LettersLookout:
    """Looks at the dead letters for all who do: one look at a time, and each serves for ten seconds."""

    def __init__(self, scans: Scans) -> None:
        self._scans = scans
        self._lock = asyncio.Lock()
        self._seen: tuple[float, bytes] | None = None

    async def look(self) -> bytes:
        """The JSON of what is to be shown now. Raises as `Scans` does."""
        async with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > FRESH_SECONDS:
                found = await self._scans.run(RecentDead())
                self._seen = time.monotonic(), found
            return self._seen[1]


def routes(scans: Scans) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])
    lookout = LettersLookout(scans)

    @router.get("/dead-letters")
    async def dead_letters() -> Response:
        return encoded(await lookout.look())

    return router
