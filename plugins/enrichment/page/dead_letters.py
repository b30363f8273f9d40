"""The tab *Dead letters*: the newest ones by fingerprint, with samples. They hold messages, so it takes the right to
read task logs."""

from __future__ import annotations

import time
from threading import Lock

from fastapi import APIRouter, Response

from enrichment.dead_letters.recent import Reach, RecentLetters, look_at_recent
from enrichment.kafka.clients import Clients
from enrichment.page.reading import Reader, as_json, may_read_messages

FRESH_SECONDS = 10.0
KAFKA_SECONDS = 5.0


class LettersLookout:
    """Looks at the dead letters for all who do: one look at a time, and each serves for ten seconds."""

    def __init__(self, reader: Reader, reach: Reach) -> None:
        self._reader = reader
        self._reach = reach
        self._lock = Lock()
        self._seen: tuple[float, RecentLetters] | None = None

    def look(self) -> RecentLetters:
        """What is to be shown now."""
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > FRESH_SECONDS:
                found = self._look()
                self._seen = time.monotonic(), found
            return self._seen[1]

    def _look(self) -> RecentLetters:
        with self._reader.resources() as r:
            hurried = {"request_timeout_sec": min(KAFKA_SECONDS, r.settings.kafka.request_timeout_sec)}
            clients = Clients(r.kafka_config(), r.settings.kafka.model_copy(update=hurried))
            return look_at_recent(clients, self._reach)


def routes(reader: Reader, reach: Reach | None = None) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])
    lookout = LettersLookout(reader, reach or Reach())

    @router.get("/dead-letters")
    def dead_letters() -> Response:
        return as_json(lookout.look())

    return router
