"""The tab *Now*: how live enrichment is at this moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

import msgspec
import psycopg
from fastapi import APIRouter, Response

from enrichment.databases import KeptConnection
from enrichment.errors import SettingsError
from enrichment.group.watch import BacklogWatch
from enrichment.health.now import Now, look
from enrichment.health.verdict import HealthVerdict, judge, unknown
from enrichment.page.reading import PATIENCE_SECONDS, as_json
from enrichment.resources import Resources

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0


class Shown(msgspec.Struct, frozen=True):
    """What the page shows of a moment; `now` is missing where the database does not answer."""

    verdict: HealthVerdict
    now: Now | None = None


class Lookout:
    """Looks at live enrichment for all who watch: one look at a time, and each serves for two seconds. Connections are
    kept from look to look."""

    def __init__(self, open_resources: Callable[[], Resources]) -> None:
        self._make = open_resources
        self._lock = Lock()
        self._opened: tuple[Resources, KeptConnection, BacklogWatch] | None = None
        self._shown: tuple[float, Shown] | None = None

    def show(self) -> Shown:
        """What is to be shown now."""
        with self._lock:
            if self._shown is None or time.monotonic() - self._shown[0] > FRESH_SECONDS:
                shown = self._look()
                self._shown = time.monotonic(), shown
            return self._shown[1]

    def _look(self) -> Shown:
        try:
            r, kept, watch = self._opened = self._opened or self._open()
            now = look(kept.live(), watch, r.kafka_config, r.settings)
        except (psycopg.Error, SettingsError) as failed:
            log.warning("page.no_figures error=%s", failed)
            self.close()
            return Shown(unknown(failed))
        return Shown(judge(now, r.settings.service_levels), now)

    def _open(self) -> tuple[Resources, KeptConnection, BacklogWatch]:
        r = self._make()
        kept = KeptConnection(lambda: r.query_connection(PATIENCE_SECONDS))  # which may only read
        return r, kept, BacklogWatch(r.settings.kafka, PATIENCE_SECONDS)

    def close(self) -> None:
        """Close all connections; the next look opens others."""
        opened, self._opened = self._opened, None
        if opened is not None:
            _, kept, watch = opened
            kept.close()
            watch.close()


def routes(lookout: Lookout) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter()

    @router.get("/now")
    def now() -> Response:
        return as_json(lookout.show())

    return router
