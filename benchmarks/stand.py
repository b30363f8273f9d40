"""The stand of the measurements: a local stack of their own, beside that of `make run`, and what works on it.

What is measured in this process needs Kafka, PostgreSQL and the user-profile service; Airflow is not started for it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from threading import Event

import psycopg
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from enrichment.batch import OffsetRange
from enrichment.conservation.committed import log_ranges
from enrichment.enrichers.registry import REGISTRY
from enrichment.resources import Resources
from enrichment.settings import Settings, load, rooms
from enrichment.sources.connections import HttpEndpoint
from enrichment.variables import variable
from include.local import airflow, config, kafka, leftovers, ports, postgres, users
from include.local.config import HOST, Config
from include.local.credentials import load_or_create
from include.local.stack import LocalStack, Stack
from include.local.steps import Steps
from include.local.supervision import Supervisor

# Servers of yours are for your messages: what is measured is emptied and refilled.
NOT_OURS = (
    "KAFKA_BOOTSTRAP_SERVERS", "STACKLENS_DATABASE_URL", "USER_SERVICE_URL", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
)  # fmt: skip
PORT_DISTANCE = 1_000  # from those of `make run`


@dataclass(frozen=True)
class Stand:
    """Servers that run, the settings, and the ranges of the input topic that hold the backlog."""

    bootstrap_servers: str
    dsn: str
    user_service_url: str
    settings: Settings
    config: Config
    broker_pid: int
    backlog: tuple[OffsetRange, ...] = ()

    @property
    def messages(self) -> int:
        """Messages in the backlog: its topic has no gaps."""
        return sum(r.span for r in self.backlog)

    def with_backlog(self) -> Stand:
        """The same stand, once the input topic is filled."""
        held = log_ranges(self.bootstrap_servers, self.settings.kafka.input_topic)
        return replace(self, backlog=tuple(held))

    def with_topic(self, topic: str) -> Stand:
        """The same stand with another input topic, which is created."""
        other = self.settings.kafka.model_copy(update={"input_topic": topic})
        kafka.create_topics(self.bootstrap_servers, other)
        return replace(self, settings=replace(self.settings, kafka=other))

    @contextmanager
    def outputs(self, name: str) -> Iterator[Settings]:
        """Settings with a group and output topics of their own, which are gone afterwards: the backlog is all to do."""
        topics = {"output_topic": f"bench-{name}-analytics", "dlq_topic": f"bench-{name}-dlq"}
        own = self.settings.kafka.model_copy(update={"consumer_group": f"bench-{name}", **topics})
        kafka.create_topics(self.bootstrap_servers, own)
        try:
            yield replace(self.settings, kafka=own)
        finally:
            admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
            for gone in admin.delete_topics(list(topics.values()), operation_timeout=30).values():
                gone.result()

    def resources(self, settings: Settings) -> Resources:
        """What a task works with; memory caches are empty."""
        return Resources(
            settings,
            kafka_config=lambda: {"bootstrap.servers": self.bootstrap_servers},
            postgres_parameters=lambda: conninfo_to_dict(self.dsn),
            http_endpoint=lambda _conn_id, _setting: HttpEndpoint(self.user_service_url),
            staging_root=lambda: self.config.directory / "staging",
        )

    def empty_caches(self, key: str | None = None) -> None:
        """Forget all that lookups have ever answered, or the answers for one field of a message."""
        emptied = [e for e in REGISTRY.enrichers if key in (None, e.key)]
        with psycopg.connect(self.dsn) as connection:
            tables = SQL(", ").join(Identifier(name) for e in emptied for name in (e.table, *e.dependents))
            connection.execute(SQL("TRUNCATE {}").format(tables))


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of a stack of our own: a directory inside that of `make run`, and the next free ports."""
    usual = config.load({name: environ[name] for name in ("LOCAL_DIR",) if name in environ})
    own: dict[str, str] = {}
    for port in config.DEFAULT_PORTS.values():
        wanted = (str(n) for n in count(port.number + PORT_DISTANCE) if ports.is_free(n))
        own[port.variable] = next(number for number in wanted if number not in own.values())
    kept = {name: value for name, value in environ.items() if name not in NOT_OURS}
    return {**kept, **own, "LOCAL_DIR": str(usual.directory / "bench")}


def remove(environ: Mapping[str, str]) -> None:
    """End what an interrupted run has left, and remove its files."""
    found = config.load(environ)
    leftovers.end(found.directory, Supervisor(found).session_file)
    shutil.rmtree(found.directory, ignore_errors=True)


@contextmanager
def services(environ: Mapping[str, str], steps: Steps) -> Iterator[Stand]:
    """Kafka with its topics, PostgreSQL with schema and business data, and the user-profile service, for the block."""
    found = config.load(environ)
    # Where the files of the Airflow that our own processes import would go, which nobody needs.
    os.environ["AIRFLOW_HOME"] = str(found.directory / "airflow")
    credentials = load_or_create(found.directory)
    addresses = airflow.Addresses(
        bootstrap_servers=f"{HOST}:{found.port('kafka')}",
        stacklens=postgres.url(found, credentials, "stacklens"),
        airflow=postgres.url(found, credentials, "airflow"),
        user_service=users.url(found),
    )
    supervisor = Supervisor(found)
    programs = (postgres.program(found), kafka.program(found), users.program(found))
    with steps.step("files of PostgreSQL and Kafka"):
        postgres.prepare(found, credentials)
        kafka.prepare(found)
    try:
        with steps.step("PostgreSQL, Kafka, user-profile service"):
            supervisor.start(programs, airflow.environment(found, credentials, addresses, environ))
            ready = (
                lambda: postgres.ready(postgres.url(found, credentials, "postgres")),
                lambda: kafka.ready(addresses.bootstrap_servers),
                lambda: users.ready(addresses.user_service),
            )
            for program, answers in zip(programs, ready, strict=True):
                supervisor.launch(program, answers, Event())
            postgres.create_databases(found, credentials)
            postgres.apply_schema(addresses.stacklens)
            settings = load()
            kafka.create_topics(addresses.bootstrap_servers, settings.kafka)
        broker = supervisor.state(programs[1]).pid
        yield Stand(addresses.bootstrap_servers, addresses.stacklens, addresses.user_service, settings, found, broker)
    finally:
        supervisor.stop()
        leftovers.end(found.directory, supervisor.session_file)


@contextmanager
def whole_stack(environ: Mapping[str, str], steps: Steps) -> Iterator[tuple[LocalStack, Stack]]:
    """The same services and Airflow, for the block."""
    local = LocalStack(config.load(environ), environ, steps)
    try:
        yield local, local.up()
    finally:
        with steps.step("stopping"):
            local.down()


def changed_settings() -> dict[str, str]:
    """The settings that are not at their defaults, by the names of their variables."""
    settings = load()
    return {
        variable(room, name): str(getattr(settings.room(key), name))
        for key, room in rooms().items()
        for name, field in room.model_fields.items()
        if getattr(settings.room(key), name) != field.default
    }


def span(ranges: Sequence[OffsetRange]) -> int:
    """Messages in ranges without gaps."""
    return sum(r.span for r in ranges)
