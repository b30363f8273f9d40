"""What Airflow's UI looks like: the same everywhere, and as Airflow takes it."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import pytest
from airflow.api_fastapi.common.types import Theme

from include.local import airflow
from include.local.credentials import Credentials
from tests.fixtures import compose

ROOT = Path(__file__).parents[2]


def example() -> str:
    """That of airflow.cfg.example."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "airflow.cfg.example")
    return parser["api"]["theme"]


def composed() -> str:
    """That of docker-compose.yaml."""
    return compose.services(compose.filled_in())["airflow-api-server"].environment["AIRFLOW__API__THEME"]


def local() -> str:
    """That of `make run`."""
    return airflow._settings(Credentials("", "", "", ""))["AIRFLOW__API__THEME"]


@pytest.mark.parametrize("theme", [example(), composed(), local()], ids=["cfg", "compose", "run"])
def test_all_three_say_the_same(theme: str) -> None:
    """The local stack has it, the example and the compose file follow; Airflow takes it."""
    assert json.loads(theme) == airflow.THEME
    assert Theme.model_validate_json(theme).globalCss == airflow.THEME["globalCss"]
