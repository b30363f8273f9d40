"""The page's web application: the files of `include/page`, and what they show as JSON. Only people who may read the
live DAG see any of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psycopg
from confluent_kafka import KafkaException
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse

from enrichment.errors import EnrichmentError
from enrichment.kafka.asking import text_of
from enrichment.page import (
    batches,
    charts,
    content,
    dead_letters,
    history,
    messages,
    now,
    partials,
    preview,
    redrives,
    search,
)
from enrichment.page.reading import HEADERS, Reader, may_read
from enrichment.page.scans import Slots
from enrichment.resources import Resources

log = logging.getLogger(__name__)

FILES = Path(__file__).parents[3] / "include" / "page"


def make_app(open_resources: Callable[[], Resources]) -> FastAPI:
    """The application. Every route asks for a person who is logged in and may read `stacklens_enrichment`; those that
    show what messages hold ask for more."""
    app = FastAPI(title="StackLens", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[may_read()])
    for path in sorted(FILES.iterdir()):
        route = "/" if path.name == "index.html" else f"/{path.name}"
        app.add_api_route(route, _server(path), methods=["GET"], response_class=FileResponse)
    reader = Reader(open_resources)
    app.include_router(charts.routes())
    slots = Slots()
    tabs = [
        now.routes(now.Lookout(reader.open_resources)),
        history.routes(reader),
        content.routes(reader),
        batches.routes(reader),
        dead_letters.routes(reader),
        partials.routes(reader),
        messages.routes(reader, slots),
        search.routes(reader, slots),
        redrives.routes(reader, slots),
        preview.routes(reader, slots),
    ]
    for routes in tabs:
        app.include_router(routes, prefix="/api")
    app.add_exception_handler(psycopg.Error, _not_answered)
    app.add_exception_handler(KafkaException, _not_answered)
    app.add_exception_handler(EnrichmentError, _not_answered)
    return app


def _server(path: Path) -> Callable[[], FileResponse]:
    return lambda: FileResponse(path, headers={**HEADERS, "Cache-Control": "no-cache"})


def _not_answered(request: Request, failed: Exception) -> JSONResponse:
    """Something that the page reads from does not answer, or a setting keeps it from being asked."""
    log.warning("page.not_answered path=%s error=%s", request.url.path, failed)
    what = {psycopg.Error: "PostgreSQL: ", KafkaException: "Kafka: "}
    said = next((name for kind, name in what.items() if isinstance(failed, kind)), "")
    return JSONResponse({"detail": f"{said}{text_of(failed)}"}, status_code=503, headers={"Cache-Control": "no-store"})
