"""Where the stack keeps its things, and what the variables change."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.local import config as configuration
from include.local.config import DEFAULT_PORTS
from include.local.errors import StackError


def test_load_when_nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without variables everything is below `.local` of the checkout, and every server is the stack's own."""
    monkeypatch.setattr(configuration, "ROOT", tmp_path)
    config = configuration.load({})
    assert config.directory == tmp_path / ".local"
    assert config.ports == DEFAULT_PORTS
    assert config.starts_postgres
    assert (config.bootstrap_servers, config.user_service_url) == (None, None)


@pytest.mark.parametrize("name", DEFAULT_PORTS)
def test_load_when_a_port_is_set(name: str) -> None:
    """Every port has a variable that changes it, and it alone."""
    config = configuration.load({DEFAULT_PORTS[name].variable: "40001", "LOCAL_DIR": "never-started"})
    assert {other for other in DEFAULT_PORTS if config.port(other) == 40001} == {name}


def test_default_ports_when_compared() -> None:
    """No two components want the same port, or are changed by the same variable."""
    ports = DEFAULT_PORTS.values()
    assert len({port.number for port in ports}) == len({port.variable for port in ports}) == len(DEFAULT_PORTS)


@pytest.mark.parametrize("value", ["abc", "0", "65536", "-1", "80.5"])
def test_load_when_a_port_is_none(value: str) -> None:
    """A value that is no port is refused with the variable's name."""
    with pytest.raises(StackError, match=r"KAFKA_PORT=.*1 to 65535"):
        configuration.load({"KAFKA_PORT": value})


def test_load_when_folders_are_set(tmp_path: Path) -> None:
    """`LOCAL_DIR` moves what is made, `XDG_CACHE_HOME` what is downloaded."""
    config = configuration.load({"LOCAL_DIR": str(tmp_path / "here"), "XDG_CACHE_HOME": str(tmp_path)})
    assert config.directory == tmp_path / "here"
    assert config.cache == tmp_path / "stacklens"
    assert config.log("kafka").is_relative_to(config.directory)


def test_starts_postgres_when_databases_are_given() -> None:
    """The stack starts PostgreSQL unless both databases are yours."""
    ours = {"STACKLENS_DATABASE_URL": "postgresql://h/s"}
    both = {**ours, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://h/a"}
    assert configuration.load(ours).starts_postgres
    assert not configuration.load(both).starts_postgres


def test_ports_when_a_stack_was_started_with_others(tmp_path: Path) -> None:
    """A stack keeps the ports that it was started with, until others are named."""
    environ = {"LOCAL_DIR": str(tmp_path)}
    configuration.remember(configuration.load({**environ, "AIRFLOW_PORT": "40001"}))
    assert configuration.load(environ).port("airflow") == 40001
    assert configuration.load({**environ, "AIRFLOW_PORT": "40002"}).port("airflow") == 40002
    assert configuration.load(environ).port("kafka") == DEFAULT_PORTS["kafka"].number
    assert configuration.load({"LOCAL_DIR": str(tmp_path / "other")}).ports == DEFAULT_PORTS


def test_recall_when_servers_are_named_no_more(tmp_path: Path) -> None:
    """Commands about a stack find it as it was started; a start goes by the variables, and nobody else reads them."""
    environ = {"LOCAL_DIR": str(tmp_path)}
    yours = {"KAFKA_BOOTSTRAP_SERVERS": "broker:9092", "STACKLENS_DATABASE_URL": "postgresql://u:secret@h/s"}
    assert configuration.recall(environ) == configuration.load(environ)
    started = configuration.load({**environ, **yours, "KAFKA_PORT": "40003"})
    configuration.remember(started)
    assert configuration.recall(environ) == started
    assert configuration.load(environ).bootstrap_servers is None
    assert (tmp_path / "stack.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5"])
def test_load_when_the_time_to_start_is_none(value: str) -> None:
    """A time that is none is refused with the variable's name."""
    with pytest.raises(StackError, match=r"LOCAL_START_TIMEOUT_SEC=.*whole number"):
        configuration.load({"LOCAL_START_TIMEOUT_SEC": value})
