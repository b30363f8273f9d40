"""The deployment files, as far as they can be checked without starting anything: names, paths, pins, secrets, limits.

That the commands do what they should is for `tests/e2e/test_compose_natively.py`, which runs them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from compose_spec import PyCompose

from enrichment.enrichers.user import UserSettings
from enrichment.settings import load, load_room, rooms
from enrichment.variables import variable
from include.local import kafka
from include.local.config import HOST, Config
from tests.fixtures import compose

ROOT = Path(__file__).parents[2]
TEXT = compose.FILE.read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VARIABLES = compose.filled_in()
SECRETS = set(re.findall(r"\$\{(\w+):\?", TEXT))
COMPOSE = compose.resolve(VARIABLES)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS = {variable(room, name) for room in rooms().values() for name in room.model_fields}

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
    "CONNECTION_CHECK_MAX_COUNT": "the entrypoint of Airflow's image",
    "DUMB_INIT_SETSID": "dumb-init, under which Airflow's image runs",
    "OMP_NUM_THREADS": "numpy",
    "DEMONSTRATION": "the command of postgres-schema",
    "POSTGRES_DB": "the image postgres",
    "POSTGRES_PASSWORD": "the image postgres",
    "POSTGRES_USER": "the image postgres",
    "REDISCLI_AUTH": "redis-cli, in the health check of redis",
    "USER_SERVICE_TOKEN": "include.user_service",
}
DESCRIBE_AIRFLOW = """
import json
from airflow.configuration import retrieve_configuration_description
described = retrieve_configuration_description()
print(json.dumps([f"AIRFLOW__{s}__{name}".upper() for s in described for name in described[s]["options"]]))
"""


@pytest.fixture(scope="module")
def airflow_options(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The variables of Airflow's options, from a process of its own."""
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    command = [sys.executable, "-c", DESCRIBE_AIRFLOW]
    described = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return set(json.loads(described))


def environments() -> Iterator[tuple[str, str, str]]:
    """Service, name and value of each variable that the file sets."""
    for service, described in SERVICES.items():
        for name, value in described.get("environment", {}).items():
            yield service, name, value


def is_once(service: dict[str, Any]) -> bool:
    """Whether a service does something and ends."""
    return service.get("restart") == "no"


def conforms(described: dict[str, Any]) -> bool:
    """Whether the Compose specification allows it; its reader knows no YAML anchors, so they are resolved before."""
    return bool(PyCompose.from_json(json.dumps(described)))


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


def test_every_variable_has_a_reader(airflow_options: set[str]) -> None:
    """No variable is misspelt: each is a setting of ours, an option or connection of Airflow, or in the list above."""
    settings = load()
    connections = (
        settings.kafka.conn_id,
        settings.pipeline.postgres_conn_id,
        settings.pipeline.airflow_api_conn_id,
        load_room(UserSettings).conn_id,
        settings.retention.metadata_conn_id,
    )
    known = SETTINGS | airflow_options | OTHERS.keys() | {f"AIRFLOW_CONN_{name.upper()}" for name in connections}
    assert {name for service, name, _ in environments() if service != "kafka"} - known == set()


def test_no_documented_variable_is_unused() -> None:
    """The list of other variables has only what the file sets."""
    assert OTHERS.keys() - {name for _, name, _ in environments()} == set()


def test_broker_is_configured_like_the_local_one(config: Config) -> None:
    """Where a broker's place does not matter, that of the file has the options of `make run`, and no others."""
    given = {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for service, name, value in environments()
        if service == "kafka" and name != "KAFKA_HEAP_OPTS"  # for the Java runtime
    }
    local = kafka.server_properties(config)
    placed = {"controller.quorum.voters", "listeners", "advertised.listeners", "log.dirs"}
    assert given.keys() - local.keys() == {"listener.security.protocol.map"}
    assert {name: value for name, value in given.items() if name in local.keys() - placed} == {
        name: value for name, value in local.items() if name not in placed
    }


def test_secrets_have_no_default() -> None:
    """A secret is one of `.env` wherever it is used, none is written out, and all else has a default."""
    secret = re.compile("PASSWORD|SECRET|TOKEN|KEY|CLI_AUTH")
    found = re.findall(r"(?<!\$)\$\{?(\w+)([^}\s\"]*)", TEXT)
    assert found
    assert [name for name, rest in found if not rest.startswith(":?" if secret.search(name) else ":-")] == []
    given = [(name, value) for _, name, value in environments() if secret.search(name) and not name.endswith("_FILE")]
    assert [name for name, value in given if value not in VARIABLES.values()] == []


def test_env_example_names_every_secret_and_nothing_unknown() -> None:
    """The example has each secret, empty, and otherwise only variables that the file or the settings read."""
    given = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", compose.ENV_EXAMPLE.read_text(), re.MULTILINE))
    assert {name for name, value in given.items() if name in SECRETS and not value} == SECRETS
    assert given.keys() - set(re.findall(r"\$\{(\w+)", TEXT)) - SETTINGS == {"COMPOSE_PROFILES"}


def test_every_setting_may_stand_in_env() -> None:
    """What the file itself sets of the settings is only what they are where `.env` says nothing."""
    yours = {name: f"yours-{name}" for name in SETTINGS}
    services = compose.services({**VARIABLES, **yours})
    assert {
        (service, name): value
        for service, described in services.items()
        if service.startswith("airflow-")
        for name, value in described.environment.items()
        if name in SETTINGS and value != yours[name]
    } == {}


def test_servers_of_ones_own_take_the_place_of_the_bundled_ones() -> None:
    """Without a line of this file changed: those that are named are used by everybody, the bundled ones not started,
    the demonstration's tables not made."""
    yours = {
        "AIRFLOW_CONN_KAFKA_STACKLENS": '{"conn_type": "kafka", "extra": {"bootstrap.servers": "broker:9093"}}',
        "AIRFLOW_CONN_POSTGRES_STACKLENS": "postgresql://me:secret@database:5432/mine",
        "AIRFLOW_CONN_USER_SERVICE": "https://:token@users.example.com",
        "COMPOSE_PROFILES": "",
        "DEMONSTRATION": "",
    }
    services = compose.services({**VARIABLES, **yours})
    assert SERVICES.keys() - services.keys() == {"kafka", "kafka-ui", "user-service"}
    assert {needed for service in services.values() for needed in service.needs} <= services.keys()
    used = {name: {s.environment[name] for s in services.values() if name in s.environment} for name in yours}
    assert used == {name: {value} for name, value in yours.items()}
    assert "kafka:9092" not in str(services)
    for once, connection in {"kafka-topics": "KAFKA", "postgres-schema": "POSTGRES"}.items():
        assert "--connection" in " ".join(services[once].command)
        assert f"AIRFLOW_CONN_{connection}_STACKLENS" in services[once].environment


def test_bundled_servers_need_each_profile_of_the_example() -> None:
    """A profile that is misspelt would start nothing."""
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert set(VARIABLES["COMPOSE_PROFILES"].split(",")) == profiles


@pytest.mark.parametrize("secret", sorted(SECRETS))
def test_empty_secret_is_refused(secret: str) -> None:
    """Nothing starts without it, and what is said names it."""
    with pytest.raises(ValueError, match=f"{secret}: see .env.example"):
        compose.resolve({**VARIABLES, secret: ""})


def test_ports_are_bound_to_this_machine() -> None:
    """Nothing can be reached from another machine unless somebody asks for it."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


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


def test_nothing_of_ours_runs_as_root() -> None:
    """The image ends as Airflow's own user, and no service says otherwise."""
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "airflow"
    assert [name for name, service in SERVICES.items() if "user" in service] == []


def test_every_service_says_how_it_is_and_what_it_may_take() -> None:
    """Whatever keeps running has a health check, whatever runs at all has ceilings."""
    assert [name for name, s in SERVICES.items() if not is_once(s) and not s.get("healthcheck", {}).get("test")] == []
    limits = {name: service["deploy"]["resources"]["limits"].keys() for name, service in SERVICES.items()}
    assert all(names == {"cpus", "memory"} for names in limits.values())


def test_worker_has_room_for_its_tasks() -> None:
    """Two CPUs, and 512 MB for each task slot beside the gigabyte of the worker itself."""
    worker = SERVICES["airflow-worker"]
    limits = worker["deploy"]["resources"]["limits"]
    slots = int(worker["environment"]["AIRFLOW__CELERY__WORKER_CONCURRENCY"])
    assert float(limits["cpus"]) >= 2
    assert float(limits["memory"].removesuffix("G")) >= 1 + slots / 2


def test_worker_shares_the_files_of_airflow() -> None:
    """Frames are handed over, and logs found, in volumes that the worker has where the others of Airflow have them."""
    mounts = [service["volumes"] for name, service in SERVICES.items() if name.startswith("airflow-")]
    assert mounts
    assert all(mounted == SERVICES["airflow-worker"]["volumes"] for mounted in mounts)
    assert {"staging:/opt/airflow/staging", "logs:/opt/airflow/logs"} <= {*SERVICES["airflow-worker"]["volumes"]}


def test_start_waits_for_health_or_success() -> None:
    """Nothing starts before what it needs is healthy, or has done its work where it ends by itself."""
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            condition = "service_completed_successfully" if is_once(SERVICES[needed]) else "service_healthy"
            is_optional = SERVICES[needed].get("profiles", []) not in ([], service.get("profiles"))
            optional = {"required": False} if is_optional else {}
            assert how == {"condition": condition, **optional}


def test_scheduler_starts_last() -> None:
    """The scheduler starts tasks, so all that they need is up by then."""
    needed, waiting = set[str](), ["airflow-scheduler"]
    while waiting:
        more = SERVICES[waiting.pop()].get("depends_on", {}).keys() - needed
        needed |= more
        waiting += more
    assert SERVICES.keys() - needed == {"airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "kafka-ui"}


@pytest.mark.skipif(shutil.which("wget") is None, reason="wget, which Kafka UI's image has, is not on this machine")
@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_health_check_of_kafka_ui(status: int, *, healthy: bool) -> None:
    """Kafka UI, which does not run here, has one command in the file: it tells a page that answers from one that does
    not, at the place of Spring's health page."""

    class Page(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status if self.path == "/actuator/health" else 404)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()

    with HTTPServer((HOST, 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        kind, *command = SERVICES["kafka-ui"]["healthcheck"]["test"]
        placed = [word.replace(":8080", f":{server.server_port}") for word in command]
        ended = subprocess.run(placed, env={**os.environ, "no_proxy": HOST}, timeout=20, check=False)
        server.shutdown()
    assert (kind, ended.returncode == 0) == ("CMD", healthy)
