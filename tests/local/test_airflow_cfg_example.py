"""The example configuration: Airflow loads it, knows every option, and complains about none."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "airflow.cfg.example"
# Reads each option as Airflow does, and says which of them Airflow's own description of its configuration has.
READ = """
import json, sys
from airflow.configuration import conf, retrieve_configuration_description
described = retrieve_configuration_description()
options = json.load(sys.stdin)
print(json.dumps([
    {"value": conf.get(section, name), "known": name in described.get(section, {}).get("options", {})}
    for section, name in options
]))
"""


def options() -> dict[tuple[str, str], str]:
    """The options of the example and their values."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(EXAMPLE.read_text())
    return {(section, name): value for section in parser.sections() for name, value in parser.items(section)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """A fresh Airflow that reads the example and nothing else; its variables would win over the file."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {"AIRFLOW_CONFIG": str(EXAMPLE), "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", READ],
        input=json.dumps(list(options())), env=environment, text=True, capture_output=True, check=False,
    )  # fmt: skip


def test_example_is_loaded_without_a_word(loaded: subprocess.CompletedProcess[str]) -> None:
    """Airflow neither fails nor warns about the file."""
    assert (loaded.returncode, loaded.stderr) == (0, "")


def test_every_option_is_one_of_airflows(loaded: subprocess.CompletedProcess[str]) -> None:
    """No option is misspelt, or of an older Airflow: those are passed over in silence."""
    known = [option["known"] for option in json.loads(loaded.stdout)]
    assert [name for name, is_known in zip(options(), known, strict=True) if not is_known] == []


def test_every_value_is_what_airflow_reads(loaded: subprocess.CompletedProcess[str]) -> None:
    """What stands in the file is what Airflow goes by."""
    assert [option["value"] for option in json.loads(loaded.stdout)] == list(options().values())


def test_every_option_says_why() -> None:
    """The line above each option is a comment."""
    lines = EXAMPLE.read_text().splitlines()
    of_options = [number for number, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    assert len(of_options) == len(options())
    assert [lines[number] for number in of_options if not lines[number - 1].startswith("# ")] == []
