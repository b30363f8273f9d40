"""Takes a connection and the names of statements, runs each in a transaction of its own: what the tables' owners share.

What groups several statements in one transaction opens it itself, and executes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from enrichment import sql

Row = TypeVar("Row")


class Statements:
    """The statements of `include/sql` on one connection. Raises `psycopg.Error` when the database refuses one."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, parameters: Mapping[str, Any]) -> int:
        """Run a statement that changes rows; returns how many it did."""
        with self._connection.transaction():
            return self._connection.execute(sql.load(statement), parameters).rowcount

    def rows(self, statement: str, row: type[Row], parameters: Mapping[str, Any]) -> list[Row]:
        """What a statement finds, in its order, each record (a dict by column) converted to `row`.

        Raises `msgspec.ValidationError` for a record that is none.
        """
        with self._connection.transaction(), self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.load(statement), parameters)
            return [msgspec.convert(record, row, str_keys=True) for record in cursor]  # JSON's keys are texts

    def row(self, statement: str, row: type[Row], parameters: Mapping[str, Any]) -> Row | None:
        """The first that a statement finds, or None."""
        return next(iter(self.rows(statement, row, parameters)), None)


def jsonb(value: Any) -> Jsonb:
    """A parameter of the type jsonb: whatever msgspec can encode."""
    return Jsonb(value, dumps=msgspec.json.encode)
