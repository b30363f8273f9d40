"""Values in, lines of a task's log out: short `name=value` pairs, as many on a line as the UI shows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

# Airflow's UI puts a time and a level before a line and cuts off what does not fit.
LINE_CHARACTERS = 100


def log_pairs(log: logging.Logger, event: str, values: Mapping[str, Any], level: int = logging.INFO) -> None:
    """Log the values under an event's name, on several lines where one would be too long."""
    for line in lines(event, values):
        log.log(level, "%s", line)


def lines(event: str, values: Mapping[str, Any]) -> Iterator[str]:
    """`cache.evicted found=3 absent=1`: each line begins with the event's name; one at least."""
    line = event
    for pair in pairs(values):
        if line != event and len(line) + 1 + len(pair) > LINE_CHARACTERS:
            yield line
            line = event
        line = f"{line} {pair}"
    yield line


def pairs(values: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """The pairs in order; those of a mapping are named `outer.inner`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from pairs(value, f"{within}{name}.")
        else:
            yield f"{within}{name}={value}"
