"""Bring the StackLens database up to the present schema, from a shell: `python -m enrichment.store --help`."""

from __future__ import annotations

import argparse
import sys

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from enrichment import sql
from enrichment.databases import connect
from enrichment.errors import SchemaError, SettingsError
from enrichment.store.schema import LIMITS, apply_schema, create_database


def main() -> int:
    """Says in one line what was wrong, and exits with 1 then."""
    parser = argparse.ArgumentParser(prog="python -m enrichment.store", description=__doc__)
    parser.add_argument(
        "address",
        nargs="?",
        default="",
        help="postgresql://user@host:port/database; what is left out comes from libpq's variables (PGHOST ...)",
    )
    parser.add_argument("--create", metavar="DATABASE", help="create this database first, if the server has none")
    parser.add_argument("--demo", action="store_true", help="put the demonstration's business data into it, too")
    chosen = parser.parse_args()
    try:
        address = chosen.address
        if chosen.create:
            with connect(conninfo_to_dict(address, dbname="postgres"), LIMITS) as server:
                create_database(server, chosen.create)
            address = make_conninfo(address, dbname=chosen.create)
        with connect(conninfo_to_dict(address), LIMITS) as connection:
            apply_schema(connection)
            if chosen.demo:
                with connection.transaction():
                    connection.execute(sql.load("demo/business"))
    except (psycopg.Error, SchemaError, SettingsError) as failed:
        notes = "".join(f" ({note})" for note in getattr(failed, "__notes__", []))
        sys.stderr.write(f"the schema was not applied: {failed}{notes}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
