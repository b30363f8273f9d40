"""The StackLens page of Airflow's UI: a small web application that only people who may read the live DAG see.

Files of `include/page` in, with what they show as JSON. It reads, with limits of time and rows; it changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import msgspec
import psycopg
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, Response
from fastapi.responses import FileResponse

from enrichment.databases import KeptConnection
from enrichment.errors import SettingsError
from enrichment.group.watch import BacklogWatch
from enrichment.health.now import Now, look
from enrichment.health.verdict import LIVE_DAG, HealthVerdict, judge, unknown
from enrichment.orchestration.common import open_resources
from enrichment.resources import Resources

log = logging.getLogger(__name__)

FILES = Path(__file__).parents[3] / "include" / "page"
# What a browser may load: the page's own files, and Airflow's API, which it asks whether the DAG is paused.
HEADERS = {"Content-Security-Policy": "default-src 'self'; frame-ancestors 'self'", "X-Content-Type-Options": "nosniff"}
FRESH_SECONDS = 2.0
# Whoever looks wants to know within five seconds, and above all when something does not answer.
PATIENCE_SECONDS = 2.0


class Shown(msgspec.Struct, frozen=True):
    """What the page shows of a moment; `now` is missing where the database does not answer."""

    verdict: HealthVerdict
    now: Now | None = None


class Pipeline:
    """Looks at live enrichment for all who watch: one look at a time, and each serves for two seconds. Connections are
    kept from look to look."""

    def __init__(self, open_resources: Callable[[], Resources] = open_resources) -> None:
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


def make_app(pipeline: Pipeline) -> FastAPI:
    """The application. Every route asks for a person who is logged in and may read `stacklens_enrichment`."""
    may_read = Depends(requires_access_dag(method="GET", param_dag_id=LIVE_DAG))
    app = FastAPI(title="StackLens", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[may_read])

    def serve(name: str) -> Callable[[], FileResponse]:
        return lambda: FileResponse(FILES / name, headers={**HEADERS, "Cache-Control": "no-cache"})

    for path, name in {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}.items():
        app.add_api_route(path, serve(name), methods=["GET"], response_class=FileResponse)

    @app.get("/api/now")
    def now() -> Response:
        content = msgspec.json.encode(pipeline.show())
        return Response(content, media_type="application/json", headers={**HEADERS, "Cache-Control": "no-store"})

    return app
