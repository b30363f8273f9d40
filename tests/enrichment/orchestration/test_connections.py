"""Airflow's PostgreSQL connections as libpq's parameters."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from enrichment.databases import Limits, connect
from enrichment.sources.airflow_connections import postgres_parameters

URI = "postgres://who:p%40ss@db.example.com:6543/logs?sslmode=require&connect_timeout=3"


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (URI, {"host": "db.example.com", "port": 6543, "user": "who", "password": "p@ss", "dbname": "logs",
               "sslmode": "require", "connect_timeout": "3"}),
        ({"host": "a,b", "extra": {"target_session_attrs": "read-write", "cursor": "dictcursor", "iam": False}},
         {"host": "a,b", "target_session_attrs": "read-write"}),
        ({"host": "a", "extra": {"cursor": "realdictcursor", "options": "-c search_path=stacklens"}},
         {"host": "a", "options": "-c search_path=stacklens"}),
    ],
    ids=["uri", "cursor", "cursor-of-psycopg2"],
)  # fmt: skip
def test_connection_is_read_as_its_provider_documents_it(
    monkeypatch: pytest.MonkeyPatch, connection: Any, expected: dict[str, Any]
) -> None:
    """Address and extra go to libpq; what is for users of Airflow's hook does not."""
    given = connection if isinstance(connection, str) else json.dumps({"conn_type": "postgres", **connection})
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_STACKLENS", given)
    found = {name: value for name, value in postgres_parameters("postgres_stacklens").items() if value is not None}
    assert found == expected


def test_connection_of_airflow_opens(monkeypatch: pytest.MonkeyPatch, postgres_uri: str) -> None:
    """From the variable to an answer, whatever cursor the connection wants."""
    server = conninfo_to_dict(postgres_uri)
    given = {
        "conn_type": "postgres", "host": server["host"], "login": server["user"], "schema": server["dbname"],
        "extra": {"cursor": "dictcursor", "application_name": "ours", "keepalives_idle": 20},
    }  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_STACKLENS", json.dumps(given))
    with (
        closing(connect(postgres_parameters("postgres_stacklens"), Limits(2, 2, 2))) as connection,
        connection.transaction(),
    ):
        said = connection.execute("SELECT current_setting('application_name'), 1").fetchall()
    assert said == [("ours", 1)]
