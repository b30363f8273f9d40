"""Measurements in a process of their own each, forked from one that has imported what a worker of the scheduler has
imported before it forks a task: imports are not a part of what is measured."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from benchmarks.backlog import Seen
from benchmarks.loop import PEERS, run_loop
from benchmarks.stand import Stand
from enrichment.settings import Settings

T = TypeVar("T")


def workers(count: int) -> ProcessPoolExecutor:
    """So many processes side by side that do one thing each, as tasks do: nobody pays for what another has left in
    memory."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.worker"])
    return ProcessPoolExecutor(count, mp_context=context, max_tasks_per_child=1)


def alone(measure: Callable[..., T], *arguments: Any) -> T:
    """Measure in a process of its own."""
    with workers(1) as process:
        return process.submit(measure, *arguments).result()


def measure_loop(stand: Stand, settings: Settings, seen: Seen, name: str) -> float:
    """The seconds of a loop; what it has in memory beforehand is not counted."""
    peer = PEERS[name]
    return run_loop(stand, settings, peer.codec, peer.answers(stand, seen), stand.backlog)
