"""The deployment files, as far as they can be checked without a Docker engine: names, paths, pins, secrets, scripts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from compose_spec import PyCompose
from psycopg.conninfo import make_conninfo

from enrichment.settings import ROOMS, KafkaSettings, ReplaySettings, load, variable
from include.local import kafka
from include.local.config import Config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()
COMPOSE: dict[str, Any] = msgspec.yaml.decode(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS = {variable(room, name) for room in ROOMS.values() for name in room.model_fields}

# Variables that neither our settings nor Airflow's options have, and who reads them.
OTHERS = {
    "AIRFLOW_ADMIN_PASSWORD": "the api-server's command, for its file of passwords",
    "AUTH_TYPE": "kafka-ui",
    "JAVA_OPTS": "kafka-ui",
    "KAFKA_CLUSTERS_0_BOOTSTRAPSERVERS": "kafka-ui",
    "KAFKA_CLUSTERS_0_NAME": "kafka-ui",
    "KAFKA_CLUSTERS_0_READONLY": "kafka-ui",
    "SPRING_SECURITY_USER_NAME": "kafka-ui",
    "SPRING_SECURITY_USER_PASSWORD": "kafka-ui",
    "AIRFLOW__CELERY__BROKER_URL": "the Celery provider, which only the image has",
    "AIRFLOW__CELERY__RESULT_BACKEND": "the Celery provider",
    "AIRFLOW__CELERY__WORKER_CONCURRENCY": "the Celery provider",
    "DUMB_INIT_SETSID": "the entrypoint of Airflow's image",
    "OMP_NUM_THREADS": "numpy",
    "PGHOST": "libpq, under enrichment.store",
    "PGUSER": "libpq, under enrichment.store",
    "PGPASSWORD": "libpq, under enrichment.store",
    "POSTGRES_DB": "the image postgres",
    "POSTGRES_PASSWORD": "the image postgres",
    "POSTGRES_USER": "the image postgres",
    "REDISCLI_AUTH": "redis-cli, and the command of redis",
    "USER_SERVICE_TOKEN": "include.user_service",
}
# Commands of Airflow's command line that a provider adds.
PROVIDED_COMMANDS = {"celery"}
DESCRIBE_AIRFLOW = """
import json
from airflow.cli.cli_parser import airflow_commands
from airflow.configuration import retrieve_configuration_description
described = retrieve_configuration_description()
options = [f"AIRFLOW__{s}__{name}".upper() for s in described for name in described[s]["options"]]
print(json.dumps({"options": options, "commands": [command.name for command in airflow_commands]}))
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The variables of Airflow's options, and the commands of its command line, from a process of its own."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    command = [sys.executable, "-c", DESCRIBE_AIRFLOW]
    described = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return {name: set(found) for name, found in json.loads(described).items()}


def interpolated(text: str, value: str = "secret") -> str:
    """A text as Compose gives it to a container: defaults for what has one, `value` for what must be set."""
    filled = re.sub(r"\$\{\w+:(-|\?)([^}]*)\}", lambda m: m[2] if m[1] == "-" else value, text)
    return filled.replace("$$", "$")


def environments() -> Iterator[tuple[str, str, str]]:
    """Service, name and value of each variable that the file sets."""
    for service, described in SERVICES.items():
        for name, value in described.get("environment", {}).items():
            yield service, name, value


def is_once(service: dict[str, Any]) -> bool:
    """Whether a service does something and ends."""
    return service.get("restart") == "no"


def words(service: dict[str, Any], key: str = "command") -> list[str]:
    """The words of a service's command."""
    return [interpolated(word) for word in service.get(key, [])]


def conforms(described: dict[str, Any]) -> bool:
    """Whether the Compose specification allows it; its reader knows no YAML anchors, so they are resolved before."""
    return bool(PyCompose.from_json(interpolated(json.dumps(described))))


def test_file_is_what_the_compose_specification_allows() -> None:
    """Every key and value is one that Compose knows."""
    assert conforms(COMPOSE)


@pytest.mark.parametrize(
    "wrong",
    [{"restart": "sometimes"}, {"helthcheck": {}}, {"depends_on": {"postgres": {"condition": "service_happy"}}}],
    ids=["value", "key", "condition"],
)
def test_specification_is_strict(wrong: dict[str, Any]) -> None:
    """A file with a mistake is refused, so that the test above says something."""
    with pytest.raises(ValueError, match=r"expected one of|does not start with"):
        conforms({**COMPOSE, "services": {**SERVICES, "kafka": {**SERVICES["kafka"], **wrong}}})


def test_every_variable_has_a_reader(airflow: dict[str, set[str]]) -> None:
    """No variable is misspelt: each is a setting of ours, an option or connection of Airflow, or in the list above."""
    settings = load()
    connections = (
        settings.kafka.conn_id,
        settings.pipeline.postgres_conn_id,
        settings.user.conn_id,
        settings.retention.metadata_conn_id,
    )
    known = SETTINGS | airflow["options"] | OTHERS.keys() | {f"AIRFLOW_CONN_{name.upper()}" for name in connections}
    assert {name for service, name, _ in environments() if service != "kafka"} - known == set()


def test_no_documented_variable_is_unused() -> None:
    """The list of other variables has only what the file sets."""
    assert OTHERS.keys() - {name for _, name, _ in environments()} == set()


def test_broker_is_configured_like_the_local_one(config: Config) -> None:
    """Where a broker's place does not matter, that of the file has the options of `make run`, and no others."""
    given = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for service, name, value in environments()
        if service == "kafka"
    }
    local = kafka.server_properties(config)
    placed = {"controller.quorum.voters", "listeners", "advertised.listeners", "log.dirs"}
    assert given.keys() - local.keys() == {"listener.security.protocol.map"}
    assert {name: value for name, value in given.items() if name in local.keys() - placed} == {
        name: value for name, value in local.items() if name not in placed
    }


def test_topics_are_those_of_the_settings() -> None:
    """The topics are made under the settings' names, as large as those of `make run`."""
    environment = SERVICES["kafka-topics"]["environment"]
    for name in ("input_topic", "output_topic", "dlq_topic"):
        assert interpolated(environment[variable(KafkaSettings, name)]) == KafkaSettings.model_fields[name].default
    for name in ("output_topic", "dlq_topic"):
        assert interpolated(environment[variable(ReplaySettings, name)]) == ReplaySettings.model_fields[name].default
    (script,) = words(SERVICES["kafka-topics"])
    created = re.findall(r'^create "\$\$?(\S+)" (\S+)$', script, re.MULTILINE)
    messages, letters = (f"max.message.bytes={size}" for size in (kafka.MESSAGE_BYTES, kafka.DEAD_LETTER_BYTES))
    assert created == [
        ("KAFKA_INPUT_TOPIC", messages),
        ("KAFKA_OUTPUT_TOPIC", messages),
        ("KAFKA_DLQ_TOPIC", letters),
        (KafkaSettings(dlq_topic="KAFKA_DLQ_TOPIC").redriven_topic, "cleanup.policy=compact"),
        ("REPLAY_OUTPUT_TOPIC", messages),
        ("REPLAY_DLQ_TOPIC", letters),
    ]
    assert f"--partitions {kafka.PARTITIONS} " in script


def test_connections_are_json() -> None:
    """Each connection is what Airflow reads, whatever the secrets."""
    connections = [value for _, name, value in environments() if name.startswith("AIRFLOW_CONN_")]
    assert connections
    assert all(json.loads(interpolated(value))["conn_type"] for value in connections)


def test_secrets_have_no_default() -> None:
    """A secret that is empty is refused wherever it is used, none is written out, and all else has a default."""
    secret = re.compile("PASSWORD|SECRET|TOKEN|KEY|CLI_AUTH")
    found = re.findall(r"(?<!\$)\$\{?(\w+)([^}\s\"]*)", TEXT)
    assert found
    assert [name for name, rest in found if not rest.startswith(":?" if secret.search(name) else ":-")] == []
    given = [(name, value) for _, name, value in environments() if secret.search(name) and not name.endswith("_FILE")]
    assert [name for name, value in given if not value.startswith("${")] == []


def test_env_example_names_every_secret_and_nothing_unknown() -> None:
    """The example has each secret, empty, and otherwise only variables that the file or the settings read."""
    given = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", ENV_EXAMPLE, re.MULTILINE))
    secrets = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert {name for name, value in given.items() if name in secrets and not value} == secrets
    assert given.keys() - set(re.findall(r"\$\{(\w+)", TEXT)) - SETTINGS == set()


def test_ports_are_bound_to_this_machine() -> None:
    """Nothing can be reached from another machine unless somebody asks for it."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not interpolated(port).startswith("127.0.0.1:")] == []


def test_images_are_pinned() -> None:
    """Each image has a whole version; that of Airflow has the version of the constraints."""
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    images = [service["image"] for service in SERVICES.values()]
    assert [image for image in images + bases if not re.search(r":\D*\d+\.\d+", image)] == []
    (version,) = re.findall(r"^apache-airflow==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert all(version in image for image in bases)
    assert {image for image in images if image.startswith("stacklens")} == {f"stacklens-enrichment:{version}"}
    assert f"apache/kafka:{kafka.VERSION}" in images


def test_mounts_exist() -> None:
    """Each mounted path is in the repository, each named volume is declared and used."""
    sources = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert [source for source in sources if source.startswith(".") and not (ROOT / source).exists()] == []
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])


def test_dockerfile_copies_what_exists_and_drops_root() -> None:
    """Each copied path exists, and the image's processes are not root's."""
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert [path for line in copied for path in line.split() if not (ROOT / path).exists()] == []
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "airflow"
    assert [name for name, service in SERVICES.items() if "user" in service] == []


def test_commands_exist(airflow: dict[str, set[str]]) -> None:
    """Each command of Airflow and each Python module that a container runs is there; each Python text is Python."""
    known = airflow["commands"] | PROVIDED_COMMANDS
    of_airflow = [service for service in SERVICES.values() if service["image"].startswith("stacklens")]
    first = {words(service)[0] for service in of_airflow}
    assert first - known == {"bash", "python"}
    scripts = [" ".join(words(service)) for service in of_airflow]
    assert {command for script in scripts for command in re.findall(r"exec airflow (\S+)", script)} <= known
    modules = {module for script in scripts for module in re.findall(r"python -m (\S+)", script)}
    assert modules
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []
    for service in of_airflow:
        test = service["healthcheck"].get("test", [])
        if test[1:3] == ["python", "-c"]:
            compile(interpolated(test[3]), "healthcheck", "exec")


def test_every_service_says_how_it_is_and_what_it_may_take() -> None:
    """Whatever keeps running has a health check, whatever runs at all has ceilings."""
    assert [name for name, s in SERVICES.items() if not is_once(s) and not s.get("healthcheck", {}).get("test")] == []
    limits = {name: service["deploy"]["resources"]["limits"].keys() for name, service in SERVICES.items()}
    assert all(names == {"cpus", "memory"} for names in limits.values())


def test_start_waits_for_health_or_success() -> None:
    """Nothing starts before what it needs is healthy, or has done its work where it ends by itself."""
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            condition = "service_completed_successfully" if is_once(SERVICES[needed]) else "service_healthy"
            assert how == {"condition": condition}


def test_scheduler_starts_last() -> None:
    """The scheduler starts tasks, so all that they need is up by then."""
    needed, waiting = set[str](), ["airflow-scheduler"]
    while waiting:
        more = SERVICES[waiting.pop()].get("depends_on", {}).keys() - needed
        needed |= more
        waiting += more
    assert SERVICES.keys() - needed == {"airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "kafka-ui"}


@pytest.mark.parametrize("name", ["kafka-topics", "airflow-api-server"])
def test_script_is_bash(name: str) -> None:
    """Each script of the file is one that bash can read."""
    script = words(SERVICES[name])[-1]
    checked = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_password_file_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    """The api-server's script writes the login as Airflow reads it, whatever characters the password has."""
    file, password = tmp_path / "passwords.json", 'a "quoted" $word\'s'
    script = words(SERVICES["airflow-api-server"])[-1].replace("exec airflow api-server", "true")
    environment = {
        **os.environ,
        "AIRFLOW_ADMIN_PASSWORD": password,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(file),
    }
    subprocess.run(["bash", "-euc", script], env=environment, check=True)
    assert json.loads(file.read_text()) == {"admin": password}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_schema_command_makes_the_database_and_may_run_again(make_empty_database: Callable[[], str]) -> None:
    """The command of `postgres-schema`, run as it is written: the database, its schema and the demonstration's data."""
    uri = make_empty_database()
    with psycopg.connect(uri, autocommit=True) as admin:
        server = admin.info
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "plugins"),
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": server.user,
            "PGPASSWORD": server.password,
        }
        command = [sys.executable, *words(SERVICES["postgres-schema"])[1:]]
        try:
            for _ in range(2):
                subprocess.run(command, env=environment, check=True, timeout=120)
            with psycopg.connect(make_conninfo(uri, dbname="stacklens")) as made:
                found = made.execute("SELECT count(*) FROM demo_requests WHERE request_id = 'req-789'").fetchone()
                jobs = made.execute("SELECT count(*) FROM enrichment_jobs").fetchone()
            assert (found, jobs) == ((1,), (0,))
        finally:
            admin.execute("DROP DATABASE IF EXISTS stacklens")
