"""What an enricher is, and the one way in which answers about distinct keys become columns of a chunk.

An enricher works on the distinct keys of a chunk and says for each row which of its answers is meant (`Enrichment`).
The JSON of an answer is written once per distinct key, so that publishing only has to put bytes side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pandas.arrays import ArrowExtensionArray

from enrichment.caches.base import KeyLookup, LookupCounts, State, Tier
from enrichment.caches.entries import IS_STALE, REASON, STATE, TIER, Answers
from enrichment.codec.struct_columns import Words, fragments
from enrichment.messages import OUTAGES, Reason

JSON, STATUS = "json", "status"
# Words of the status column beside those of `Reason`: the key was absent, answered, or answered past its expiry.
NO_KEY, OK, STALE = "", "ok", "stale"
# A reason that was served past its expiry: the source said so once, and could not be asked again.
STALE_REASONS = {f"{STALE} {reason}": reason for reason in Reason}
# With these a message goes without an answer of now, and another try may do better. That a key did not exist when it
# was last asked about is not one: users sign up.
UNANSWERED = frozenset({*OUTAGES, *STALE_REASONS})


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

    def take(self, column: str) -> pd.Series[Any]:
        """One column, a value for each row of the chunk."""
        return self.values[column].take(self.codes).reset_index(drop=True)


class Enricher(Protocol):
    """Adds the columns in `writes`, reads only those in `reads`, keeps every row and the order, leaves its input
    untouched."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def look_up(self, events: pd.DataFrame) -> Answers:
        """Ask for the distinct keys of a chunk; `events` has its keys as categoricals. The pipeline does so one chunk
        ahead, in a thread."""
        ...

    def enrich(self, events: pd.DataFrame, answers: Answers, added: Mapping[str, Enrichment]) -> Enrichment:
        """What follows from the answers; `added` is what earlier enrichers added to the chunk, by their names."""
        ...


def look_up_and_enrich(enricher: Enricher, events: pd.DataFrame, added: Mapping[str, Enrichment]) -> Enrichment:
    """Both steps for one chunk."""
    return enricher.enrich(events, enricher.look_up(events), added)


def ask(lookup: KeyLookup, keys: pd.Series[Any]) -> Answers:
    """Answers for the distinct keys of a categorical column."""
    distinct = keys.cat.categories.tolist()
    return Answers.of(distinct, lookup.answer_many(distinct) if distinct else [])


def join(keys: pd.Series[Any], answers: Answers, words: Words) -> Enrichment:
    """The answers for a column's distinct keys, taken back to its rows by code.

    `words` is the struct that the lookup's entries hold; a key without a value gets nulls.
    """
    codes = keys.cat.codes.to_numpy(dtype=np.int32) + np.int32(1)
    columns = {name: _after(None, column) for name, column in answers.fields(words).items()}
    is_stale, reasons = answers.column(IS_STALE), answers.column(REASON)
    if is_stale.true_count:
        reasons = pc.if_else(is_stale, pc.binary_join_element_wise(STALE, reasons, " "), reasons)
    statuses = pc.if_else(pc.equal(answers.column(STATE), State.FOUND), pc.if_else(is_stale, STALE, OK), reasons)
    values = frame_of({**columns, STATUS: _after(NO_KEY, statuses), JSON: fragments(columns)})
    fetched = np.concatenate([[False], answers.are(TIER, Tier.SOURCE)])
    return Enrichment(codes, values, fetched, count(codes, answers))


def _after(first: str | None, column: pa.Array) -> pa.Array:
    """What rows without a key have, and a column behind it."""
    return pa.concat_arrays([pa.array([first], column.type), column])


def reason_of(status: str) -> str:
    """A status without the word that it is stale, if it is the reason of one that is."""
    return STALE_REASONS.get(status, status)


def reasons_of(statuses: pd.Series[Any]) -> pd.Series[Any]:
    """The same for a column, in which it is rare."""
    return statuses.map(reason_of) if statuses.isin(STALE_REASONS).any() else statuses


def frame_of(columns: Mapping[str, pa.Array]) -> pd.DataFrame:
    """A frame that keeps Arrow's columns as they are."""
    return pd.DataFrame({name: ArrowExtensionArray(column) for name, column in columns.items()}, copy=False)


def count(codes: np.ndarray[Any, np.dtype[np.int32]], answers: Answers) -> LookupCounts:
    """Count by message; see `LookupCounts` for who counts where. Categories without a row count nothing."""
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
