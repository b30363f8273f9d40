"""What tests of enrichers and caches are built from: fixed answers, frames of keys, a clock that stands still.

Public: use it for the tests of your own enricher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pandas as pd

from enrichment.caches.base import Answer, Entry, State, Tier
from enrichment.messages import KEY_COLUMNS


class FixedLookup:
    """A `KeyLookup` that answers from a dict: a struct is a found value, an `Entry` is taken as it is, all else is
    absent.

    `asked` keeps the keys of each call.
    """

    def __init__(
        self, answers: Mapping[str, Entry | msgspec.Struct], absent: str = "not-found", tier: Tier = Tier.SOURCE
    ) -> None:
        self._answers = answers
        self._absent = Entry(State.ABSENT, reason=absent)
        self._tier = tier
        self.asked: list[list[str]] = []

    def answer_many(self, keys: Sequence[str]) -> list[Answer]:
        """One answer per key, in the order of `keys`."""
        self.asked.append(list(keys))
        return [Answer(self._entry(key), self._tier) for key in keys]

    def _entry(self, key: str) -> Entry:
        answer = self._answers.get(key, self._absent)
        return answer if isinstance(answer, Entry) else Entry(State.FOUND, value=answer)


def make_events(**keys: Sequence[str | None]) -> pd.DataFrame:
    """The keys of a chunk, as categoricals: `make_events(source_ip=["8.8.8.8", None])`. Others are all null."""
    rows = max((len(values) for values in keys.values()), default=0)
    table: dict[str, Any] = dict.fromkeys(KEY_COLUMNS, [None] * rows) | keys
    return pd.DataFrame({name: pd.Series(table[name], dtype="str").astype("category") for name in KEY_COLUMNS})


class FixedClock:
    """A clock in seconds since the epoch that moves only when told."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
