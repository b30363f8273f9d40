"""Commands that look into a stack, against a real PostgreSQL and real log files."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from include.local import inspection
from include.local.__main__ import parse
from include.local.airflow import Addresses
from include.local.config import Config
from include.local.errors import StackError
from tests.fixtures.postgres import MakeDatabase


def test_sql_when_a_statement_is_given(postgres_server: MakeDatabase, capfd: pytest.CaptureFixture[str]) -> None:
    """The statement is run by psql, its result printed; one that fails gives another exit code."""
    addresses = Addresses("", postgres_server(), "", "")
    assert inspection.sql(addresses, ["SELECT count(*), 'it''s' AS text FROM enrichment_jobs"]) == 0
    assert "it's" in capfd.readouterr().out
    assert inspection.sql(addresses, ["SELECT * FROM nowhere"]) != 0
    assert 'relation "nowhere" does not exist' in capfd.readouterr().err


@pytest.mark.parametrize(
    "command", [lambda a: inspection.sql(a, []), lambda a: inspection.group(a, {}, [])], ids=["sql", "group"]
)
def test_password_is_not_on_the_command_line(
    command: Callable[[Addresses], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command lines can be read by every user of the machine; the environment cannot."""
    ran: dict[str, object] = {}

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.update(command=command, password=env["PGPASSWORD"])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    command(Addresses("", "postgresql://u:s%40cret@h:5/d?sslmode=require", "", ""))
    assert ran["password"] == "s@cret"
    assert "cret" not in str(ran["command"])
    assert "sslmode=require" in str(ran["command"])


def test_airflow_says_nothing_of_graphs_that_nobody_wanted() -> None:
    """Airflow's warning is left out, other warnings are not, and filters of one's own stay."""
    program = (
        "import warnings\n"
        "warnings.warn('Could not import graphviz. Rendering graph to the graphical format will not be possible')\n"
        "warnings.warn('something else'); warnings.warn('old', DeprecationWarning)\n"
    )
    environment = inspection.quiet({**os.environ, "PYTHONWARNINGS": "ignore::DeprecationWarning"})
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert [line for line in ran.stderr.splitlines() if "Warning:" in line] == [
        "<string>:3: UserWarning: something else"
    ]


@pytest.fixture
def logged(config: Config) -> Config:
    """A stack with two logs."""
    config.logs.mkdir(parents=True)
    config.log("kafka").write_text("".join(f"line {n}\n" for n in range(150)))
    config.log("scheduler").write_text("[bold]not markup[/]\n")
    return config


def test_logs_when_a_component_is_named(logged: Config) -> None:
    """The last lines, as they are."""
    output = io.StringIO()
    assert inspection.logs(logged, "kafka", Console(file=output), follow=False) == 0
    assert output.getvalue().splitlines()[0] == "line 50"
    assert output.getvalue().splitlines()[-1] == "line 149"
    inspection.logs(logged, "scheduler", Console(file=output), follow=False)
    assert output.getvalue().endswith("[bold]not markup[/]\n")


def test_logs_when_none_or_a_wrong_one_is_named(logged: Config) -> None:
    """Without a name: which there are. A name that is none: the same, as an error."""
    output = io.StringIO()
    assert inspection.logs(logged, None, Console(file=output), follow=False) == 0
    assert "kafka, scheduler" in output.getvalue()
    with pytest.raises(StackError, match="no log of 'kafak'; NAME is one of kafka, scheduler"):
        inspection.logs(logged, "kafak", Console(file=output), follow=False)
    with pytest.raises(StackError, match="no logs"):
        inspection.logs(replace(logged, directory=logged.directory / "new"), "kafka", Console(), follow=False)


@pytest.mark.parametrize(
    ("given", "rest"),
    [
        (["check", "--help"], ["--help"]),
        (["group", "set-lanes", "2", "--despite-open-batches"], ["set-lanes", "2", "--despite-open-batches"]),
        (["check", "--all", "--replay-id", "x"], ["--all", "--replay-id", "x"]),
        (["airflow", "--version"], ["--version"]),
        (["airflow", "dags", "list", "-o", "json"], ["dags", "list", "-o", "json"]),
        (["sql", "SELECT 1"], ["SELECT 1"]),
        (["sql"], []),
    ],
)
def test_arguments_of_other_commands_are_passed_on(given: list[str], rest: list[str]) -> None:
    """Options too, of which the first may be one."""
    parsed = parse(given)
    assert (parsed.command, parsed.rest) == (given[0], rest)
