"""The centre on one page: the stages of a batch in order, each streaming chunk by chunk from staged files to staged
files.

claim -> drain (read, decode) -> the enrichments, each as soon as those that it reads are done -> publish (route,
produce, commit) -> record. A stage holds one chunk in memory, however large the batch. Every stage may run twice: it
replaces what it staged, and publish checks the group's offsets first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY

B = TypeVar("B")
D = TypeVar("D")
L = TypeVar("L")
P = TypeVar("P")


def run_stages(
    batch: B,
    drain: Callable[[B], D],
    look_up: Callable[[D, LookupEnricher, Sequence[L]], L],
    publish: Callable[[D, Mapping[str, L]], P],
) -> P:
    """Run a batch's stages in order. The caller hands them in: functions that do the work, or Airflow tasks.

    `look_up` also gets the results of the enrichments that it has to wait for, `publish` those of all by name.
    """
    drained = drain(batch)
    return publish(drained, look_up_all(partial(look_up, drained)))


def look_up_all(look_up: Callable[[LookupEnricher, Sequence[L]], L]) -> dict[str, L]:
    """The enrichments alone, after the drain."""
    done: dict[str, L] = {}
    for declaration in REGISTRY.enrichers:
        done[declaration.name] = look_up(declaration, [done[e.name] for e in REGISTRY.earlier(declaration)])
    return done
