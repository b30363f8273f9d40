"""Counts of what messages hold: by message, few values, and none that PostgreSQL cannot keep."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.batches.contents import WHILE_COUNTING, ContentCounter, count_values
from enrichment.caches.base import LookupCounts
from enrichment.codec.struct_columns import ARROW_TYPES
from enrichment.enrichers.base import Enrichment
from enrichment.enrichers.business import BUSINESS
from enrichment.enrichers.declare import CountedColumns
from enrichment.enrichers.geo import GEO
from enrichment.store.contents import KEPT, LONGEST, OTHERS, kept, shown, total_contents

COUNTRY, NOTHING = GEO.counted[0].columns[0], pd.DataFrame()
TEXT, LIST = (pd.ArrowDtype(ARROW_TYPES[kind]) for kind in (str, tuple[str, ...]))


def added(codes: list[int], **columns: list[Any]) -> Enrichment:
    """What was added to a chunk; row 0 of the columns is that of messages without a key."""
    frame = pd.DataFrame({
        name: pd.Series([None, *values], dtype=LIST if any(isinstance(v, list) for v in values) else TEXT)
        for name, values in columns.items()
    })  # fmt: skip
    return Enrichment(np.array(codes, np.int32), frame, np.zeros(len(frame), bool), LookupCounts())


def test_messages_are_counted_and_not_keys() -> None:
    """Two addresses of a country, and one that no message of the chunk has."""
    chunk = added([1, 1, 1, 2, 0, 3], **{COUNTRY: ["DE", "DE", "FR", "US"]})
    assert count_values(chunk, GEO.counted[0]) == {"DE": 4, "FR": 1}


def test_list_counts_for_each_of_its_values() -> None:
    """An empty one and a missing one for none."""
    counted = CountedColumns(columns=("tags",), title="")
    chunk = added([1, 1, 2, 3, 4, 0], tags=[["a", "b"], ["b"], [], None])
    assert count_values(chunk, counted) == {"a": 2, "b": 3}


def test_pair_counts_its_combinations() -> None:
    """Where both are known."""
    counted = CountedColumns(columns=("unit", "level"), title="")
    chunk = added([1, 1, 2, 3, 4], unit=["pay", "pay", "ship", None], level=["low", "high", None, "low"])
    assert count_values(chunk, counted) == {"pay\tlow": 2, "pay\thigh": 1}


def test_values_that_are_shown_alike_count_together() -> None:
    """Those that differ only where they are cut off."""
    counted = CountedColumns(columns=("tag",), title="")
    chunk = added([1, 2, 2], tag=["x" * LONGEST + "1", "x" * LONGEST + "2"])
    assert count_values(chunk, counted) == {"x" * LONGEST: 3}


VALUES = st.none() | st.sampled_from(["", "a", "b", "c"])


@given(st.lists(st.tuples(VALUES, VALUES), max_size=6), st.lists(st.integers(0, 6), max_size=20))
def test_counts_are_those_of_counting_message_by_message(rows: list[tuple[Any, Any]], codes: list[int]) -> None:
    """Whatever is null, and whatever occurs in no message."""
    codes = [code for code in codes if code <= len(rows)]
    counted = CountedColumns(columns=("one", "other"), title="")
    chunk = added(codes, one=[one for one, _ in rows], other=[other for _, other in rows])
    messages = [(None, None) if code == 0 else rows[code - 1] for code in codes]
    plain = Counter(shown(message) for message in messages if None not in message)
    assert count_values(chunk, counted) == plain


def test_counter_adds_up_chunks_and_passes_them_on() -> None:
    """Whatever is declared, and nothing of what no message has."""
    seen: list[Any] = []
    counter = ContentCounter(BUSINESS, lambda events, chunk: seen.append((events, chunk)))
    columns: dict[str, list[Any]] = {
        "business_unit": ["pay"],
        "business_risk_level": ["low"],
        "business_fraud_indicators": [None],
    }
    chunk = added([1, 1, 0], **columns)
    for _ in range(2):
        counter(NOTHING, chunk)
    assert counter.contents == {"business_unit business_risk_level": {"pay\tlow": 4}}
    assert len(seen) == 2


def test_column_of_any_values_is_kept_short() -> None:
    """Whoever declares an id as counted gets the most frequent ones; all messages are counted."""
    counter = ContentCounter(GEO)
    for start in range(0, 3 * WHILE_COUNTING, WHILE_COUNTING):
        values = [f"id-{n}" for n in range(start, start + WHILE_COUNTING)]
        counter(NOTHING, added([*range(1, WHILE_COUNTING + 1), 1], **{COUNTRY: values}))
    [found] = counter.contents.values()
    assert len(found) == KEPT + 1
    assert sum(found.values()) == 3 * (WHILE_COUNTING + 1)
    assert found["id-0"] == 2


@pytest.mark.parametrize("text", ["a\0b", "a\tb", "x" * 10_000], ids=["nul", "separator", "long"])
def test_any_text_can_be_kept(text: str) -> None:
    """PostgreSQL has no NUL, and a tab tells the values of a pair apart."""
    [value] = count_values(added([1], **{COUNTRY: [text]}), GEO.counted[0])
    assert len(value) <= LONGEST
    assert not {"\0", "\t"}.intersection(value)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers(1, 50), max_size=12), max_size=6))
def test_no_message_is_lost_when_counts_are_added_up(found: list[dict[str, int]]) -> None:
    """However many values there are, and in however many steps."""
    short = [{"column": kept(counts, 3)} for counts in found]
    total = total_contents([total_contents(short[:2]), *short[2:]])
    assert sum(total.get("column", {}).values()) == sum(sum(counts.values()) for counts in found)


def test_most_frequent_values_are_kept() -> None:
    """The first in the alphabet where they are equal; the rest, and what was the rest before, together."""
    counts = {"b": 2, "a": 2, "c": 9, "d": 1, OTHERS: 100}
    assert kept(counts, 2) == {"c": 9, "a": 2, OTHERS: 103}
