"""Bring the StackLens database up to the present schema, from a shell: `python -m enrichment.store --help`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from enrichment import sql
from enrichment.databases import connect
from enrichment.enrichers.tables import cache_tables
from enrichment.errors import SchemaError, SettingsError
from enrichment.settings import load
from enrichment.store.schema import LIMITS, apply_schema, create_database


def main() -> int:
    """Upgrade the database; on an error, say in one line what was wrong and exit with 1."""
    parser = argparse.ArgumentParser(prog="python -m enrichment.store", description=__doc__)
    parser.add_argument(
        "address",
        nargs="?",
        default="",
        help="postgresql://user@host:port/database; what is left out comes from libpq's variables (PGHOST ...)",
    )
    parser.add_argument("--connection", action="store_true", help="instead: that of Airflow's connection, as tasks do")
    parser.add_argument(
        "--create",
        metavar="DATABASE",
        nargs="?",
        const="",
        help="create the database first, if the server has none; a name here counts before that of the address",
    )
    parser.add_argument("--demo", action="store_true", help="put the demonstration's business data into it, too")
    chosen = parser.parse_args()
    try:
        parameters = _from_airflow() if chosen.connection else conninfo_to_dict(chosen.address)
        if chosen.create:
            parameters |= {"dbname": chosen.create}
        if chosen.create is not None:
            _require(parameters)
        with connect(parameters, LIMITS) as connection:
            apply_schema(connection, cache_tables())
            if chosen.demo:
                with connection.transaction():
                    connection.execute(sql.load("demo/business"))
    except (psycopg.Error, SchemaError, SettingsError) as failed:
        notes = "".join(f" ({note})" for note in getattr(failed, "__notes__", []))
        sys.stderr.write(f"the schema was not applied: {failed}{notes}\n")
        return 1
    return 0


def _from_airflow() -> dict[str, Any]:
    from enrichment.sources.airflow_connections import database_parameters  # Airflow is needed only here

    return database_parameters(load().pipeline.postgres_conn_id)


def _require(parameters: dict[str, Any]) -> None:
    """Create the database where the server has none. A user of an existing one needs no right to create it."""
    if not parameters.get("dbname"):
        raise SettingsError("--create: the address names no database")
    try:
        connect(parameters, LIMITS).close()
    except psycopg.OperationalError:  # its error does not say why; an error of the server appears again below
        with connect(parameters | {"dbname": "postgres"}, LIMITS) as server:
            create_database(server, parameters["dbname"])


if __name__ == "__main__":
    sys.exit(main())
