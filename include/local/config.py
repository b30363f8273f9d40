"""Where the local stack keeps its things, which ports it uses, and what of it is replaced by servers of your own.

Everything comes from environment variables with defaults; `load()` reads them once. All that the stack makes is below
`LOCAL_DIR` (default `.local`), except the downloaded jars, which are worth keeping over a `make clean`.

A stack that was started has its ports and servers in a file, `remember()`ed: it keeps its ports until others are named,
and commands about it (`recall()`) need not be told again where it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from include.local.credentials import write_private
from include.local.errors import StackError

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
MARKER = "STACKLENS_LOCAL"  # in the environment of every process of the stack: the directory that it belongs to
START_TIMEOUT, START_SECONDS = "LOCAL_START_TIMEOUT_SEC", 600.0
SERVERS = ("bootstrap_servers", "stacklens_url", "airflow_database_url", "user_service_url")


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
    """The local stack's settings. A server of your own is given by its address; None: the stack starts one.

    A component that is being started is waited for while it makes progress, `start_seconds` at most.
    """

    directory: Path
    cache: Path
    ports: Mapping[str, Port]
    start_seconds: float = START_SECONDS
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
    directory = (ROOT / (environ.get("LOCAL_DIR") or ".local")).resolve()
    last = ports_used_last(directory)
    return Config(
        directory=directory,
        cache=cache_home / "stacklens",
        ports={name: _port(port, environ.get(port.variable), last.get(name)) for name, port in DEFAULT_PORTS.items()},
        start_seconds=_seconds(environ.get(START_TIMEOUT)),
        bootstrap_servers=environ.get("KAFKA_BOOTSTRAP_SERVERS") or None,
        stacklens_url=environ.get("STACKLENS_DATABASE_URL") or None,
        airflow_database_url=environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN") or None,
        user_service_url=environ.get("USER_SERVICE_URL") or None,
    )


def recall(environ: Mapping[str, str]) -> Config:
    """The configuration that the stack was started with last; that of the variables where none was."""
    config = load(environ)
    known = _remembered(config.directory)
    if not known:
        return config
    ports = {name: replace(port, number=known["ports"].get(name, port.number)) for name, port in config.ports.items()}
    return replace(config, ports=ports, **{name: known[name] for name in SERVERS})


def remember(config: Config) -> None:
    """Keep what `recall` needs in a file of its owner's: the address of a server may hold a password."""
    known = {name: value for name, value in asdict(config).items() if name in SERVERS}
    ports = {name: port.number for name, port in config.ports.items()}
    write_private(config.directory / "stack.json", json.dumps({"ports": ports, **known}, indent=2))


def ports_used_last(directory: Path) -> dict[str, int]:
    """The number of each port, by its name in `DEFAULT_PORTS`; empty where no stack was started yet."""
    ports: dict[str, int] = _remembered(directory).get("ports", {})
    return ports


def _remembered(directory: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((directory / "stack.json").read_text())
    except FileNotFoundError:
        return {}
    return known


def _port(default: Port, value: str | None, last: int | None) -> Port:
    if not value:
        return replace(default, number=last or default.number)
    if not value.isdecimal() or not 0 < int(value) < 2**16:
        raise StackError(f"{default.variable}={value!r}: a port is a number from 1 to 65535")
    return replace(default, number=int(value))


def _seconds(value: str | None) -> float:
    if not value:
        return START_SECONDS
    if not value.isdecimal() or not int(value):
        raise StackError(f"{START_TIMEOUT}={value!r}: seconds are a whole number from 1")
    return float(value)
