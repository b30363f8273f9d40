"""Where the stack keeps its things, and what the variables change."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.local import config as configuration
from include.local.config import DEFAULT_PORTS, ROOT
from include.local.errors import StackError


def test_load_when_nothing_is_set() -> None:
    """Without variables everything is below `.local` of the checkout, and every server is the stack's own."""
    config = configuration.load({})
    assert config.directory == ROOT / ".local"
    assert config.ports == DEFAULT_PORTS
    assert config.starts_postgres
    assert (config.bootstrap_servers, config.user_service_url) == (None, None)


@pytest.mark.parametrize("name", DEFAULT_PORTS)
def test_load_when_a_port_is_set(name: str) -> None:
    """Every port has a variable that changes it, and it alone."""
    config = configuration.load({DEFAULT_PORTS[name].variable: "40001"})
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
