"""Migrations: in order they make what schema.sql says, from any older schema, losing nothing, twice and at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from enrichment import sql
from enrichment.enrichers.business import BUSINESS
from enrichment.enrichers.geo import GEO
from enrichment.enrichers.tables import cache_table
from enrichment.enrichers.user import USER
from enrichment.errors import SchemaError
from enrichment.store.schema import apply_schema, migrations

# Those that `schema.sql` has, too.
CACHES = tuple(map(cache_table, (GEO, USER, BUSINESS)))

Connection = psycopg.Connection[Any]

FIRST = "migrations/0001_initial"
INSERT_JOB = """
    INSERT INTO enrichment_jobs (batch_id, dag_id, run_id, lane, topic, group_id, ranges, settings_fingerprint)
    VALUES ('b', 'dag', 'run', 0, 'in', 'group', '[{"partition": 0, "start": 0, "end": 9}]', '0')
"""
# Everything that a schema is made of, by name and definition. Where a column stands in its table says nothing.
CATALOGUE = """
    SELECT 'relation' AS kind, relname::text AS name, concat_ws(' ', relkind, relpersistence) AS definition,
           obj_description(oid, 'pg_class') AS comment
    FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'column', relname || '.' || attname,
           concat_ws(' ', format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
                     attcollation::regcollation, pg_get_expr(adbin, adrelid)),
           col_description(pg_class.oid, attnum)
    FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'v', 'm', 'p')
    UNION ALL
    SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid),
           obj_description(oid, 'pg_constraint')
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', indexrelid::regclass::text, pg_get_indexdef(indexrelid), obj_description(indexrelid, 'pg_class')
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'function', oid::regprocedure::text, pg_get_functiondef(oid), obj_description(oid, 'pg_proc')
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'view', oid::regclass::text, pg_get_viewdef(oid), obj_description(oid, 'pg_class')
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm')
    UNION ALL
    SELECT 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(oid), obj_description(oid, 'pg_trigger')
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'type', typname, concat_ws(' ', typtype, pg_get_constraintdef(pg_constraint.oid)),
           obj_description(pg_type.oid, 'pg_type')
    FROM pg_type LEFT JOIN pg_constraint ON contypid = pg_type.oid
    WHERE typnamespace = 'public'::regnamespace AND typtype IN ('d', 'e', 'r')
"""


@pytest.fixture
def empty(make_empty_database: Callable[[], str]) -> Iterator[Connection]:
    """A connection to a database with nothing in it."""
    with psycopg.connect(make_empty_database(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def sql_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of include/sql that the test may change; what was loaded from it is forgotten afterwards."""
    for file in sql.DEFAULT_FOLDER.rglob("*.sql"):
        copy = tmp_path / file.relative_to(sql.DEFAULT_FOLDER)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    monkeypatch.setenv(sql.FOLDER_VARIABLE, str(tmp_path))
    sql.load.cache_clear()
    yield tmp_path
    sql.load.cache_clear()


def run(connection: Connection, name: str) -> None:
    """Run a file as one transaction."""
    with connection.transaction():
        connection.execute(sql.load(name))


def catalogue(connection: Connection) -> dict[tuple[str, str], tuple[str, str]]:
    """Kind and name of each object to its definition and comment; the tool's own table is none of ours."""
    rows = connection.execute(CATALOGUE).fetchall()
    return {(kind, name): (text, comment) for kind, name, text, comment in rows if "schema_versions" not in name}


def versions(connection: Connection) -> list[str]:
    """The numbers that the database says were applied."""
    return [number for (number,) in connection.execute(sql.load("schema_versions/applied"))]


def version_table(connection: Connection) -> list[tuple[Any, ...]]:
    """The definitions of the tool's own table."""
    rows = connection.execute(CATALOGUE).fetchall()
    return sorted((kind, name, text) for kind, name, text, _ in rows if "schema_versions" in name)


def test_migrations_make_what_the_schema_says(empty: Connection, make_empty_database: Callable[[], str]) -> None:
    """Applied in order to an empty database, they leave the objects of schema.sql, definitions and comments alike."""
    with psycopg.connect(make_empty_database(), autocommit=True) as other:
        run(other, "schema")
        wanted = catalogue(other)
    apply_schema(empty, CACHES)
    made = catalogue(empty)
    assert made.keys() ^ wanted.keys() == set()
    assert {key: made[key] for key in wanted if made[key] != wanted[key]} == {}
    assert {kind for kind, _ in made} >= {"relation", "column", "constraint", "index", "function", "view", "trigger"}


def test_nothing_changes_when_applied_again(empty: Connection) -> None:
    """A second upgrade finds nothing to do: the same objects, rows and versions."""
    apply_schema(empty, CACHES)
    empty.execute(INSERT_JOB)
    before = catalogue(empty), versions(empty), empty.execute("SELECT xmin FROM schema_versions").fetchall()
    apply_schema(empty, CACHES)
    after = catalogue(empty), versions(empty), empty.execute("SELECT xmin FROM schema_versions").fetchall()
    assert after == before
    assert versions(empty) == [migration.number for migration in migrations()]
    assert empty.execute("SELECT batch_id FROM enrichment_jobs").fetchall() == [("b",)]


def test_each_file_is_safe_to_run_twice(empty: Connection) -> None:
    """Where a file's work is done already, running it again changes nothing."""
    for migration in migrations():
        run(empty, f"migrations/{migration.name}")
        once = catalogue(empty)
        run(empty, f"migrations/{migration.name}")
        assert catalogue(empty) == once, migration.name


def test_rows_survive_when_upgraded_from_the_oldest_schema(empty: Connection) -> None:
    """A database of the first release, made by its schema.sql without versions, is recognised and keeps its rows."""
    run(empty, FIRST)
    empty.execute(INSERT_JOB)
    empty.execute(
        "INSERT INTO geo_ip_cache (ip_address, state, city, fetched_at, expires_at)"
        " VALUES ('8.8.8.8', 'found', 'Mountain View', now(), now())"
    )
    empty.execute("SELECT record_enrichment_metric('b', 'drain', 9, 1.5)")
    apply_schema(empty, CACHES)
    assert versions(empty) == [migration.number for migration in migrations()]
    assert empty.execute("SELECT batch_id, state, purpose FROM enrichment_jobs").fetchall() == [("b", "claimed", {})]
    assert empty.execute("SELECT city FROM geo_ip_cache").fetchall() == [("Mountain View",)]
    assert empty.execute("SELECT stage, messages FROM enrichment_metrics").fetchall() == [("drain", 9)]
    assert empty.execute("SELECT action FROM enrichment_audit_log").fetchall() == [("INSERT",)]


def test_risks_pending_rows_and_builds_survive_when_upgraded_from_the_schema_before(
    empty: Connection,
) -> None:
    """Risks move to their own table, builds to the column for all enrichers, without a trace in the audit; what waits
    for its repair stays, and may name any source from then on. A second upgrade changes nothing."""
    for migration in migrations():
        if migration.number < "0018":
            run(empty, f"migrations/{migration.name}")
    for request, risk in [("scored", (0.25, "low", ["new-account"])), ("never scored", (None, None, None))]:
        empty.execute(
            "INSERT INTO business_context_cache (request_id, state, unit, risk_score, risk_level, fraud_indicators,"
            " fetched_at, expires_at, last_used_at)"
            " VALUES (%s, 'found', 'payments', %s, %s, %s, '2024-01-15Z', '2024-01-16Z', '2024-01-15T10:00Z')",
            [request, *risk],
        )
    empty.execute(INSERT_JOB)
    empty.execute(INSERT_JOB.replace("'b'", "'without a build'"))
    empty.execute("UPDATE enrichment_jobs SET geo_database_build = 'GeoLite2-City-1' WHERE batch_id = 'b'")
    empty.execute("INSERT INTO enrichment_pending (batch_id, source, topic, messages) VALUES ('b', 'geo-ip', 'out', 3)")
    audited = empty.execute("SELECT audit_id, changed_columns FROM enrichment_audit_log ORDER BY 1").fetchall()
    for _ in range(2):
        apply_schema(empty, CACHES)
        assert empty.execute("SELECT batch_id, source_builds FROM enrichment_jobs ORDER BY 1").fetchall() == [
            ("b", {"geo": "GeoLite2-City-1"}),
            ("without a build", {}),
        ]
        assert empty.execute(
            "SELECT request_id, risk_score, risk_level, fraud_indicators, scored_at = '2024-01-15T10:00Z'"
            " FROM business_risks"
        ).fetchall() == [("scored", 0.25, "low", ["new-account"], True)]
        assert empty.execute("SELECT request_id, unit FROM business_context_cache ORDER BY 1").fetchall() == [
            ("never scored", "payments"),
            ("scored", "payments"),
        ]
        assert empty.execute("SELECT risk_level, requests FROM v_business_risk_distribution").fetchall() == [("low", 1)]
        assert empty.execute("SELECT source, messages FROM enrichment_pending").fetchall() == [("geo-ip", 3)]
        assert (
            empty.execute("SELECT audit_id, changed_columns FROM enrichment_audit_log ORDER BY 1").fetchall() == audited
        )
    empty.execute("UPDATE enrichment_pending SET source = 'threat'")
    empty.execute("UPDATE enrichment_jobs SET state = 'failed' WHERE batch_id = 'b'")
    [(states,)] = empty.execute("SELECT count(*) FROM enrichment_audit_log WHERE new_state = 'failed'").fetchall()
    assert states == 1  # the trigger is at work again


def test_a_present_database_without_versions_is_recognised(empty: Connection) -> None:
    """One that was made by today's schema.sql directly ends up the same, with its versions written down."""
    run(empty, "schema")
    before = catalogue(empty)
    apply_schema(empty, CACHES)
    assert catalogue(empty) == before
    assert versions(empty) == [migration.number for migration in migrations()]


def test_an_emptied_version_table_is_filled_again(empty: Connection) -> None:
    """A version table that lost its rows counts as none."""
    apply_schema(empty, CACHES)
    empty.execute("TRUNCATE schema_versions")
    apply_schema(empty, CACHES)
    assert versions(empty) == [migration.number for migration in migrations()]


def test_the_version_table_is_as_alembic_makes_it(empty: Connection) -> None:
    """Databases of earlier releases have Alembic's own; a new one has the same."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(empty.info.dsn))
    options = {"version_table": "schema_versions", "fn": lambda *_: []}
    with engine.begin() as connection:
        MigrationContext.configure(connection, opts=options).run_migrations()
    engine.dispose()
    theirs = version_table(empty)
    empty.execute("DROP TABLE schema_versions")
    apply_schema(empty, CACHES)
    assert version_table(empty) == theirs


def test_all_sessions_succeed_when_several_upgrade_at_once(make_empty_database: Callable[[], str]) -> None:
    """The second session waits for the first, then finds nothing to do."""
    uri = make_empty_database()
    start = threading.Barrier(4)
    failures: list[Exception] = []

    def upgrade() -> None:
        with psycopg.connect(uri) as connection:
            start.wait()
            try:
                apply_schema(connection, CACHES)
            except psycopg.Error as error:
                failures.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(start.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with psycopg.connect(uri) as connection:
        assert versions(connection) == [migration.number for migration in migrations()]


def test_nothing_is_changed_when_a_file_fails(empty: Connection, sql_folder: Path) -> None:
    """All or nothing: a file that fails undoes those before it, and the error names it."""
    run(empty, FIRST)
    before = catalogue(empty)
    (sql_folder / "migrations" / "9000_broken.sql").write_text("CREATE TABLE new (id integer); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero) as failure:
        apply_schema(empty, CACHES)
    assert "migrations/9000_broken.sql" in " ".join(failure.value.__notes__)
    assert catalogue(empty) == before
    assert empty.execute(sql.load("schema_versions/exists")).fetchall() == [(False,)]


def test_a_late_file_is_applied_when_higher_numbers_already_were(empty: Connection, sql_folder: Path) -> None:
    """Numbers may have gaps, and a file that fills one later is applied then, where others passed it already."""
    (sql_folder / "migrations" / "9002_later.sql").write_text("CREATE TABLE IF NOT EXISTS later (id integer);")
    apply_schema(empty, CACHES)
    (sql_folder / "migrations" / "9001_earlier.sql").write_text("CREATE TABLE IF NOT EXISTS earlier (id integer);")
    apply_schema(empty, CACHES)
    assert versions(empty)[-2:] == ["9001", "9002"]
    assert empty.execute("SELECT to_regclass('earlier') IS NOT NULL").fetchall() == [(True,)]


def test_an_unknown_number_is_refused_when_the_database_has_it(empty: Connection, sql_folder: Path) -> None:
    """A database that a newer release upgraded, or whose file is missing, is left alone, and the number is named."""
    (sql_folder / "migrations" / "9000_newer.sql").write_text("CREATE TABLE newer (id integer);")
    apply_schema(empty, CACHES)
    (sql_folder / "migrations" / "9000_newer.sql").unlink()
    with pytest.raises(SchemaError, match="9000; a newer release"):
        apply_schema(empty, CACHES)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_initial", "0002_one", "0002_two"], "number 0002 twice, 0002_one and 0002_two"),
        (["0001_initial", "add_column"], r"add_column\.sql has no number"),
        (["0001_initial", "2_short"], r"2_short\.sql has no number"),
    ],
    ids=["twice", "none", "short"],
)
def test_a_number_is_refused_when_missing_or_twice(names: list[str], complaint: str) -> None:
    """Files whose order is not certain are refused, and the message names them."""
    with pytest.raises(SchemaError, match=complaint):
        migrations(names)


def test_command_says_what_is_wrong_when_it_fails(empty: Connection, sql_folder: Path) -> None:
    """`python -m enrichment.store` ends with 1 and one line that names the file."""
    (sql_folder / "migrations" / "9000_broken.sql").write_text("SELECT 1 / 0;")
    info = empty.info
    environment = {
        **os.environ,
        "PYTHONPATH": str(sql.DEFAULT_FOLDER.parents[1] / "plugins"),
        "PGHOST": info.host,
        "PGPORT": str(info.port),
        "PGUSER": info.user,
        "PGDATABASE": info.dbname,
    }
    command = [sys.executable, "-m", "enrichment.store"]
    failed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert failed.returncode == 1
    assert "division by zero (in include/sql/migrations/9000_broken.sql" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_command_makes_the_database_of_airflows_connection(empty: Connection) -> None:
    """`--connection --create --demo`, as the compose file has it: where there is none, with what is asked for in it.
    Run again, it changes nothing."""
    info, name = empty.info, f"made_{uuid.uuid4().hex[:8]}"
    connection = {"conn_type": "postgres", "host": info.host, "port": info.port, "login": info.user, "schema": name}
    environment = {
        **os.environ,
        "PYTHONPATH": str(sql.DEFAULT_FOLDER.parents[1] / "plugins"),
        "AIRFLOW_CONN_POSTGRES_STACKLENS": json.dumps(connection),
    }
    command = [sys.executable, "-m", "enrichment.store", "--connection", "--create", "--demo"]
    for _ in range(2):
        made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert made.returncode == 0, made.stderr
    with psycopg.connect(host=info.host, port=info.port, user=info.user, dbname=name) as connected:
        assert connected.execute("SELECT count(*) > 0 FROM demo_requests").fetchone() == (True,)
        assert connected.execute("SELECT count(*) FROM schema_versions").fetchone() == (len(migrations()),)
