"""What an enricher does: the one way in which answers about distinct keys become columns of a chunk.

An enricher works on the distinct keys of a chunk and says for each row which of its answers is meant (`Enrichment`).
The JSON of an answer is written once per distinct key, so that publishing only has to put bytes side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.arrays import ArrowExtensionArray

from enrichment.caches.base import KeyLookup, LookupCounts, State, Tier
from enrichment.caches.entries import IS_STALE, REASON, STATE, TIER, Answers
from enrichment.codec.buffers import Flags
from enrichment.codec.struct_columns import StructType, arrow_types, fragments
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import NO_KEY, OK, REGISTRY, STALE

JSON, STATUS = "json", "status"


@dataclass(frozen=True, slots=True)
class Enrichment:
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

    def have(self, statuses: Collection[str]) -> Flags:
        """Which rows of `values` have one of these statuses."""
        column = pa.array(self.values[STATUS].array)
        found: Flags = pc.is_in(column, pa.array(statuses, column.type)).to_numpy(zero_copy_only=False)
        return found

    def take(self, column: str) -> pd.Series[Any]:
        """One column, a value for each row of the chunk."""
        return self.values[column].take(self.codes).reset_index(drop=True)


# Takes the keys of a chunk (`events_of`, `keys_of`), and what was added to it.
OnChunk = Callable[[pd.DataFrame, Enrichment], None]


class Derivation(Protocol):
    """Works out an enricher's computed columns."""

    def derive(self, answered: Enrichment, earlier: Mapping[str, Enrichment]) -> Enrichment:
        """The answers of a chunk with the computed columns after theirs; `earlier` has the enrichments that were
        declared as read, by their names."""
        ...


class CheckedCondition(msgspec.Struct, frozen=True):
    """A condition of a rule, the value that it was checked with, and whether it holds."""

    text: str
    value: Any
    holds: bool


class CheckedRule(msgspec.Struct, frozen=True):
    """A rule by which columns are computed, and whether it fired."""

    name: str
    weight: float
    has_fired: bool
    conditions: list[CheckedCondition]


class Explanation(msgspec.Struct, frozen=True):
    """Why the computed columns of a message are what they are; `note` says what the rules do not."""

    rules: list[CheckedRule]
    note: str = ""


@runtime_checkable
class ExplainedDerivation(Derivation, Protocol):
    """A derivation that can say why."""

    def explain(self, answered: Enrichment, earlier: Mapping[str, Enrichment], row: int) -> Explanation:
        """Why `derive` computes what it does for a row of the chunk."""
        ...


class OpenEnricher:
    """A declared enrichment with its lookup. Keeps every row and the order, leaves its input untouched.

    `on_chunk` sees the keys of each chunk that is enriched for the first time, and what was added to it.
    """

    def __init__(
        self,
        declaration: LookupEnricher,
        lookup: KeyLookup,
        derivation: Derivation | None = None,
        on_chunk: OnChunk | None = None,
        build: str = "",
    ) -> None:
        self.declaration = declaration
        self.on_chunk = on_chunk
        self.build = build
        self._lookup = lookup
        self._derivation = derivation

    def look_up(self, events: pd.DataFrame) -> Answers:
        """Look up the distinct keys of a chunk; `events` has its keys as `events_of` makes them. The pipeline
        prefetches: it does this one chunk ahead, in a thread."""
        distinct = keys_of(events, self.declaration.key).dictionary.to_pylist()
        return Answers.of(distinct, self._lookup.answer_many(distinct) if distinct else [])

    def enrich(self, events: pd.DataFrame, answers: Answers, earlier: Mapping[str, Enrichment]) -> Enrichment:
        """The enrichment of a chunk, from the answers; `earlier` has those of the enrichments that it reads, by their
        names."""
        answered = self.join(events, answers)
        return answered if self._derivation is None else self._derivation.derive(answered, earlier)

    def join(self, events: pd.DataFrame, answers: Answers) -> Enrichment:
        """The same without the computed columns."""
        return join(keys_of(events, self.declaration.key), answers, self.declaration.columns)


def events_of(keys: Mapping[str, pa.Array]) -> pd.DataFrame:
    """A chunk as enrichers take it, from columns of text: for each field of keys the distinct ones, in the order in
    which they come, and for each row which of them it has.

    As Arrow's dictionaries: pandas' categoricals check that their categories are distinct, which takes several times as
    long as finding them did.
    """
    return frame_of({field: column.dictionary_encode() for field, column in keys.items()})


def keys_of(events: pd.DataFrame, field: str) -> pa.DictionaryArray:
    """A field's keys in such a chunk; null in rows without one."""
    return pa.array(events[field].array)


def value_types(declaration: LookupEnricher) -> dict[str, pa.DataType]:
    """The Arrow types of an enrichment's output columns, in order."""
    return {name: kind for struct in declaration.structs for name, kind in arrow_types(struct).items()}


def join(keys: pa.DictionaryArray, answers: Answers, struct: StructType) -> Enrichment:
    """The answers for a column's distinct keys, taken back to its rows by code.

    `struct` is the type of the entries' values; a key without a value gets nulls.
    """
    codes = pc.fill_null(keys.indices, -1).to_numpy() + np.int32(1)
    columns = {name: _after(None, column) for name, column in answers.fields(struct).items()}
    is_stale, reasons = answers.column(IS_STALE), answers.column(REASON)
    if is_stale.true_count:
        reasons = pc.if_else(is_stale, pc.binary_join_element_wise(STALE, reasons, " "), reasons)
    statuses = pc.if_else(pc.equal(answers.column(STATE), State.FOUND), pc.if_else(is_stale, STALE, OK), reasons)
    values = frame_of({**columns, STATUS: _after(NO_KEY, statuses), JSON: fragments(columns)})
    fetched = np.concatenate([[False], answers.are(TIER, Tier.SOURCE)])
    return Enrichment(codes, values, fetched, count(codes, answers))


def _after(first: str | None, column: pa.Array) -> pa.Array:
    """A column, preceded by the value for rows without a key."""
    return pa.concat_arrays([pa.array([first], column.type), column])


def reason_of(status: str) -> str:
    """A status without its mark of being stale, if it has one."""
    return REGISTRY.stale_reasons.get(status, status)


def reasons_of(statuses: pd.Series[Any]) -> pd.Series[Any]:
    """The same for a column, in which it is rare."""
    return statuses.map(reason_of) if statuses.isin(REGISTRY.stale_reasons).any() else statuses


def frame_of(columns: Mapping[str, pa.Array]) -> pd.DataFrame:
    """A frame that keeps Arrow's columns as they are."""
    return pd.DataFrame({name: ArrowExtensionArray(column) for name, column in columns.items()}, copy=False)


def batch_of(values: pd.DataFrame, schema: pa.Schema) -> pa.RecordBatch:
    """The reverse, for a frame of any columns that have a place in the schema; what pandas takes for missing is null.

    Raises `ValueError` that names a column which is missing, or holds what its type does not.
    """
    return pa.record_batch([_column_of(values, field) for field in schema], schema=schema)


def _column_of(values: pd.DataFrame, field: pa.Field) -> pa.Array:
    if (found := list(values.columns).count(field.name)) != 1:
        raise ValueError(f"{found} columns {field.name}, where an enrichment of {list(values.columns)} has one")
    try:
        return pa.array(values[field.name].array, field.type, from_pandas=True)
    except (pa.ArrowException, TypeError, OverflowError) as wrong:
        raise ValueError(f"column {field.name} ({field.type}): {wrong}") from wrong


def count(codes: np.ndarray[Any, np.dtype[np.int32]], answers: Answers) -> LookupCounts:
    """Count by message, as `LookupCounts` says. Keys without a row count nothing."""
    rows = np.bincount(codes, minlength=len(answers) + 1)[1:]
    asked = rows > 0  # the tiers were asked for one message of each key
    messages = int(rows.sum())
    stale = answers.column(IS_STALE).to_numpy(zero_copy_only=False)
    postgres, misses = (int(asked[answers.are(TIER, tier)].sum()) for tier in (Tier.POSTGRES, Tier.SOURCE))
    return LookupCounts(
        messages=messages,
        memory=messages - postgres - misses,
        postgres=postgres,
        misses=misses,
        stale=int(rows[stale].sum()),
        absent=int(rows[answers.are(STATE, State.ABSENT)].sum()),
        failed=int(rows[answers.are(STATE, State.FAILED)].sum()),
        distinct=int(asked.sum()),
    )
