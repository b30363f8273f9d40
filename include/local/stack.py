r"""The local stack as a whole: start it, say how it is, stop it.

The components start side by side as far as what they need allows:

    PostgreSQL -> databases -> Airflow's metadata -> API server, DAG processor, triggerer \
                           \-> our schema, business data ------------------------------- -> scheduler
    Kafka -> topics, user-profile service ---------------------------------------------- /
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event

from enrichment.settings import Settings, rooms
from include.local import airflow, kafka, leftovers, ports, postgres, users
from include.local.airflow_api import AirflowApi
from include.local.checks import checked_settings
from include.local.config import Config, ports_used_last, remember
from include.local.credentials import Credentials, load_or_create, write_private
from include.local.errors import StackError
from include.local.steps import Steps
from include.local.supervision import STOPPED, UP, Program, Supervisor

# Tasks of replays at once; what somebody has set is left alone.
REPLAY_SLOTS = 4
# Variables that make a running stack another one.
WATCHED = ("AIRFLOW", "STACKLENS_", *(room.model_config["env_prefix"] for room in rooms().values()))


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that is up: where its servers are, and the environment for `airflow` commands on it."""

    bootstrap_servers: str
    stacklens_dsn: str
    airflow_url: str
    airflow_user: str
    airflow_password: str
    user_service_url: str
    environment: dict[str, str]
    directory: Path


class LocalStack:
    """The stack that these settings describe, running or not."""

    def __init__(self, config: Config, environ: Mapping[str, str], steps: Steps) -> None:
        self._config = config
        self._environ = environ
        self._steps = steps
        self._supervisor = Supervisor(config)
        self._health = airflow.Health(config)
        self._cancelled = Event()

    def up(self) -> Stack:
        """Start what is not running and wait until all is well; harmless on a stack that is up.

        Raises `StackError` when a port is taken or a component fails; what this call started is stopped again then.
        """
        settings = checked_settings()
        with self._locked():
            credentials = load_or_create(self._config.directory)
            addresses = self._addresses(credentials)
            environment = self._environment(credentials)
            programs = self._programs()
            fresh = self._supervise(programs, environment)
            try:
                self._start(programs, credentials, addresses, environment, settings)
            except BaseException:
                if fresh:
                    with self._steps.step("stopping what was started"):
                        self._end()
                raise
        return Stack(
            bootstrap_servers=addresses.bootstrap_servers,
            stacklens_dsn=addresses.stacklens,
            airflow_url=airflow.url(self._config),
            airflow_user=airflow.USER,
            airflow_password=credentials.airflow_password,
            user_service_url=addresses.user_service,
            environment=environment,
            directory=self._config.directory,
        )

    def airflow_environment(self) -> dict[str, str]:
        """The environment of an `airflow` command on this stack. Raises `StackError` when the stack does not run."""
        self._require_running()
        return self._environment(load_or_create(self._config.directory))

    def addresses(self) -> airflow.Addresses:
        """Where the servers of this stack are. Raises `StackError` when it does not run."""
        self._require_running()
        return self._addresses(load_or_create(self._config.directory))

    def _require_running(self) -> None:
        if not self._supervisor.running():
            raise StackError(f"no stack runs in {self._config.directory}: `make up` starts it")

    def down(self) -> int:
        """Stop everything; returns how many processes had to be ended beyond the supervisor's own."""
        if not self._config.directory.exists():
            return 0
        with self._locked():
            return self._end()

    def status(self) -> list[tuple[Program, str, int]]:
        """Each component with the word for its state (`RUNNING`, `STOPPED`, ...) and its process id, 0 if none."""
        found = [(program, self._supervisor.state(program)) for program in self._programs()]
        return [(program, state.word, state.pid) for program, state in found]

    def leftovers(self) -> int:
        """How many processes of a stack there are whose supervisor is gone."""
        if self._supervisor.running():
            return 0
        return len(leftovers.find(self._config.directory, self._supervisor.session_file))

    def _programs(self) -> list[Program]:
        config = self._config
        return [
            *([postgres.program(config)] if config.starts_postgres else []),
            *([] if config.bootstrap_servers else [kafka.program(config)]),
            *([] if config.user_service_url else [users.program(config)]),
            *airflow.programs(config),
        ]

    def _environment(self, credentials: Credentials) -> dict[str, str]:
        return airflow.environment(self._config, credentials, self._addresses(credentials), self._environ)

    def _addresses(self, credentials: Credentials) -> airflow.Addresses:
        config, own = self._config, partial(postgres.url, self._config, credentials)
        return airflow.Addresses(
            bootstrap_servers=config.bootstrap_servers or f"127.0.0.1:{config.port('kafka')}",
            stacklens=config.stacklens_url or own("stacklens"),
            airflow=config.airflow_database_url or own("airflow").replace("postgresql://", "postgresql+psycopg2://"),
            user_service=config.user_service_url or users.url(config),
        )

    def _supervise(self, programs: list[Program], environment: Mapping[str, str]) -> bool:
        """Have a supervisord with this environment; returns whether it is a new one."""
        record = self._config.directory / "environment.json"
        ports_now = {port.variable: port.number for port in self._config.ports.values()}
        digests = {name: _digest(value) for name, value in environment.items() if name.startswith(WATCHED)}
        digests |= {name: _digest(str(number)) for name, number in ports_now.items()}
        if self._supervisor.running():
            before = json.loads(record.read_text()) if record.exists() else {}
            changed = sorted(name for name in digests.keys() | before.keys() if digests.get(name) != before.get(name))
            if not changed:
                return False
            # Before it is stopped: a stack that runs is not given up for one that cannot.
            own = ports_used_last(self._config.directory).values()
            ports.require_free(port for program in programs for port in program.ports if port.number not in own)
            with self._steps.step(f"stopping, to start anew: {', '.join(changed)} changed"):
                self._end()
        leftovers.end(self._config.directory, self._supervisor.session_file)
        ports.require_free(port for program in programs for port in program.ports)
        self._supervisor.start(programs, environment)
        write_private(record, json.dumps(digests, indent=2))
        remember(self._config)
        return True

    def _start(
        self,
        programs: list[Program],
        credentials: Credentials,
        addresses: airflow.Addresses,
        environment: Mapping[str, str],
        settings: Settings,
    ) -> None:
        by_name = {program.name: program for program in programs}
        with ThreadPoolExecutor() as pool:
            databases = pool.submit(self._databases, by_name.get("postgres"), credentials)
            schema = pool.submit(self._schema, databases, addresses)
            broker = pool.submit(self._broker, by_name.get("kafka"), addresses, settings)
            profiles = pool.submit(self._profiles, by_name.get("user-service"), addresses)
            migrated = pool.submit(self._metadata, databases, credentials, environment)
            needs = {"scheduler": [migrated, schema, broker, profiles]}
            components = [
                pool.submit(self._component, by_name[name], needs.get(name, [migrated])) for name in airflow.COMPONENTS
            ]
            ready = pool.submit(self._airflow, migrated, components)
            self._await([databases, schema, broker, profiles, migrated, *components, ready])
        with self._steps.step("pool of the replays"):
            api = AirflowApi(airflow.url(self._config), airflow.USER, credentials.airflow_password)
            api.ensure_pool(settings.replay.pool, REPLAY_SLOTS, "no more tasks of replays at once than this")

    def _await(self, futures: list[Future[None]]) -> None:
        """Wait for all; at the first failure tell the others to stop waiting, and raise it."""
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            self._cancelled.set()

    def _launch(self, program: Program, ready: Callable[[], bool]) -> None:
        with self._steps.step(program.name):
            self._supervisor.launch(program, ready, self._cancelled, self._steps.say)

    def _databases(self, server: Program | None, credentials: Credentials) -> None:
        if server is None:
            return
        with self._steps.step("PostgreSQL's data directory"):
            postgres.prepare(self._config, credentials)
        address = postgres.url(self._config, credentials, "postgres")
        self._launch(server, lambda: postgres.ready(address))
        postgres.create_databases(self._config, credentials)

    def _schema(self, databases: Future[None], addresses: airflow.Addresses) -> None:
        databases.result()
        with self._steps.step("schema and business data"):
            postgres.apply_schema(addresses.stacklens)

    def _broker(self, server: Program | None, addresses: airflow.Addresses, settings: Settings) -> None:
        if server is not None:
            with self._steps.step("Kafka's jars and storage"):
                kafka.prepare(self._config)
            self._launch(server, lambda: kafka.ready(addresses.bootstrap_servers))
        elif not kafka.ready(addresses.bootstrap_servers):
            raise StackError(f"KAFKA_BOOTSTRAP_SERVERS={addresses.bootstrap_servers}: no broker answers there")
        with self._steps.step("topics"):
            unfit = kafka.create_topics(addresses.bootstrap_servers, settings.kafka, settings.replay)
        for text in unfit:
            self._steps.warn(text)

    def _profiles(self, server: Program | None, addresses: airflow.Addresses) -> None:
        if server is not None:
            self._launch(server, lambda: users.ready(addresses.user_service))
        elif not users.ready(addresses.user_service):
            raise StackError(f"USER_SERVICE_URL={addresses.user_service}: nothing answers at /health there")

    def _metadata(self, databases: Future[None], credentials: Credentials, environment: Mapping[str, str]) -> None:
        databases.result()
        if not self._supervisor.states().get("scheduler", STOPPED).pid:
            with self._steps.step("Airflow's metadata"):
                airflow.prepare(self._config, credentials, environment)

    def _component(self, program: Program, needs: list[Future[None]]) -> None:
        for need in needs:
            need.result()
        running = self._supervisor.state(program).word in UP
        started_at = datetime.min.replace(tzinfo=UTC) if running else datetime.now(UTC)
        is_ready = partial(self._health.ready, program.name, started_at)
        self._supervisor.launch(program, is_ready, self._cancelled, self._steps.say)

    def _airflow(self, migrated: Future[None], components: list[Future[None]]) -> None:
        """All components in one step: each is known to be well when the API server says so, which is the slowest."""
        migrated.result()
        with self._steps.step(f"Airflow: {', '.join(airflow.COMPONENTS)}"):
            for component in components:
                component.result()

    def _end(self) -> int:
        self._supervisor.stop()
        return leftovers.end(self._config.directory, self._supervisor.session_file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time may start or stop things."""
        self._config.directory.mkdir(parents=True, exist_ok=True)
        with (self._config.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as held:
                raise StackError("another command is starting or stopping this stack: wait for it") from held
            yield


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
