"""Measurements in a process of their own each."""

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


def alone(measure: Callable[..., T], *arguments: Any) -> T:
    """Measure in a process of its own, as a task is one: nobody pays for what another has left in memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def measure_loop(stand: Stand, settings: Settings, seen: Seen, name: str) -> float:
    """The seconds of a loop; what it has in memory beforehand is not counted."""
    peer = PEERS[name]
    return run_loop(stand, settings, peer.codec, peer.answers(stand, seen), stand.backlog)
