"""The page's web application: the files of `include/page`, and what they show as JSON. Only people who may read the
live DAG see any of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psycopg
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse

from enrichment.inspection.asked import UNANSWERED, why_not_answered
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
from enrichment.page.scans import Scans
from enrichment.resources import Resources

log = logging.getLogger(__name__)

FILES = Path(__file__).parents[3] / "include" / "page"


def make_app(open_resources: Callable[[], Resources]) -> FastAPI:
    """The application. Every route asks for a person who is logged in and may read `stacklens_enrichment`; those that
    show what messages hold ask for more. Close its `state.scans` when it is no longer served."""
    app = FastAPI(title="StackLens", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[may_read()])
    for path in sorted(FILES.iterdir()):
        route = "/" if path.name == "index.html" else f"/{path.name}"
        app.add_api_route(route, _server(path), methods=["GET"], response_class=FileResponse)
    reader = Reader(open_resources)
    app.include_router(charts.routes())
    scans = app.state.scans = Scans(open_resources)
    tabs = [
        now.routes(now.Lookout(reader.open_resources)),
        history.routes(reader),
        content.routes(reader),
        batches.routes(reader, scans),
        dead_letters.routes(scans),
        partials.routes(reader),
        messages.routes(reader, scans),
        search.routes(reader, scans),
        redrives.routes(scans),
        preview.routes(scans),
    ]
    for routes in tabs:
        app.include_router(routes, prefix="/api")
    for unanswered in UNANSWERED:
        app.add_exception_handler(unanswered, _not_answered)
    app.add_exception_handler(psycopg.DataError, _no_value)
    return app


def _server(path: Path) -> Callable[[], FileResponse]:
    return lambda: FileResponse(path, headers={**HEADERS, "Cache-Control": "no-cache"})


def _no_value(_request: Request, refused: Exception) -> JSONResponse:
    """A parameter that no value of the database can be, such as a text with a NUL."""
    return JSONResponse({"detail": str(refused)}, status_code=422, headers={"Cache-Control": "no-store"})


def _not_answered(request: Request, failed: Exception) -> JSONResponse:
    """Something that the page reads from does not answer, or a setting keeps it from being asked."""
    said = why_not_answered(failed)
    log.warning("page.not_answered path=%s error=%s", request.url.path, said)
    return JSONResponse({"detail": said}, status_code=503, headers={"Cache-Control": "no-store"})
