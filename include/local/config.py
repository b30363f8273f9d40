"""Where the local stack keeps its things, which ports it uses, and what of it is replaced by servers of your own.

Everything comes from environment variables with defaults; `load()` reads them once. All that the stack makes is below
`LOCAL_DIR` (default `.local`), except the downloaded jars, which are worth keeping over a `make clean`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from include.local.errors import StackError

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
MARKER = "STACKLENS_LOCAL"  # in the environment of every process of the stack: the directory that it belongs to


@dataclass(frozen=True, slots=True)
class Port:
    """A port that the stack listens on (127.0.0.1 only), and the variable that changes it."""

    variable: str
    number: int
    component: str


DEFAULT_PORTS = {
    "airflow": Port("AIRFLOW_PORT", 8080, "Airflow's UI and API"),
    "kafka": Port("KAFKA_PORT", 29092, "Kafka"),
    "kafka_controller": Port("KAFKA_CONTROLLER_PORT", 29093, "Kafka's controller"),
    "postgres": Port("POSTGRES_PORT", 25432, "PostgreSQL"),
    "user_service": Port("USER_SERVICE_PORT", 28081, "the user-profile service"),
}


@dataclass(frozen=True, slots=True)
class Config:
    """The local stack's settings. A server of your own is given by its address; None: the stack starts one."""

    directory: Path
    cache: Path
    ports: Mapping[str, Port]
    bootstrap_servers: str | None = None
    stacklens_url: str | None = None
    airflow_database_url: str | None = None
    user_service_url: str | None = None

    def port(self, name: str) -> int:
        """The number of the port called `name` in `DEFAULT_PORTS`."""
        return self.ports[name].number

    @property
    def starts_postgres(self) -> bool:
        """Whether one of the two databases is to be the stack's own."""
        return not (self.stacklens_url and self.airflow_database_url)

    @property
    def logs(self) -> Path:
        """The folder with a log for each component."""
        return self.directory / "logs"

    def log(self, component: str) -> Path:
        """Where a component's output goes."""
        return self.logs / f"{component}.log"


def load(environ: Mapping[str, str]) -> Config:
    """Read the variables. Raises `StackError` naming the one that has an unusable value."""
    cache_home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Config(
        directory=(ROOT / (environ.get("LOCAL_DIR") or ".local")).resolve(),
        cache=cache_home / "stacklens",
        ports={name: _port(port, environ.get(port.variable)) for name, port in DEFAULT_PORTS.items()},
        bootstrap_servers=environ.get("KAFKA_BOOTSTRAP_SERVERS") or None,
        stacklens_url=environ.get("STACKLENS_DATABASE_URL") or None,
        airflow_database_url=environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN") or None,
        user_service_url=environ.get("USER_SERVICE_URL") or None,
    )


def _port(default: Port, value: str | None) -> Port:
    if not value:
        return default
    if not value.isdecimal() or not 0 < int(value) < 2**16:
        raise StackError(f"{default.variable}={value!r}: a port is a number from 1 to 65535")
    return Port(default.variable, int(value), default.component)
