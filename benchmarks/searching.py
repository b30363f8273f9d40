"""People who search topics by the page's API, as its tab *Search* does, without pause."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from threading import Event, Lock, Thread
from typing import Any

import requests

from include.local.stack import Stack

NOBODY = "trace-that-no-message-has"  # so that all of a topic is looked through
WAIT_SECONDS = 1.5  # after being refused, as the page's own code does
PATIENCE_SECONDS = 60


@dataclass
class Searches:
    """Steps of searches that were answered, the messages that they looked at and the seconds that each took; steps that
    were refused since others searched (`refused`); and what else came instead of an answer (`failures`)."""

    people: int = 0
    seconds: list[float] = field(default_factory=list)
    messages: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many were answered."""
        return len(self.seconds)


@contextmanager
def searching(stack: Stack, people: int, topics: list[str]) -> Iterator[Searches]:
    """So many people search in the block, each through one topic after the other."""
    found, over, lock = Searches(people), Event(), Lock()
    searchers = [
        Thread(target=_search, args=(stack, topics[n:] + topics[:n], found, over, lock)) for n in range(people)
    ]
    for searcher in searchers:
        searcher.start()
    try:
        yield found
    finally:
        over.set()
        for searcher in searchers:
            searcher.join()


def _search(stack: Stack, topics: list[str], found: Searches, over: Event, lock: Lock) -> None:
    with requests.Session() as session:
        session.trust_env = False  # no proxy between us and this machine
        who = {"username": stack.airflow_user, "password": stack.airflow_password}
        token = session.post(f"{stack.airflow_url}/auth/token", json=who, timeout=PATIENCE_SECONDS)
        session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
        for topic in cycle(topics):
            positions: str | None = ""
            while positions is not None and not over.is_set():
                positions = _step(session, stack, topic, positions, found, over, lock)
            if over.is_set():
                return


def _step(
    session: requests.Session, stack: Stack, topic: str, positions: str, found: Searches, over: Event, lock: Lock
) -> str | None:
    """Where the search goes on; None at the topic's beginning."""
    asked: dict[str, Any] = {"topic": topic, "by": "trace_id", "value": NOBODY, "positions": positions}
    started = time.monotonic()
    answer = session.get(f"{stack.airflow_url}/stacklens/api/search", params=asked, timeout=PATIENCE_SECONDS)
    took = time.monotonic() - started
    if answer.status_code != 200:
        with lock:
            found.refused += answer.status_code == 429
            found.failures += [] if answer.status_code == 429 else [f"{answer.status_code}: {answer.text}"]
        over.wait(WAIT_SECONDS)
        return positions
    step = answer.json()
    with lock:
        found.seconds.append(took)
        found.messages += step["messages"]
    return None if step["is_done"] else str(step["older"])
