"""The statements of tables' owners: one transaction each, records as values, jsonb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.pq import TransactionStatus

from enrichment import sql
from enrichment.statements import Statements, jsonb

Connection = psycopg.Connection[Any]

STATEMENTS = {
    "add": "INSERT INTO noted (name, counts) SELECT unnest(%(names)s::text[]), %(counts)s",
    "find": "SELECT name, counts FROM noted WHERE name LIKE %(like)s AND name NOT LIKE '%%c' ORDER BY name",
    "fail": "INSERT INTO noted (name) SELECT 'z' || 1 / %(divisor)s",
}


class Note(msgspec.Struct, frozen=True):
    """A record: JSON's keys are numbers here."""

    name: str
    counts: dict[int, int]


@pytest.fixture
def statements(postgres_connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Statements:
    """Those of a table that is gone with its session."""
    (tmp_path / "noted").mkdir()
    for name, text in STATEMENTS.items():
        (tmp_path / "noted" / f"{name}.sql").write_text(text)
    monkeypatch.setenv(sql.FOLDER_VARIABLE, str(tmp_path))
    postgres_connection.execute("CREATE TEMPORARY TABLE noted (name text, counts jsonb)")
    return Statements(postgres_connection)


def add(statements: Statements, *names: str) -> int:
    """Add notes with the same counts; a struct is as good as a dict."""
    return statements.execute("noted/add", {"names": list(names), "counts": jsonb(Note("", {1: 2}).counts)})


def test_execute_returns_how_many_rows_it_changed(statements: Statements) -> None:
    """Rows are counted, none is 0."""
    assert add(statements, "a", "b") == 2
    assert add(statements) == 0


def test_rows_are_values_in_their_order(statements: Statements) -> None:
    """Each record is converted, whatever JSON's keys are; what is no such value is refused."""
    add(statements, "b", "a", "c")
    found = statements.rows("noted/find", Note, {"like": "%"})
    assert found == [Note("a", {1: 2}), Note("b", {1: 2})]
    with pytest.raises(msgspec.ValidationError):
        statements.rows("noted/find", dict[str, int], {"like": "%"})


def test_row_is_none_when_nothing_is_found(statements: Statements) -> None:
    """The first record, or None."""
    add(statements, "b", "a")
    assert statements.row("noted/find", Note, {"like": "%"}) == Note("a", {1: 2})
    assert statements.row("noted/find", Note, {"like": "z"}) is None


def test_each_statement_is_a_transaction_of_its_own(statements: Statements, postgres_connection: Connection) -> None:
    """One that fails leaves the connection usable and those before it done, also on a connection without autocommit."""
    postgres_connection.autocommit = False
    add(statements, "a")
    with pytest.raises(psycopg.errors.DivisionByZero):
        statements.execute("noted/fail", {"divisor": 0})
    assert postgres_connection.info.transaction_status == TransactionStatus.IDLE
    assert statements.rows("noted/find", Note, {"like": "%"}) == [Note("a", {1: 2})]
    assert postgres_connection.info.transaction_status == TransactionStatus.IDLE


def test_statements_are_part_of_the_transaction_that_groups_them(
    statements: Statements, postgres_connection: Connection
) -> None:
    """Within somebody's transaction all of them are undone together."""
    with postgres_connection.transaction(force_rollback=True):
        add(statements, "a")
        assert statements.row("noted/find", Note, {"like": "a"}) is not None
    assert statements.row("noted/find", Note, {"like": "a"}) is None


def test_jsonb_takes_what_msgspec_encodes() -> None:
    """Values of ours go into a column as they are."""
    wrapped = jsonb([Note("a", {1: 2})])
    assert wrapped.dumps is not None
    assert wrapped.dumps(wrapped.obj) == b'[{"name":"a","counts":{"1":2}}]'
