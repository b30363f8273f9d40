"""The files of BokehJS, which plots are drawn with: they come in the wheel of the package bokeh."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from enrichment.page.reading import HEADERS, as_json

FILES = ("bokeh.min.js", "bokeh-api.min.js")  # in the order in which a page loads them
# An address holds the version: what it names never changes. Only for this browser: others have to log in.
KEPT = {**HEADERS, "Cache-Control": "private, max-age=31536000, immutable"}


def folder() -> Path:
    """Where the files are. The package itself is not imported: that takes a second."""
    spec = find_spec("bokeh")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package bokeh is not installed: see requirements.txt")
    return Path(spec.origin).parent / "server" / "static" / "js"


def _server(path: Path) -> Callable[[], FileResponse]:
    return lambda: FileResponse(path, headers=KEPT)


def routes() -> APIRouter:
    """The files, and their addresses as JSON, relative to the page."""
    router = APIRouter()
    addresses = [f"bokeh/{version('bokeh')}/{name}" for name in FILES]
    for name, address in zip(FILES, addresses, strict=True):
        router.add_api_route(f"/{address}", _server(folder() / name), methods=["GET"], response_class=FileResponse)
    router.add_api_route("/api/charts", lambda: as_json(addresses), methods=["GET"])
    return router
