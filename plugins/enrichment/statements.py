"""Runs named SQL statements on a connection, each in a transaction of its own: shared by the owners of the tables.

To group several statements, open a transaction around them.
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
        """The rows that a statement returns, in its order, each (a dict by column) converted to `row`.

        Raises `msgspec.ValidationError` for a record that does not fit.
        """
        with self._connection.transaction(), self._connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.load(statement), parameters)
            return [msgspec.convert(record, row, str_keys=True) for record in cursor]  # JSON's keys are texts

    def row(self, statement: str, row: type[Row], parameters: Mapping[str, Any]) -> Row | None:
        """The first row that a statement returns, or None."""
        return next(iter(self.rows(statement, row, parameters)), None)


def jsonb(value: Any) -> Jsonb:
    """A parameter of the type jsonb: anything that msgspec can encode."""
    return Jsonb(value, dumps=msgspec.json.encode)
