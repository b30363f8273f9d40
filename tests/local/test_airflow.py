"""The environment that Airflow's components run in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from include.local import airflow
from include.local.airflow import Addresses
from include.local.config import MARKER, ROOT, Config
from include.local.credentials import load_or_create

ADDRESSES = Addresses(
    bootstrap_servers="127.0.0.1:29092",
    stacklens="postgresql://postgres:p%40ss@127.0.0.1:25432/stacklens",
    airflow="postgresql+psycopg2://postgres:p@127.0.0.1:25432/airflow",
    user_service="http://127.0.0.1:28081",
)


def environment(config: Config, **environ: str) -> dict[str, str]:
    """The environment of a stack's processes, made from the given variables."""
    return airflow.environment(config, load_or_create(config.directory), ADDRESSES, environ)


def test_connections_when_read_as_json() -> None:
    """The connections say what the addresses say, quoted characters included."""
    found = {name: json.loads(value) for name, value in airflow.connections(ADDRESSES, "token").items()}
    assert found["AIRFLOW_CONN_KAFKA_STACKLENS"]["extra"] == {"bootstrap.servers": "127.0.0.1:29092"}
    assert found["AIRFLOW_CONN_POSTGRES_STACKLENS"] == {
        "conn_type": "postgres",
        "host": "127.0.0.1",
        "port": 25432,
        "login": "postgres",
        "password": "p@ss",
        "schema": "stacklens",
        "extra": {},
    }
    assert found["AIRFLOW_CONN_AIRFLOW_METADATA"] == {
        "conn_type": "postgres",
        "host": "127.0.0.1",
        "port": 25432,
        "login": "postgres",
        "password": "p",
        "schema": "airflow",
        "extra": {},
    }
    assert found["AIRFLOW_CONN_USER_SERVICE"] == {
        "conn_type": "http",
        "host": "http://127.0.0.1:28081",
        "password": "token",
    }


def test_connections_when_url_has_options() -> None:
    """Options of the database's URL are kept, as the connection's extras; a database of Airflow's that is none of
    PostgreSQL's gives no connection."""
    addresses = Addresses("b", "postgresql://h/d?sslmode=require", "mysql://h/d", "u")
    found = airflow.connections(addresses, None)
    assert "AIRFLOW_CONN_AIRFLOW_METADATA" not in found
    connection = json.loads(found["AIRFLOW_CONN_POSTGRES_STACKLENS"])
    assert connection["extra"] == {"sslmode": "require"}
    assert "port" not in connection


@pytest.mark.parametrize(
    ("name", "wins"),
    [
        pytest.param("AIRFLOW__CORE__PARALLELISM", True, id="a-setting"),
        pytest.param("AIRFLOW_CONN_USER_SERVICE", True, id="a-connection"),
        pytest.param("ENRICHMENT_STAGING_URL", True, id="the-staging-area"),
        pytest.param("GEO_IP_INSTALL_PATH", True, id="the-installed-geo-database"),
        pytest.param("AIRFLOW_HOME", False, id="another-home"),
        pytest.param("AIRFLOW__CORE__DAGS_FOLDER", False, id="another-project"),
        pytest.param("AIRFLOW__API__PORT", False, id="a-port"),
    ],
)
def test_environment_when_yours_differs(config: Config, name: str, wins: bool) -> None:
    """Your variables win over the stack's defaults, but do not lead it to another project's files or ports."""
    assert (environment(config, **{name: "yours"})[name] == "yours") is wins


def test_environment_when_inherited(config: Config) -> None:
    """The rest of the environment is kept, and the processes are marked as this stack's."""
    found = environment(config, PATH="/usr/bin", PYTHONPATH="/theirs", KAFKA_BATCH_SIZE="7")
    assert found["KAFKA_BATCH_SIZE"] == "7"
    assert found[MARKER] == str(config.directory)
    assert found["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
    assert found["PYTHONPATH"].split(os.pathsep)[-2:] == [str(ROOT), "/theirs"]


def test_environment_when_compiled_code_is_unwanted(config: Config) -> None:
    """Airflow's processes keep compiled code, whatever the shell says: compiling anew costs each four seconds."""
    assert "PYTHONDONTWRITEBYTECODE" not in environment(config, PYTHONDONTWRITEBYTECODE="1")


def test_environment_when_behind_a_proxy(config: Config) -> None:
    """Nothing on this machine is asked for through a proxy."""
    assert environment(config, NO_PROXY="intranet")["NO_PROXY"] == "127.0.0.1,intranet,localhost"


@pytest.mark.parametrize(
    ("component", "imported"), [("scheduler", True), ("celery worker", True), ("api-server", False)]
)
def test_local_settings_when_a_component_starts(component: str, imported: bool) -> None:
    """Only what forks the tasks imports what they need; no setting of Airflow is replaced."""
    program = (
        f"import sys; sys.argv = {['airflow', *component.split()]}; import airflow_local_settings as settings; "
        "print({'pandas', 'numba'} <= sys.modules.keys(), settings.__all__)"
    )
    asked = {**os.environ, "PYTHONPATH": str(ROOT / "config")}
    ended = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(imported), "[]"]


@pytest.mark.parametrize(("url", "imported"), [("s3://staging@bucket/x", True), ("file:///staging", False)])
def test_local_settings_when_frames_are_staged_on_s3(url: str, imported: bool) -> None:
    """The client of S3 is imported where it is used, and nothing of it runs before the fork."""
    program = (
        "import sys, threading; sys.argv = ['airflow', 'scheduler']; import airflow_local_settings; "
        "print('s3fs' in sys.modules, threading.active_count())"
    )
    asked = {**os.environ, "PYTHONPATH": str(ROOT / "config"), "ENRICHMENT_STAGING_URL": url}
    ended = subprocess.run([sys.executable, "-c", program], env=asked, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(imported), "1"]


IN_A_CHILD = """
import os, sys
sys.argv = ["airflow", "scheduler"]
import airflow_local_settings
from pathlib import Path
import enrichment
before = sorted(name for name in sys.modules if name.startswith("enrichment."))
{change}
sys.stdout.flush()
if os.fork() == 0:
    import enrichment.room.module as module
    print(before, module.VALUE, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("", "old"),
        ("Path(enrichment.room.module.__file__).write_text('VALUE = \"new\"')", "new"),
    ],
    ids=["as it was", "changed"],
)  # fmt: skip
def test_local_settings_import_our_modules_and_tasks_those_that_changed(
    tmp_path: Path, change: str, value: str
) -> None:
    """A task finds the project's modules imported, and imports them anew once a file of theirs is another one."""
    package = tmp_path / "enrichment"
    for folder in (package, package / "room"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    (package / "room" / "module.py").write_text("VALUE = 'old'")
    (package / "broken.py").write_text("import no_such_module")
    asked = {**os.environ, "PYTHONPATH": f"{ROOT / 'config'}:{tmp_path}"}
    command = [sys.executable, "-c", IN_A_CHILD.format(change=change)]
    ended = subprocess.run(command, env=asked, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == f"['enrichment.room', 'enrichment.room.module'] {value}"
    assert "enrichment.broken cannot be imported" in ended.stdout
