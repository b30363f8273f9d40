"""Takes a connection, leaves the database with the objects of `include/sql/schema.sql`."""

from __future__ import annotations

from typing import Any

import psycopg

from enrichment import sql


def apply_schema(connection: psycopg.Connection[Any]) -> None:
    """Create what is missing; harmless when all is there, and when two sessions do it at once (the second waits).

    All or nothing: one transaction. Raises `psycopg.Error` when the server refuses.
    """
    with connection.transaction():
        connection.execute(sql.load("schema"))
