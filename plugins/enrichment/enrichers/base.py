"""What an enricher is, and the one way in which answers about distinct keys become columns of a chunk.

An enricher works on the distinct keys of a chunk and says for each row which of its answers is meant (`Added`). The
JSON of an answer is written once per distinct key, so that publishing only has to put bytes side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.arrays import ArrowExtensionArray

from enrichment.caches.base import Answer, Entry, LookupCounts, State, Tier, Tiered

JSON, STATUS = "json", "status"
# Words of the status column beside those of `Reason`: the key was absent, answered, or answered past its expiry.
NO_KEY, OK, STALE = "", "ok", "stale"


@dataclass(frozen=True, slots=True)
class Added:
    """What one enricher adds to a chunk.

    `codes` has one number per row of the chunk: the row of `values` that belongs to it (int32). `values` has the
    enricher's columns, `status` (why they are null, if so) and `json` (the columns as the inside of a JSON object,
    bytes, without braces). Row 0 of `values` is that of rows without a key: all null. `fetched` says of each row of
    `values` whether the source was asked for it.
    """

    codes: np.ndarray[Any, np.dtype[np.int32]]
    values: pd.DataFrame
    fetched: np.ndarray[Any, np.dtype[np.bool_]]
    counts: LookupCounts

    def take(self, column: str) -> pd.Series[Any]:
        """One column, a value for each row of the chunk."""
        return self.values[column].take(self.codes).reset_index(drop=True)


class Enricher(Protocol):
    """Adds the columns in `writes`, reads only those in `reads`, keeps every row and the order, leaves its input
    untouched."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def enrich(self, events: pd.DataFrame, added: Mapping[str, Added]) -> Added:
        """`events` has the keys of a chunk as categoricals; `added` what earlier enrichers added to it, by their
        names."""
        ...


def fragments(structs: Sequence[msgspec.Struct]) -> list[bytes]:
    """The insides of the structs' JSON objects, without braces. NaN and infinities become null: JSON has none."""
    # A JSON text never holds a raw line feed, so one call encodes all and one split takes them apart.
    lines = msgspec.json.Encoder().encode_lines(structs).split(b"\n")
    return [line[1:-1] for line in lines[:-1]]


def columns_of(structs: Sequence[msgspec.Struct], words: type[msgspec.Struct]) -> dict[str, ArrowExtensionArray]:
    """A column per field, under the output's names, with a row per struct."""
    fields = msgspec.structs.fields(words)
    columns = zip(*map(msgspec.structs.astuple, structs), strict=True)
    return {
        field.encode_name: ArrowExtensionArray(pa.array(column, ARROW_TYPES[not_null_type(field)]))
        for field, column in zip(fields, columns, strict=True)
    }


# The Arrow type of an output field by the type that it has when it is not null. Arrow's own null is the only one: a
# frame of these columns never turns an int into a float or a null into NaN.
ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), tuple[str, ...]: pa.list_(pa.string())}


def not_null_type(field: msgspec.structs.FieldInfo) -> Any:
    """The type of an optional field without its None."""
    return get_args(field.type)[0]


def join_lookup(keys: pd.Series[Any], lookup: Tiered, words: type[msgspec.Struct]) -> Added:
    """Answers for the distinct keys of a categorical column, taken back to its rows by code.

    `words` is the struct that the lookup's entries hold; a key without a value gets its defaults.
    """
    codes = keys.cat.codes.to_numpy(dtype=np.int32) + np.int32(1)
    distinct = keys.cat.categories.tolist()
    answers = lookup.answer_many(distinct) if distinct else []
    nothing = words()
    structs = [nothing, *(nothing if a.entry.value is None else a.entry.value for a in answers)]
    values = pd.DataFrame(
        {
            **columns_of(structs, words),
            STATUS: text_column([NO_KEY, *statuses_of([answer.entry for answer in answers])]),
            JSON: ArrowExtensionArray(pa.array(fragments(structs), pa.binary())),
        },
        copy=False,
    )
    source = Tier.SOURCE  # looked up once: a member of an enum takes as long as the rest of the line
    fetched = np.array([False, *[answer.tier is source for answer in answers]])
    return Added(codes, values, fetched, count(codes, answers, fetched[1:]))


def text_column(words: Sequence[str | None]) -> ArrowExtensionArray:
    """A column of text."""
    return ArrowExtensionArray(pa.array(words, pa.string()))


def statuses_of(entries: Sequence[Entry]) -> list[str | None]:
    """The status word of each answer: ok, stale, or the reason why there is none."""
    found = State.FOUND
    return [entry.reason if entry.state is not found else STALE if entry.stale else OK for entry in entries]


def count(
    codes: np.ndarray[Any, np.dtype[np.int32]], answers: Sequence[Answer], fetched: np.ndarray[Any, np.dtype[np.bool_]]
) -> LookupCounts:
    """Count by message; see `LookupCounts` for who counts where. Categories without a row count nothing."""
    rows = np.bincount(codes, minlength=len(answers) + 1)[1:]
    asked = rows > 0  # the tiers were asked for one message of each key
    messages = int(rows.sum())
    table, found = Tier.POSTGRES, State.FOUND
    postgres = int(asked[[answer.tier is table for answer in answers]].sum()) if answers else 0
    misses = int((asked & fetched).sum())
    # Most answers are found and fresh: only the others are looked at one by one.
    others = [
        (int(n), a.entry) for n, a in zip(rows, answers, strict=True) if a.entry.state is not found or a.entry.stale
    ]
    return LookupCounts(
        messages=messages,
        memory=messages - postgres - misses,
        postgres=postgres,
        misses=misses,
        stale=sum(n for n, entry in others if entry.stale),
        absent=sum(n for n, entry in others if entry.state is State.ABSENT),
        failed=sum(n for n, entry in others if entry.state is State.FAILED),
        distinct=int(asked.sum()),
    )
