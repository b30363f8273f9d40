"""What every declared enrichment promises: a new one is tried as soon as it is declared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.caches.base import Entry, KeyLookup, State
from enrichment.codec.struct_columns import not_null_type
from enrichment.enrichers.base import JSON, STATUS, Enrichment
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import NO_KEY, OK, REGISTRY, STALE
from enrichment.enrichers.testing import FixedLookup, look_up_and_enrich, make_events, open_over

KEYS = ["b", None, "a", "b", "lost", None, "broken", "old", "a"]


@pytest.fixture(params=REGISTRY.enrichers, ids=list(REGISTRY.by_name))
def case(request: pytest.FixtureRequest) -> LookupEnricher:
    """Each enrichment in turn."""
    found: LookupEnricher = request.param
    return found


def column_of(case: LookupEnricher) -> str:
    """One of its columns, of text."""
    return next(f.encode_name for f in msgspec.structs.fields(case.columns) if not_null_type(f) is str)


def value_of(case: LookupEnricher, key: str) -> msgspec.Struct:
    """What its lookup answers for a key."""
    field = next(f.name for f in msgspec.structs.fields(case.columns) if f.encode_name == column_of(case))
    return case.columns(**{field: f"at {key}"})


def lookup_of(case: LookupEnricher) -> FixedLookup:
    """Knows `a`, `b` and, past its expiry, `old`; fails for `broken`."""
    return FixedLookup(
        {
            "a": value_of(case, "a"),
            "b": value_of(case, "b"),
            "old": Entry(State.FOUND, value=value_of(case, "old"), stale=True),
            "broken": Entry(State.FAILED, reason="database-connection-error"),
        },
        absent="nobody-knows",
    )


def run(case: LookupEnricher, keys: list[str | None], lookup: KeyLookup) -> Enrichment:
    """Enrich with nothing at hand but what the enrichment says that it reads."""
    return look_up_and_enrich(open_over(case, lookup), make_events(**{case.key: keys}), earlier(len(keys), case))


def earlier(rows: int, case: LookupEnricher) -> Mapping[str, Enrichment]:
    """What the enrichments that it reads add to a chunk without keys."""
    added: dict[str, Enrichment] = {}
    for declaration in REGISTRY.earlier(case):
        events = make_events(**{declaration.key: [None] * rows})
        own = {e.name: added[e.name] for e in REGISTRY.earlier(declaration)}
        added[declaration.name] = look_up_and_enrich(open_over(declaration, FixedLookup({})), events, own)
    return added


def test_values_have_exactly_what_the_enricher_writes(case: LookupEnricher) -> None:
    """An enricher adds the declared columns, in that order, and says beside them what became of each key."""
    added = run(case, KEYS, lookup_of(case))
    assert tuple(added.values.columns) == (*case.output_columns, STATUS, JSON)


def test_rows_keep_their_order_when_keys_repeat_fail_and_are_missing(case: LookupEnricher) -> None:
    """Each row gets its own key's answer; what is not known is null."""
    added = run(case, KEYS, lookup_of(case))
    assert [None if pd.isna(value) else value for value in added.take(column_of(case))] == [
        "at b", None, "at a", "at b", None, None, None, "at old", "at a",
    ]  # fmt: skip


def test_status_says_why_columns_are_null(case: LookupEnricher) -> None:
    """Answered, stale, absent, failed and no key at all are told apart."""
    added = run(case, KEYS, lookup_of(case))
    assert added.take(STATUS).tolist() == [
        OK, NO_KEY, OK, OK, "nobody-knows", NO_KEY, "database-connection-error", STALE, OK,
    ]  # fmt: skip


def test_absence_past_its_expiry_is_told_from_one_of_now(case: LookupEnricher) -> None:
    """Both are reasons; only the stale one says that the source could not be asked."""
    stale = Entry(State.ABSENT, reason="user-not-found", stale=True)
    added = run(case, ["a", "b"], FixedLookup({"a": stale, "b": Entry(State.ABSENT, reason="user-not-found")}))
    assert added.take(STATUS).tolist() == ["stale user-not-found", "user-not-found"]
    assert (added.counts.stale, added.counts.absent, added.counts.failed) == (1, 2, 0)


def test_row_zero_is_all_null(case: LookupEnricher) -> None:
    """Rows without a key belong to row 0, which has nothing but nulls."""
    added = run(case, KEYS, lookup_of(case))
    writes = case.output_columns
    assert [code == 0 for code in added.codes] == [key is None for key in KEYS]
    assert added.values.loc[0, list(writes)].isna().all()
    assert parsed(added.values[JSON][0]) == dict.fromkeys(writes)


def test_json_says_what_the_columns_say(case: LookupEnricher) -> None:
    """The ready-made JSON of an answer holds exactly its columns, under their names and in their order."""
    added = run(case, KEYS, lookup_of(case))
    writes = case.output_columns
    for _, row in added.values.iterrows():
        written = parsed(row[JSON])
        assert tuple(written) == writes
        assert written == {name: plain(row[name]) for name in writes}


def parsed(fragment: bytes) -> dict[str, Any]:
    """A fragment as the JSON object that it becomes."""
    found: dict[str, Any] = json.loads(b"{%s}" % fragment)
    return found


def plain(value: Any) -> Any:
    """A cell as JSON has it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if pd.isna(value) else value


def test_lookup_is_asked_once_for_distinct_keys(case: LookupEnricher) -> None:
    """However many rows a key has, the lookup sees it once, and all keys in one call."""
    lookup = lookup_of(case)
    run(case, KEYS, lookup)
    assert [sorted(keys) for keys in lookup.asked] == [["a", "b", "broken", "lost", "old"]]


def test_lookup_is_not_asked_when_no_row_has_a_key(case: LookupEnricher) -> None:
    """A chunk without keys costs no lookup."""
    lookup = FixedLookup({})
    added = run(case, [None, None], lookup)
    assert lookup.asked == []
    assert added.codes.tolist() == [0, 0]


def test_counts_are_by_message(case: LookupEnricher) -> None:
    """The first message of a key counts for who answered it, every further one for memory."""
    counts = run(case, [*KEYS, "lost", "broken", "broken", "old"], lookup_of(case)).counts
    assert (counts.messages, counts.distinct, counts.misses, counts.memory) == (11, 5, 5, 6)
    assert (counts.absent, counts.failed, counts.stale) == (2, 3, 2)


def test_empty_chunk_adds_nothing(case: LookupEnricher) -> None:
    """A chunk without messages has no rows, and still the columns."""
    added = run(case, [], FixedLookup({}))
    assert added.codes.tolist() == []
    assert added.counts.messages == 0


def test_input_is_left_untouched(case: LookupEnricher) -> None:
    """Neither the events nor what earlier enrichers added are changed."""
    enricher = open_over(case, lookup_of(case))
    events = make_events(**{case.key: KEYS})
    before, added = events.copy(deep=True), earlier(len(KEYS), case)
    values_before = {name: a.values.copy(deep=True) for name, a in added.items()}
    look_up_and_enrich(enricher, events, added)
    pd.testing.assert_frame_equal(events, before)
    for name, values in values_before.items():
        pd.testing.assert_frame_equal(added[name].values, values)


@pytest.mark.parametrize("name", REGISTRY.by_name)
@given(keys=st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=30))
def test_join_keeps_rows_and_order_for_any_keys(name: str, keys: list[str | None]) -> None:
    """Whatever the keys, row i has the answer for key i."""
    case = REGISTRY.by_name[name]
    lookup = FixedLookup({key: value_of(case, key) for key in keys if key is not None})
    taken = run(case, keys, lookup).take(column_of(case))
    assert [None if pd.isna(value) else value for value in taken] == [
        None if key is None else f"at {key}" for key in keys
    ]
