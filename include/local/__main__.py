"""The commands of the local stack: `python -m include.local up|run|status|airflow|down|clean`; `make` has them as
targets."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from include.local import config as configuration
from include.local.config import ROOT
from include.local.errors import StackError
from include.local.stack import LocalStack, Stack
from include.local.steps import Steps

DEFAULT_COUNT = 10_000


def main() -> int:
    """Carry out one command; returns the exit code: 0 done, 1 something is in the way, 130 interrupted."""
    arguments = _parser().parse_args()
    console, errors = Console(soft_wrap=True), Console(soft_wrap=True, stderr=True)
    try:
        config = configuration.load(os.environ)
        with Steps(console) as steps:
            local = LocalStack(config, os.environ, steps)
            if arguments.command == "status":
                return _status(local, config, console)
            if arguments.command == "airflow":
                command = [sys.executable, "-m", "airflow", *arguments.words]
                return subprocess.run(command, env=local.airflow_environment(), cwd=ROOT, check=False).returncode
            if arguments.command in ("down", "clean"):
                return _down(local, config, console, clean=arguments.command == "clean")
            console.print(f"Starting the local stack in {config.directory}", highlight=False)
            stack = local.up()
        _greet(stack, console)
        return _play(stack, arguments.input, arguments.count) if arguments.command == "run" else 0
    except StackError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        return 1
    except KeyboardInterrupt:
        errors.print("interrupted", style="bold red")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what is not running")
    run = commands.add_parser("run", help="start what is not running, play messages, report what became of them")
    run.add_argument("--input", metavar="FILE", help="messages to play, a JSON object a line, .gz or not")
    run.add_argument("--count", type=int, default=DEFAULT_COUNT, help="messages to generate (default %(default)s)")
    commands.add_parser("status", help="say what runs and where its log is")
    airflow = commands.add_parser("airflow", help="run a command of Airflow's command line on the running stack")
    airflow.add_argument("words", nargs=argparse.REMAINDER, help="such as `dags list`")
    commands.add_parser("down", help="stop everything")
    commands.add_parser("clean", help="stop everything and remove what it left")
    return parser


def _play(stack: Stack, input_path: str | None, count: int) -> int:
    from include.local.play import play

    return play(stack, input_path, count)


def _greet(stack: Stack, console: Console) -> None:
    console.print(
        f"Airflow is at {stack.airflow_url}, user {stack.airflow_user}, password {stack.airflow_password}",
        highlight=False,
    )


def _status(local: LocalStack, config: configuration.Config, console: Console) -> int:
    table = Table("component", "state", "pid", "port", Column("log", overflow="fold"), box=None)
    states = local.status()
    for program, word, pid in states:
        numbers = ", ".join(str(port.number) for port in program.ports) or "-"
        log = os.path.relpath(config.log(program.name))
        table.add_row(program.name, word.lower(), str(pid or "-"), numbers, log)
    for name, address in _external(config).items():
        table.add_row(name, "external", "-", address, "-")
    console.print(table)
    if left := local.leftovers():
        console.print(f"{left} processes outlived their supervisor: `make stop` ends them", highlight=False)
    return 0 if all(word == "RUNNING" for _, word, _ in states) else 3


def _external(config: configuration.Config) -> dict[str, str]:
    found = {"kafka": config.bootstrap_servers, "user-service": config.user_service_url}
    found["postgres"] = None if config.starts_postgres else "by URL"
    return {name: address for name, address in found.items() if address}


def _down(local: LocalStack, config: configuration.Config, console: Console, *, clean: bool) -> int:
    leftovers = local.down()
    console.print("stopped" + (f", {leftovers} leftover processes ended" if leftovers else ""), highlight=False)
    if clean:
        shutil.rmtree(config.directory, ignore_errors=True)
        console.print(f"removed {config.directory}; Kafka's jars stay in {config.cache}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
