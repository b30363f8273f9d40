"""What an enricher is, and the one way in which answers about distinct keys become columns of a chunk.

An enricher works on the distinct keys of a chunk and says for each row which of its answers is meant (`Added`). The JSON
of an answer is written once per distinct key, so that publishing only has to put bytes side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd

from enrichment.caches.base import Answer, LookupCounts, State, Tier, Tiered

JSON, STATUS = "json", "status"
# Words of the status column beside those of `Reason`: the key was absent, answered, or answered past its expiry.
NO_KEY, OK, STALE = "", "ok", "stale"


@dataclass(frozen=True, slots=True)
class Added:
    """What one enricher adds to a chunk.

    `codes` has one number per row of the chunk: the row of `values` that belongs to it (int32). `values` has the enricher's
    columns, `status` (why they are null, if so) and `json` (the columns as the inside of a JSON object, bytes, without braces).
    Row 0 of `values` is that of rows without a key: all null.
    """

    codes: np.ndarray[Any, np.dtype[np.int32]]
    values: pd.DataFrame
    counts: LookupCounts

    def take(self, column: str) -> pd.Series[Any]:
        """One column, a value for each row of the chunk."""
        return self.values[column].take(self.codes).reset_index(drop=True)


class Enricher(Protocol):
    """Adds the columns in `writes`, reads only those in `reads`, keeps every row and the order, leaves its input untouched."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def enrich(self, events: pd.DataFrame, added: Mapping[str, Added]) -> Added:
        """`events` has the keys of a chunk as categoricals; `added` what earlier enrichers added to it, by their names."""
        ...


def fragments(structs: Sequence[msgspec.Struct]) -> list[bytes]:
    """The insides of the structs' JSON objects, without braces. NaN and infinities become null: JSON has none."""
    # A JSON text never holds a raw line feed, so one call encodes all and one split takes them apart.
    lines = msgspec.json.Encoder().encode_lines(structs).split(b"\n")
    return [line[1:-1] for line in lines[:-1]]


def columns_of(structs: Sequence[msgspec.Struct], words: type[msgspec.Struct]) -> pd.DataFrame:
    """A frame with a row per struct and a column per field, under the output's names."""
    fields = msgspec.structs.fields(words)
    return pd.DataFrame(
        {field.encode_name: pd.array([getattr(s, field.name) for s in structs], dtype=dtype_of(field)) for field in fields}
    )


def dtype_of(field: msgspec.structs.FieldInfo) -> str:
    """The pandas dtype of an output field: text and numbers are nullable, everything else is an object."""
    kinds = {str(str | None): "str", str(int | None): "Int64", str(float | None): "Float64"}
    return kinds.get(str(field.type), "object")


def join_lookup(keys: pd.Series[Any], lookup: Tiered, words: type[msgspec.Struct]) -> Added:
    """Answers for the distinct keys of a categorical column, taken back to its rows by code.

    `words` is the struct that the lookup's entries hold; a key without a value gets its defaults.
    """
    codes = keys.cat.codes.to_numpy(dtype=np.int32) + np.int32(1)
    distinct = keys.cat.categories.tolist()
    answers = lookup.answer_many(distinct) if distinct else []
    nothing = words()
    structs = [nothing, *(nothing if a.entry.value is None else a.entry.value for a in answers)]
    values = columns_of(structs, words)
    values[STATUS] = [NO_KEY, *(status_of(a) for a in answers)]
    values[JSON] = fragments(structs)
    return Added(codes, values, count(codes, answers))


def status_of(answer: Answer) -> str:
    """The status word of an answer: ok, stale, or the reason why there is none."""
    entry = answer.entry
    if entry.state is State.FOUND:
        return STALE if entry.stale else OK
    return str(entry.reason)


def count(codes: np.ndarray[Any, np.dtype[np.int32]], answers: Sequence[Answer]) -> LookupCounts:
    """Count by message; see `LookupCounts` for who counts where. Categories without a row count nothing."""
    rows = np.bincount(codes, minlength=len(answers) + 1)[1:]
    seen = rows > 0
    tiers = np.array([a.tier for a in answers], dtype=object)[seen] if answers else np.array([], dtype=object)
    states = np.array([STALE if a.entry.stale else a.entry.state for a in answers], dtype=object)
    messages = int(rows.sum())
    postgres, misses = int((tiers == Tier.POSTGRES).sum()), int((tiers == Tier.SOURCE).sum())
    return LookupCounts(
        messages=messages,
        memory=messages - postgres - misses,
        postgres=postgres,
        misses=misses,
        stale=int(rows[states == STALE].sum()) if answers else 0,
        absent=int(rows[states == State.ABSENT].sum()) if answers else 0,
        failed=int(rows[states == State.FAILED].sum()) if answers else 0,
        distinct=int(seen.sum()),
    )
