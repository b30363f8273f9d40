"""The components as programs under `supervisord`: its configuration, and a client to start, watch and stop them.

supervisord is a daemon of its own, so the components outlive the command that starts them, and a component that ends by
itself is started again. It runs in a session of its own, by which `leftovers` finds what outlives it.
"""

from __future__ import annotations

import configparser
import getpass
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from include.local.config import ROOT, Config, Port
from include.local.errors import ComponentDied, StackError, tail
from include.local.patience import Patience

# Groups in the order in which they are stopped, and the seconds until what still runs is killed. The scheduler passes
# the signal on to its tasks and waits for them; they can still report to Airflow's API, and abort what is in Kafka.
SCHEDULER, AIRFLOW, SERVICES = "scheduling", "airflow", "services"
STOP_SECONDS = {SCHEDULER: 8, AIRFLOW: 5, SERVICES: 20}
POLL_SECONDS = 0.1
SUPERVISORD_SECONDS = 60  # for supervisord itself, which does next to nothing when it starts
SOCKET_PATH_MAX = 90  # the kernel allows 107 bytes; supervisord binds to a longer temporary name first
UP = {"STARTING", "RUNNING"}


@dataclass(frozen=True, slots=True)
class Program:
    """A component that is one process and its children. `user` is the system user that it runs as, None for ours."""

    name: str
    group: str
    command: tuple[str, ...]
    ports: tuple[Port, ...] = ()
    stop_signal: str = "TERM"
    user: str | None = None

    @property
    def full_name(self) -> str:
        """The name that supervisord knows it by."""
        return f"{self.group}:{self.name}"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What supervisord says of a program: its word for the state (`RUNNING`, `FATAL`, ...) and its process, or 0."""

    word: str
    pid: int


STOPPED = ProcessState("STOPPED", 0)


class Supervisor:
    """The supervisord of one stack."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = config.directory / "supervisor"
        self._socket_folder = self._folder / "socket-folder"

    @property
    def session_file(self) -> Path:
        """Holds the session id of the supervisord that was started last: also that of all its descendants."""
        return self._folder / "session"

    def start(self, programs: Sequence[Program], environment: Mapping[str, str]) -> None:
        """Start supervisord itself, with every program known and none started. Its environment is the programs' too."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_socket_folder()
        self._config.logs.mkdir(exist_ok=True)
        for log in self._config.logs.glob("*.log"):  # so that a log says what happened since the stack was started
            log.replace(f"{log}.old")
        configuration = self._folder / "supervisord.conf"
        with configuration.open("w") as file:
            self._configuration(programs).write(file)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        deadline = time.monotonic() + SUPERVISORD_SECONDS
        while not self.running():
            if ended.returncode or time.monotonic() > deadline:
                log = self._config.log("supervisord")
                raise StackError(f"supervisord did not start; its log is {log}\n{ended.stderr.strip()}\n{tail(log)}")
            time.sleep(POLL_SECONDS)
        self.session_file.write_text(str(self._call(lambda server: server.supervisor.getPID())))

    def running(self) -> bool:
        """Whether this stack's supervisord answers."""
        try:
            self._call(lambda server: server.supervisor.getState())
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def states(self) -> dict[str, ProcessState]:
        """The state of every program by its short name; empty when supervisord is not running."""
        try:
            found: list[dict[str, Any]] = self._call(lambda server: server.supervisor.getAllProcessInfo())
        except (OSError, xmlrpc.client.Error):
            return {}
        return {process["name"]: ProcessState(process["statename"], process["pid"]) for process in found}

    def state(self, program: Program) -> ProcessState:
        """The state of one program; stopped when supervisord is not running."""
        return self.states().get(program.name, STOPPED)

    def launch(
        self,
        program: Program,
        ready: Callable[[], bool],
        cancelled: Event,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Start a program, unless it is up already, and wait until it is `ready`, as long as it makes progress.

        Raises `ComponentDied` when its process ends, `StackError` when it is stuck or others have failed.
        """
        if self.state(program).word not in UP:
            self._call(lambda server: server.supervisor.startProcess(program.full_name, False))
        patience = Patience(program.name, self._config.log(program.name), self._config.start_seconds, say)
        last = self.state(program)
        while not ready():
            state = self.state(program)
            if state.word not in UP or (last.pid and state.pid != last.pid):
                raise ComponentDied(program.name, self._config.log(program.name))
            last = state
            if cancelled.is_set():
                raise StackError(f"{program.name} was not waited for: another component failed")
            patience.wait(state.pid)
            time.sleep(POLL_SECONDS)

    def stop(self, seconds: float = 90) -> None:
        """End every program, the scheduler first, then supervisord; returns when it is gone or the time is up."""
        try:
            pid = int(self.session_file.read_text())
            with suppress(xmlrpc.client.Fault):  # it is stopping already
                self._call(lambda server: server.supervisor.shutdown())
        except OSError:
            return
        # It stops answering before it has ended its programs, so it is the process that is waited for.
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(pid).wait(seconds)
        if self._socket_folder.exists():
            shutil.rmtree(self._socket_folder.read_text(), ignore_errors=True)
            self._socket_folder.unlink()

    def _call(self, method: Callable[[xmlrpc.client.ServerProxy], Any]) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket()}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
            return method(server)

    def _socket(self) -> Path:
        """Where supervisord listens. Raises `FileNotFoundError` when it needs a short folder and was never started."""
        usual = self._folder / "socket"
        return usual if len(str(usual)) <= SOCKET_PATH_MAX else Path(self._socket_folder.read_text()) / "socket"

    def _make_socket_folder(self) -> None:
        """A folder that is too deep for a socket gets a short one beside it, remembered in a file."""
        with suppress(FileNotFoundError):
            if self._socket().parent.is_dir():
                return
        self._socket_folder.write_text(tempfile.mkdtemp(prefix="stacklens-"))

    def _configuration(self, programs: Sequence[Program]) -> configparser.RawConfigParser:
        parser = configparser.RawConfigParser()
        parser.read_dict(
            {
                "unix_http_server": {"file": _literal(self._socket()), "chmod": "0700"},
                "supervisord": {
                    "logfile": _literal(self._config.log("supervisord")),
                    "pidfile": _literal(self._folder / "pid"),
                    "childlogdir": _literal(self._config.logs),
                    "directory": _literal(ROOT),
                    "user": getpass.getuser(),  # ours: as root it would ask to be told
                },
                "rpcinterface:supervisor": {
                    "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
                },
                **{f"program:{program.name}": self._section(program) for program in programs},
                **{f"group:{group}": _group(group, programs) for group in {program.group for program in programs}},
            }
        )
        return parser

    def _section(self, program: Program) -> dict[str, str]:
        section = {
            "command": _literal(shlex.join(program.command)),
            "autostart": "false",
            "autorestart": "true",
            "startretries": "1",
            "stopsignal": program.stop_signal,
            # PostgreSQL ends its own children, in order; told at the same time, they would look like crashes to it.
            "stopasgroup": str(program.group != SERVICES).lower(),
            "killasgroup": "true",
            "stopwaitsecs": str(STOP_SECONDS[program.group]),
            "redirect_stderr": "true",
            "stdout_logfile": _literal(_literal(self._config.log(program.name))),  # supervisord reads it twice
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": "2",
        }
        return section if program.user is None else {**section, "user": program.user}


def _group(group: str, programs: Sequence[Program]) -> dict[str, str]:
    members = ",".join(program.name for program in programs if program.group == group)
    return {"programs": members, "priority": str(-list(STOP_SECONDS).index(group))}  # the highest is stopped first


def _literal(value: object) -> str:
    """A value of supervisord's configuration in which `%` means itself."""
    return str(value).replace("%", "%%")
