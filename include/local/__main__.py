"""The commands of the local stack: `python -m include.local up|run|status|logs|airflow|sql|group|check|down|clean`;
`make` has them as targets."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from include.local import config as configuration
from include.local import inspection
from include.local.arguments import Input, input_of
from include.local.errors import StackError
from include.local.stack import LocalStack, Stack
from include.local.steps import Steps
from include.local.supervision import UP


def main() -> int:
    """Carry out one command; returns the exit code: 0 done, 1 something is in the way, 130 interrupted."""
    arguments = parse(sys.argv[1:])
    console, errors = Console(soft_wrap=True), Console(soft_wrap=True, stderr=True)
    try:
        if arguments.command in ("up", "run"):
            return _start(arguments, console)
        return _look_or_stop(arguments, console)
    except StackError as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        code = 1
    except KeyboardInterrupt:
        errors.print("interrupted", style="bold red")
        code = 130
    if arguments.command in ("up", "run"):
        _tell_what_runs(errors)
    return code


def _start(arguments: argparse.Namespace, console: Console) -> int:
    wanted = input_of(arguments.input, arguments.count) if arguments.command == "run" else None
    config = configuration.load(os.environ)
    with Steps(console) as steps:
        console.print(f"Starting the local stack in {config.directory}", highlight=False)
        stack = LocalStack(config, os.environ, steps).up()
    _greet(stack, console)
    return _play(stack, wanted) if wanted is not None else 0


def _look_or_stop(arguments: argparse.Namespace, console: Console) -> int:
    """The commands about a stack that was started, whatever the variables say now."""
    config = configuration.recall(os.environ)
    with Steps(console) as steps:
        local = LocalStack(config, os.environ, steps)
        match arguments.command:
            case "status":
                return _status(local, config, console)
            case "down" | "clean":
                return _down(local, config, console, clean=arguments.command == "clean")
    if arguments.command == "logs":
        return inspection.logs(config, arguments.name, console, follow=arguments.follow)
    return _pass_on(local, arguments.command, arguments.rest)


def _pass_on(local: LocalStack, command: str, rest: Sequence[str]) -> int:
    """Run a command of `PASSED_ON`."""
    match command:
        case "airflow":
            return inspection.airflow(local.airflow_environment(), rest)
        case "sql":
            return inspection.sql(local.addresses(), rest)
        case "group":
            return inspection.group(local.addresses(), local.airflow_environment(), rest)
        case "check":
            return inspection.check(local.addresses(), local.airflow_environment(), rest)
    raise AssertionError(command)


PASSED_ON = {
    "airflow": "run a command of Airflow's command line on the running stack, such as `dags list`",
    "sql": "ask the StackLens database: one statement, or a prompt",
    "group": "see or change the group of live draining; `--help` has the commands",
    "check": "prove that no message was lost, doubled or altered; `--help` has what it takes",
}


def parse(given: Sequence[str]) -> argparse.Namespace:
    """The command and its arguments. What follows a command of `PASSED_ON` is not ours to read: `rest` has it."""
    if given and given[0] in PASSED_ON:
        return argparse.Namespace(command=given[0], rest=list(given[1:]))
    return _parser().parse_args(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m include.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what is not running")
    run = commands.add_parser("run", help="start what is not running, play messages, report what became of them")
    run.add_argument("--input", metavar="FILE", help="messages to play, a JSON object a line, .gz or not")
    run.add_argument("--count", help="messages to generate (default 10000)")
    commands.add_parser("status", help="say what runs and where its log is")
    logs = commands.add_parser("logs", help="show the end of a component's log")
    logs.add_argument("name", nargs="?", help="such as scheduler; without it, which there are")
    logs.add_argument("--follow", action="store_true", help="go on with what is added, until interrupted")
    for name, what in PASSED_ON.items():
        commands.add_parser(name, help=what)
    commands.add_parser("down", help="stop everything")
    commands.add_parser("clean", help="stop everything and remove what it left")
    return parser


def _play(stack: Stack, wanted: Input) -> int:
    from include.local.play import play

    return play(stack, wanted)


def _tell_what_runs(errors: Console) -> None:
    """After a failure: what is left running, and how to end it."""
    running: list[str] = []
    with suppress(StackError):  # an unusable variable, which has been told
        local = LocalStack(configuration.recall(os.environ), os.environ, Steps(errors))
        running = [program.name for program, word, _ in local.status() if word in UP]
    if running:
        errors.print(f"still running: {', '.join(running)} (`make stop` ends them)", highlight=False)


def _greet(stack: Stack, console: Console) -> None:
    console.print(
        f"Airflow is at {stack.airflow_url}, user {stack.airflow_user}, password {stack.airflow_password}",
        highlight=False,
    )
    console.print(f"Whether enrichment is healthy: {stack.airflow_url}/plugin/stacklens", highlight=False)


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
