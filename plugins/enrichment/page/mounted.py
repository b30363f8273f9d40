"""The page as Airflow's API server mounts it. Its application is made by a thread when the server starts: neither the
start nor whoever looks first waits for what it imports, and no request of a task."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Lock, Thread
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:
    from enrichment.resources import Resources

log = logging.getLogger(__name__)


class MountedPage:
    """Makes the application once, and passes requests on to it."""

    def __init__(self, open_resources: Callable[[], Resources]) -> None:
        self._open_resources = open_resources
        self._lock = Lock()
        self._app: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app = await asyncio.to_thread(self.app) if self._app is None else self._app
        await app(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """What Airflow has happen at the start and the end of the API server, and in no other process."""
        Thread(target=self.prepare, daemon=True, name="stacklens-page").start()
        yield
        if self._app is not None:
            self._app.state.scans.close()

    def prepare(self) -> None:
        """Import all that a first request needs. No server is connected to: what does not answer can wait for somebody
        who looks, and says so then."""
        try:
            self.app()
            with self._open_resources() as r:
                r.kafka_config()
                r.postgres_parameters()
        except Exception as failed:  # noqa: BLE001  the first request fails likewise, where somebody sees it
            log.info("page.not_prepared error=%s", failed)

    def app(self) -> FastAPI:
        """The application."""
        from enrichment.page.app import make_app

        with self._lock:
            if self._app is None:
                self._app = make_app(self._open_resources)
            return self._app


def mounted(open_resources: Callable[[], Resources]) -> FastAPI:
    """An application for Airflow to mount, with a lifespan that Airflow follows."""
    page = MountedPage(open_resources)
    app = FastAPI(title="StackLens", lifespan=page.lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/", page)
    return app
