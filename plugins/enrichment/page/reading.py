"""What the tabs of the page read from, and who may: one request at a time, bounded, and nothing that can write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, Response

from enrichment.databases import Connection
from enrichment.health.remedies import LIVE_DAG
from enrichment.resources import Resources

# Whoever looks wants to know within seconds, and above all when something does not answer.
PATIENCE_SECONDS = 2.0
# What a browser may load: the page's own files, and Airflow's API. Charts set the style of their elements themselves.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
}


def may_read() -> Any:
    """The right to see the page: that of reading the live DAG."""
    return Depends(requires_access_dag(method="GET", param_dag_id=LIVE_DAG))


def may_read_messages() -> Any:
    """The right to see what messages hold: that of reading the live DAG's task logs, where such things may stand."""
    logs = DagAccessEntity.TASK_LOGS
    return Depends(requires_access_dag(method="GET", access_entity=logs, param_dag_id=LIVE_DAG))


def as_json(shown: Any) -> Response:
    """Any struct as JSON that no cache keeps."""
    return encoded(msgspec.json.encode(shown))


def encoded(json: bytes) -> Response:
    """The same of what is JSON already."""
    return Response(json, media_type="application/json", headers={**HEADERS, "Cache-Control": "no-store"})


class Reader:
    """Opens for a request what it reads."""

    def __init__(self, open_resources: Callable[[], Resources]) -> None:
        self.open_resources = open_resources

    @contextmanager
    def resources(self) -> Iterator[Resources]:
        """Settings, Kafka's clients and the enrichments' sources. Raises `SettingsError` where a setting is wrong."""
        with self.open_resources() as opened:
            yield opened

    @contextmanager
    def connection(self, seconds: float = PATIENCE_SECONDS) -> Iterator[Connection]:
        """A connection that can only read, within a transaction; each statement may take `seconds`. Raises
        `psycopg.Error` when the database does not answer."""
        with self.open_resources() as opened, opened.query_connection(seconds) as connection, connection.transaction():
            yield connection
