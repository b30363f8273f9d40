"""Airflow's four components, and the environment that they and every `airflow` command of the stack run in.

Airflow is configured by environment variables alone. Those of yours that begin with `AIRFLOW__` or `AIRFLOW_CONN_` win
over the stack's, except where they would point it to another project's files or ports.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import psycopg
import requests
from psycopg.conninfo import conninfo_to_dict

from include.local.config import HOST, MARKER, ROOT, Config
from include.local.credentials import Credentials, write_private
from include.local.errors import StackError, tail
from include.local.supervision import AIRFLOW, SCHEDULER, Program

USER = "admin"
# The scheduler comes last: what it starts needs all others. Logs need no server where all read the same folder.
COMPONENTS = {
    "api-server": (),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
    "scheduler": ("--skip-serve-logs",),
}
HEALTH_SECONDS = 0.5
# What Airflow's UI looks like: airflow.cfg.example says why.
_GREYS = {"solid": "500"} | {shade: shade for shade in ("fg", "muted", "subtle", "emphasized", "focusRing")}
_SKIPPED = {f"--chakra-colors-skipped-{n}": f"var(--chakra-colors-neutral-{g}) !important" for n, g in _GREYS.items()}
THEME = {"globalCss": {":root": _SKIPPED}}
OVERRIDABLE = ("AIRFLOW__", "AIRFLOW_CONN_", "AIRFLOW_VAR_")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers are that Airflow's tasks talk to; the databases as `postgresql://` URLs."""

    bootstrap_servers: str
    stacklens: str
    airflow: str
    user_service: str


def programs(config: Config) -> list[Program]:
    """The components, in the order in which they are started."""
    ports = {"api-server": (config.ports["airflow"],)}
    groups = {"scheduler": SCHEDULER}
    airflow = (sys.executable, "-m", "airflow")
    return [
        Program(name, groups.get(name, AIRFLOW), (*airflow, name, *arguments), ports.get(name, ()))
        for name, arguments in COMPONENTS.items()
    ]


def url(config: Config) -> str:
    """Where Airflow's UI and API are."""
    return f"http://{HOST}:{config.port('airflow')}"


def environment(
    config: Config, credentials: Credentials, addresses: Addresses, environ: Mapping[str, str]
) -> dict[str, str]:
    """The whole environment of the stack's processes: `environ`, our settings, and yours where they may win."""
    yours = {name: value for name, value in environ.items() if name.startswith(OVERRIDABLE)}
    local = {HOST, "localhost"} | {name for name in environ.get("NO_PROXY", "").split(",") if name}
    ours = {
        **_settings(credentials),
        **connections(addresses, environ.get("USER_SERVICE_TOKEN")),
        **api_connection(config, credentials),
        "ENRICHMENT_STAGING_URL": environ.get("ENRICHMENT_STAGING_URL") or f"file://{config.directory / 'staging'}",
        "GEO_IP_INSTALL_PATH": environ.get("GEO_IP_INSTALL_PATH") or str(config.directory / "geoip" / "City.mmdb"),
        "OMP_NUM_THREADS": "1",  # a thread pool would not survive the scheduler's forks
        "NO_PROXY": ",".join(sorted(local)),
        **yours,
        **_fixed(config, addresses),
    }
    search = (str(ROOT / "config"), str(ROOT / "plugins"), str(ROOT), environ.get("PYTHONPATH", ""))
    executables = (str(Path(sys.executable).parent), environ.get("PATH", os.defpath))
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, search)), "PATH": os.pathsep.join(executables)}
    # Without compiled code each process would compile Airflow anew when it starts: four seconds of it.
    inherited = {name: value for name, value in environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **ours, **paths, MARKER: str(config.directory)}


def connections(addresses: Addresses, token: str | None) -> dict[str, str]:
    """The pipeline's Airflow connections, as Airflow reads them from the environment. Airflow's own database is among
    them where it is PostgreSQL: tasks are told nothing else of it, and one cleans it."""
    dialect, _, rest = addresses.airflow.partition("://")
    own = {"AIRFLOW_METADATA": _postgres(f"postgresql://{rest}")} if dialect.startswith("postgres") else {}
    found = {
        "KAFKA_STACKLENS": {"conn_type": "kafka", "extra": {"bootstrap.servers": addresses.bootstrap_servers}},
        "POSTGRES_STACKLENS": _postgres(addresses.stacklens),
        "USER_SERVICE": {"conn_type": "http", "host": addresses.user_service, "password": token},
        **own,
    }
    return {f"AIRFLOW_CONN_{name}": json.dumps(connection) for name, connection in found.items()}


def api_connection(config: Config, credentials: Credentials) -> dict[str, str]:
    """The connection of Airflow's own API, by which tasks write warnings into the notes of their runs."""
    login = {"conn_type": "http", "host": url(config), "login": USER, "password": credentials.airflow_password}
    return {"AIRFLOW_CONN_AIRFLOW_API": json.dumps(login)}


def _postgres(address: str) -> dict[str, Any]:
    """A database's address as an Airflow connection."""
    database = conninfo_to_dict(address)
    names = {"host": "host", "port": "port", "user": "login", "password": "password", "dbname": "schema"}
    postgres: dict[str, Any] = {names[key]: value for key, value in database.items() if key in names}
    if "port" in postgres:
        postgres["port"] = int(postgres["port"])
    extra = {key: value for key, value in database.items() if key not in names}
    return {"conn_type": "postgres", **postgres, "extra": extra}


def prepare(config: Config, credentials: Credentials, environment: Mapping[str, str]) -> None:
    """Write the login and bring the metadata database up to date. Raises `StackError` with what Airflow said."""
    _home(config).mkdir(parents=True, exist_ok=True)
    write_private(_passwords(config), json.dumps({USER: credentials.airflow_password}))
    database = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    stamp = _home(config) / "migrated"
    if stamp.exists() and stamp.read_text() == _migration(database):
        return  # Airflow needs seconds to find that there is nothing to do
    log = config.log("airflow-db-migrate")
    with log.open("w") as output:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        ended = subprocess.run(command, env=environment, cwd=ROOT, stdout=output, stderr=output, check=False)
    if ended.returncode:
        raise StackError(f"`airflow db migrate` failed; its log is {log}\n{tail(log)}")
    stamp.write_text(_migration(database) or "")


class Health:
    """What Airflow says of its components. It is asked twice a second at most, however many want to know."""

    def __init__(self, config: Config) -> None:
        self._address = f"{url(config)}/api/v2/monitor/health"
        self._report: dict[str, Any] = {}
        self._asked_at = -math.inf
        self._lock = Lock()

    def ready(self, component: str, started_at: datetime) -> bool:
        """Whether a component says that it is well, and has said so since it was started."""
        report = self._ask()
        if component == "api-server":
            return bool(report)
        name = component.replace("-", "_")
        said = report.get(name, {})
        return (
            said.get("status") == "healthy" and datetime.fromisoformat(said[f"latest_{name}_heartbeat"]) >= started_at
        )

    def _ask(self) -> dict[str, Any]:
        with self._lock, requests.Session() as session:
            if time.monotonic() - self._asked_at > HEALTH_SECONDS:
                session.trust_env = False  # no proxy between us and this machine
                with suppress(requests.RequestException):
                    answer = session.get(self._address, timeout=10)
                    self._report = answer.json() if answer.ok else {}
                self._asked_at = time.monotonic()
            return self._report


def _migration(database: str) -> str | None:
    """The version of Airflow and that of its database; None when the database has none or we cannot look into it."""
    dialect, _, rest = database.partition("://")
    address = f"{dialect.partition('+')[0]}://{rest}"
    with suppress(psycopg.Error), psycopg.connect(address, connect_timeout=10) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return f"{version('apache-airflow-core')} {row[0]}" if row else None
    return None


def _home(config: Config) -> Path:
    return config.directory / "airflow"


def _passwords(config: Config) -> Path:
    return _home(config) / "passwords.json"


def _settings(credentials: Credentials) -> dict[str, str]:
    """What may be changed by a variable of the same name."""
    return {
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "24",  # fewer, and workers closing a task hold back the next
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__FERNET_KEY": credentials.fernet_key,
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__THEME": json.dumps(THEME),
        "AIRFLOW__API__SECRET_KEY": credentials.jwt_secret,
        "AIRFLOW__API_AUTH__JWT_SECRET": credentials.jwt_secret,
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # seconds that a worker may stay taken by a task that ended
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",  # the pause between two tasks of a run
        # DAG files that were not changed are read this often (seconds); changed ones at once.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        # How soon a killed task, worker or scheduler is noticed: airflow.cfg.example says what each is.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
    }


def _fixed(config: Config, addresses: Addresses) -> dict[str, str]:
    """What makes it this project on this machine."""
    return {
        "AIRFLOW_HOME": str(_home(config)),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords(config)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url(config)}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": addresses.airflow,
        "AIRFLOW__API__PORT": str(config.port("airflow")),
        "AIRFLOW__API__BASE_URL": url(config),
    }
