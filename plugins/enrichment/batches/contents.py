"""What messages hold, counted: how many have each value of the columns that an enrichment declares as counted, and how
many dead letters each fingerprint has.

Few values are kept of each, the most frequent ones; the others are counted together. So a column with any number of
values costs a row of metrics no more than one with a few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.enrichers.base import Enrichment, OnChunk
from enrichment.enrichers.declare import CountedColumns, LookupEnricher
from enrichment.store.contents import Contents, kept, shown

# Values that are told apart while a batch is counted.
WHILE_COUNTING = 2_000


class ContentCounter:
    """Counts the messages of a batch by what an enrichment added to them, chunk by chunk, and passes the chunks on."""

    def __init__(self, declaration: LookupEnricher, on_chunk: OnChunk | None = None) -> None:
        self._declaration = declaration
        self._on_chunk = on_chunk
        self._counts: dict[str, Counter[str]] = {counted.name: Counter() for counted in declaration.counted}

    def __call__(self, events: pd.DataFrame, added: Enrichment) -> None:
        """Count a chunk."""
        for counted in self._declaration.counted:
            found = self._counts[counted.name]
            found.update(count_values(added, counted))
            if len(found) > WHILE_COUNTING:
                self._counts[counted.name] = Counter(kept(found))
        if self._on_chunk is not None:
            self._on_chunk(events, added)

    @property
    def contents(self) -> Contents:
        """The counts by the names of what is counted; what no message has is missing."""
        return {name: kept(found) for name, found in self._counts.items() if found}


def count_values(added: Enrichment, counted: CountedColumns) -> Mapping[str, int]:
    """How many messages have each value, or each combination of values, of these columns; those with a null in one of
    them are not counted. A list counts for each of its values."""
    columns = [pa.array(added.values[name].array) for name in counted.columns]
    messages = np.bincount(added.codes, minlength=len(added.values))
    if pa.types.is_list(columns[0].type):
        messages = messages[pc.list_parent_indices(columns[0]).to_numpy()]
        columns = [pc.list_flatten(columns[0])]
    # Each combination of values as one number: grouping texts takes three times as long.
    encoded = [column.dictionary_encode() for column in columns]
    combined = np.zeros(len(messages), np.int64)
    for column in encoded:
        combined = combined * len(column.dictionary) + pc.fill_null(column.indices, 0)
    is_counted = np.logical_and.reduce([messages > 0, *(column.is_valid() for column in columns)])
    found = pa.array(combined[is_counted]).dictionary_encode()
    totals = np.bincount(found.indices, messages[is_counted], len(found.dictionary)).astype(np.int64)
    numbers, values = found.dictionary.to_numpy(), list[list[str]]()
    for column in reversed(encoded):
        numbers, places = np.divmod(numbers, max(1, len(column.dictionary)))
        values.insert(0, column.dictionary.take(pa.array(places)).to_pylist())
    counts: Counter[str] = Counter()
    for combination, count in zip(zip(*values, strict=True), totals.tolist(), strict=True):
        counts[shown(combination)] += count  # several may be shown alike: long ones
    return counts
