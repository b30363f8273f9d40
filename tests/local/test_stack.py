"""What the stack refuses before it starts anything."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from include.local.config import Config, Port, remember
from include.local.errors import StackError
from include.local.stack import LocalStack
from include.local.steps import Steps
from include.local.supervision import Supervisor
from tests.fixtures.geo import write_geo_database


@pytest.fixture
def steps() -> Steps:
    """Steps that nobody reads."""
    return Steps(Console(file=StringIO()))


@pytest.fixture
def bare(config: Config) -> Config:
    """A stack that would start Airflow alone."""
    url = "postgresql://127.0.0.1:1/none"
    return replace(
        config,
        bootstrap_servers="127.0.0.1:1",
        stacklens_url=url,
        airflow_database_url=url,
        user_service_url="http://x",
    )


def test_up_when_a_port_is_taken(bare: Config, steps: Steps) -> None:
    """A stack whose port is taken is not started, not even in part."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = {**bare.ports, "airflow": Port("AIRFLOW_PORT", server.getsockname()[1], "Airflow's UI and API")}
        local = LocalStack(replace(bare, ports=ports), {}, steps)
        with pytest.raises(StackError, match="AIRFLOW_PORT="):
            local.up()
    assert {word for _, word, _ in local.status()} == {"STOPPED"}


def test_up_when_it_runs_and_the_new_port_is_taken(bare: Config, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that runs goes on when it is asked to move to a port that is taken: it is not stopped for nothing."""
    remember(bare)
    monkeypatch.setattr(Supervisor, "running", lambda self: True)
    stopped: list[object] = []
    monkeypatch.setattr(Supervisor, "stop", stopped.append)
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = {**bare.ports, "airflow": replace(bare.ports["airflow"], number=server.getsockname()[1])}
        with pytest.raises(StackError, match="AIRFLOW_PORT="):
            LocalStack(replace(bare, ports=ports), {}, steps).up()
    assert stopped == []


def test_up_when_a_setting_is_unusable(bare: Config, steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that the pipeline would refuse is named before anything is started."""
    monkeypatch.setenv("KAFKA_BATCH_SIZE", "-3")
    with pytest.raises(StackError, match="KAFKA_BATCH_SIZE"):
        LocalStack(bare, {}, steps).up()
    assert not bare.directory.exists()


GEO_PATHS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "folder": Path.mkdir,
    "empty": Path.touch,
    "text": lambda path: path.write_text("8.8.8.8,US"),
    "fifo": os.mkfifo,
    "networks": lambda path: write_geo_database(path, {"8.8.8.0/24": {"autonomous_system_number": 15169}}),
}


@pytest.mark.parametrize("kind", GEO_PATHS)
def test_up_when_the_geo_path_is_no_database(
    bare: Config, steps: Steps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """A path at which no places are to be had is named before anything is started."""
    GEO_PATHS[kind](tmp_path / "City.mmdb")
    monkeypatch.setenv("GEO_IP_DATABASE_PATH", str(tmp_path / "City.mmdb"))
    with pytest.raises(StackError, match=r"GEO_IP_DATABASE_PATH=.*City\.mmdb.*set it to a City database"):
        LocalStack(bare, {}, steps).up()
    assert not bare.directory.exists()


def test_down_when_another_command_is_at_work(bare: Config, steps: Steps) -> None:
    """Two commands never start and stop the same stack at once."""
    bare.directory.mkdir(parents=True)
    with (bare.directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StackError, match="another command"):
            LocalStack(bare, {}, steps).down()


def test_down_when_nothing_was_started(bare: Config, steps: Steps) -> None:
    """Stopping what never ran is done at once and leaves nothing behind."""
    assert LocalStack(bare, {}, steps).down() == 0
    assert not bare.directory.exists()


def test_airflow_command_when_nothing_runs(bare: Config, steps: Steps) -> None:
    """A command of Airflow's command line needs a stack to talk to, and says how to get one."""
    with pytest.raises(StackError, match="make up"):
        LocalStack(bare, {}, steps).airflow_environment()
    assert not bare.directory.exists()


def test_step_when_there_is_no_terminal() -> None:
    """Each step that is done is one plain line; one that failed has none."""
    output = StringIO()
    with Steps(Console(file=output)) as steps:
        with steps.step("Kafka [4.3.1]"):
            pass
        with pytest.raises(ValueError, match="wrong"), steps.step("PostgreSQL"):
            raise ValueError("wrong")
    (line,) = output.getvalue().splitlines()
    assert line.split() == ["Kafka", "[4.3.1]", "0.0", "s"]


def test_status_when_servers_are_yours(bare: Config, steps: Steps, tmp_path: Path) -> None:
    """Servers of your own are no components of the stack."""
    names = [program.name for program, _, _ in LocalStack(bare, {}, steps).status()]
    assert names == ["api-server", "dag-processor", "triggerer", "scheduler"]
