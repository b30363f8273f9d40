"""One running call for many users: its deadline, and its outcomes as they come together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from enrichment.caches.base import Entry
from enrichment.errors import SourceUnavailable

# Answers are passed on as soon as there are as many as a request asks for, or this much time has passed.
PART_SECONDS = 1.0

Outcome = tuple[Sequence[str], Mapping[str, Entry] | SourceUnavailable]


@dataclass
class Asking:
    """One call of `fetch_parts`: its deadline, how often it may ask for less, and where its outcomes go."""

    deadline: float
    late: SourceUnavailable
    splits_left: int
    slots: asyncio.Semaphore
    outcomes: SimpleQueue[Outcome | None] = field(default_factory=SimpleQueue)

    def tell(self, user_ids: Sequence[str], outcome: Mapping[str, Entry] | SourceUnavailable) -> None:
        """Report that these users are answered, or will not be asked for any more."""
        self.outcomes.put((user_ids, outcome))


def gathered(
    outcomes: Iterator[Outcome | None], size: int
) -> Iterator[tuple[dict[str, Entry], list[tuple[Sequence[str], SourceUnavailable]]]]:
    """Answers and failures of about `size` users, or of what has come in `PART_SECONDS`."""
    answers: dict[str, Entry] = {}
    failures: list[tuple[Sequence[str], SourceUnavailable]] = []
    due = time.monotonic() + PART_SECONDS
    for user_ids, outcome in (each or ((), {}) for each in outcomes):
        if isinstance(outcome, SourceUnavailable):
            failures.append((user_ids, outcome))
        else:
            answers |= outcome
        if len(answers) >= size or time.monotonic() >= due:
            yield answers, failures
            answers, failures, due = {}, [], time.monotonic() + PART_SECONDS
    yield answers, failures


def is_text(user_id: str) -> bool:
    """Whether an id can be sent at all: half of a surrogate pair cannot, so no service knows such a user."""
    try:
        user_id.encode()
    except UnicodeEncodeError:
        return False
    return True
