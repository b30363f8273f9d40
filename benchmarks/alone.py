"""Measurements in a process of their own each."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

from benchmarks.answers import Answers
from benchmarks.backlog import Seen
from benchmarks.loop import CODECS, run_loop
from benchmarks.same_work import check_same_work
from benchmarks.stand import Stand
from enrichment.settings import Settings

T = TypeVar("T")


def alone(measure: Callable[..., T], *arguments: Any) -> T:
    """Measure in a process of its own, as a task is one: nobody pays for what another has left in memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def check_loops(stand: Stand, seen: Seen) -> None:
    """Raises when a loop's outputs are not the pipeline's."""
    check_same_work(stand, Answers(stand, seen))


def measure_loop(stand: Stand, settings: Settings, seen: Seen, name: str) -> float:
    """The seconds of a loop, its answers in memory beforehand."""
    return run_loop(stand, settings, CODECS[name], Answers(stand, seen), stand.backlog)
