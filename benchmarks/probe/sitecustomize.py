"""Clocks in the tasks of a scheduler that is measured: Python imports this module in each of its processes.

Only the measured stack has this folder on its path. A task that ends appends a line of JSON to the file that
`HOPS_FILE` names: its id, moments in seconds since the epoch by name, and the seconds that imports and new connections
took before (`startup`) and while it did its work.
"""

from __future__ import annotations

import functools
import importlib._bootstrap as bootstrap
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

RUNNER = "airflow.sdk.execution_time.task_runner"
FIND = "_find_and_load"  # what Python calls for each module that is not loaded yet
STEPS = ("get_startup_details", "parse", "run", "finalize", "_execute_task")
moments: dict[str, float] = {}
spent: dict[str, float] = {}
inside: list[str] = []


def counted(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; its seconds are added up, those of counted ones within it only once."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if inside:
            return function(*args, **kwargs)
        inside.append(what)
        start = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            inside.pop()
            phase = "work" if "_execute_task.begin" in moments else "startup"
            name = f"{phase}.{what}"
            spent[name] = spent.get(name, 0.0) + time.monotonic() - start

    return call


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; when it begins and ends is noted."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        moments[f"{name}.begin"] = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            moments[f"{name}.end"] = time.time()

    return call


def reporting(main: Callable[[], None]) -> Callable[[], None]:
    """The main function of a task's process, which writes down what was noted."""

    def call() -> None:
        moments["main"] = time.time()
        try:
            main()
        finally:
            moments["done"] = time.time()
            with pathlib.Path(os.environ["HOPS_FILE"]).open("a") as file:
                file.write(json.dumps({"pid": os.getpid(), "moments": moments, "spent": spent}) + "\n")

    return call


def watch_child() -> None:
    """In a new child of the scheduler: if it becomes a task, or its children do, they note what they do."""
    moments.clear()
    spent.clear()
    moments["forked"] = time.time()
    runner = sys.modules.get(RUNNER)
    if runner is None or getattr(runner, "is_watched", False):
        return
    from airflow.sdk import BaseHook
    from psycopg import Connection

    for name in STEPS:
        setattr(runner, name, timed(name, getattr(runner, name)))
    runner.main = reporting(runner.main)  # type: ignore[attr-defined]
    runner.is_watched = True  # type: ignore[attr-defined]
    setattr(bootstrap, FIND, counted("imports", getattr(bootstrap, FIND)))
    Connection.connect = staticmethod(counted("connections", Connection.connect))  # type: ignore[method-assign]
    BaseHook.get_connection = staticmethod(counted("connections", BaseHook.get_connection))  # type: ignore[method-assign]


if "scheduler" in sys.orig_argv and "HOPS_FILE" in os.environ:
    os.register_at_fork(after_in_child=watch_child)
