"""Look into a stack that runs, or ran: its database, its logs, and whether it lost or doubled anything."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from include.local.airflow import Addresses
from include.local.config import ROOT, Config
from include.local.errors import StackError
from include.local.postgres import psql

LINES = 100
FOLLOW_SECONDS = 0.5
# Commands of Airflow that draw graphs say in all of them that they could not.
QUIET = "ignore:Could not import graphviz:UserWarning"


def airflow(environment: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Run a command of Airflow's command line; returns its exit code."""
    command = [sys.executable, "-m", "airflow", *arguments]
    return subprocess.run(command, env=quiet(environment), cwd=ROOT, check=False).returncode


def quiet(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without that warning; the filters that it has stay."""
    filters = ",".join(filter(None, [environment.get("PYTHONWARNINGS"), QUIET]))
    return {**environment, "PYTHONWARNINGS": filters}


def sql(addresses: Addresses, arguments: Sequence[str]) -> int:
    """Open psql on the StackLens database, or run one statement there; returns psql's exit code."""
    database, secret = _database(addresses)
    statement = ["--command", " ".join(arguments)] if arguments else []
    command = [str(psql()), "--no-psqlrc", "--set=ON_ERROR_STOP=1", *statement, database]
    return subprocess.run(command, env={**os.environ, **secret}, check=False).returncode


def _database(addresses: Addresses) -> tuple[str, dict[str, str]]:
    """How libpq reaches the StackLens database: its parameters, and the variable with the password. Command lines are
    everybody's to read."""
    known = conninfo_to_dict(addresses.stacklens)
    secret = {"PGPASSWORD": str(known.pop("password"))} if "password" in known else {}
    return make_conninfo("", **known), secret


def group(addresses: Addresses, environment: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Run a command of `enrichment.group` on the stack's group: what its status is unless `arguments` say otherwise;
    returns its exit code."""
    command, *options = arguments or ["status"]
    database, secret = _database(addresses)
    servers = ["--bootstrap-servers", addresses.bootstrap_servers, "--database", database]
    tool = [sys.executable, "-m", "enrichment.group", command, *(servers if not command.startswith("-") else ())]
    return subprocess.run([*tool, *options], env={**environment, **secret}, cwd=ROOT, check=False).returncode


def check(addresses: Addresses, environment: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Run the conservation check on the stack's topics: over all that is published unless `arguments` say otherwise."""
    tool = [sys.executable, "-m", "enrichment.conservation", "--bootstrap-servers", addresses.bootstrap_servers]
    return subprocess.run([*tool, *(arguments or ["--all"])], env=environment, cwd=ROOT, check=False).returncode


def logs(config: Config, name: str | None, console: Console, *, follow: bool) -> int:
    """Print the end of a component's log, and go on with what is added; without a name, say which logs there are.

    Raises `StackError` when there is no such log.
    """
    found = {log.stem: log for log in sorted(config.logs.glob("*.log"))}
    if not found:
        raise StackError(f"there are no logs in {config.logs}: `make up` starts the stack")
    if not name:
        console.print(f"NAME=... one of: {', '.join(found)}", highlight=False)
        return 0
    if name not in found:
        raise StackError(f"there is no log of {name!r}; NAME is one of {', '.join(found)}")
    _show(found[name], console, follow=follow)
    return 0


def _show(log: Path, console: Console, *, follow: bool) -> None:
    with log.open(errors="replace") as file:
        for line in file.readlines()[-LINES:]:
            console.out(line, end="", highlight=False)
        while follow:
            if line := file.readline():
                console.out(line, end="", highlight=False)
            else:
                time.sleep(FOLLOW_SECONDS)
