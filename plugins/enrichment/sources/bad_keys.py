"""Keys in for which one request fails; out come the keys for which it fails alone, and the answers for all others.

Asking for ever smaller parts takes about two requests for each bad key and each doubling of the keys. It is limited by
a number of bad keys and a time for each task, and ends sooner where no key is good: then the keys are not at fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from enrichment.errors import SourceUnavailable

MOST_BAD_KEYS = 1_000
SUSPICIOUS_KEYS = 100

Ask = Callable[[Sequence[str]], Mapping[str, Any]]


class KeyFault(Exception):
    """A request failed because of one of its keys."""


@dataclass
class Searched:
    """Answers by key; the bad keys; the keys that were not asked for, and why."""

    answers: dict[str, Any] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    why: str = ""


class BadKeySearch:
    """All searches of a task together take at most `seconds`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_left = seconds
        self._clock = clock

    def run(self, ask: Ask, keys: Sequence[str], fault: KeyFault) -> Searched:
        """Ask for parts of the keys, after a request for all has failed. `ask` raises `KeyFault`; a `SourceUnavailable`
        ends the search."""
        started = self._clock()
        searched, parts, is_good = Searched(why=str(fault)), _halves(keys), False
        while parts:
            if not is_good and len(searched.bad) >= SUSPICIOUS_KEYS:
                parts.append(searched.bad)
                searched.bad = []
                break
            if len(searched.bad) >= MOST_BAD_KEYS or self._clock() - started >= self._seconds_left:
                break
            part = parts.pop()
            try:
                searched.answers |= ask(part)
                is_good = True
            except KeyFault as again:
                searched.why = str(again)
                if len(part) > 1:
                    parts += _halves(part)
                else:
                    searched.bad += part
            except SourceUnavailable as down:
                searched.why = down.detail
                parts.append(part)
                break
        searched.left = [key for part in parts for key in part]
        self._seconds_left -= self._clock() - started
        return searched


def _halves(keys: Sequence[str]) -> list[Sequence[str]]:
    middle = len(keys) // 2
    return [part for part in (keys[middle:], keys[:middle]) if part]
