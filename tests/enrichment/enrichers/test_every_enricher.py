"""What every enricher promises. A new one joins by a line in `CASES`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.caches.base import Entry, KeyLookup, State
from enrichment.enrichers.base import JSON, NO_KEY, OK, STALE, STATUS, Enricher, Enrichment, look_up_and_enrich
from enrichment.enrichers.business.enricher import BusinessEnricher
from enrichment.enrichers.business.risk import RiskRules
from enrichment.enrichers.geo.enricher import GeoEnricher
from enrichment.enrichers.testing import FixedLookup, make_events
from enrichment.enrichers.user.enricher import UserEnricher
from enrichment.messages import OUTPUT_COLUMNS, Context, Place, Profile, Reason, Source

RULES = RiskRules.load()


@dataclass(frozen=True)
class Case:
    """An enricher, the column of its key, one of its output columns, and what its lookup answers for a key."""

    build: Callable[[KeyLookup], Enricher]
    key: str
    column: str
    value: Callable[[str], Any]


CASES = {
    "geo": Case(GeoEnricher, "source_ip", "geo_city", lambda key: Place(city=f"at {key}")),
    "user": Case(UserEnricher, "user_id", "user_company", lambda key: Profile(company=f"at {key}")),
    "business": Case(
        lambda lookup: BusinessEnricher(lookup, RULES),
        "request_id",
        "business_unit",
        lambda key: Context(unit=f"at {key}"),
    ),
}
KEYS = ["b", None, "a", "b", "lost", None, "broken", "old", "a"]


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """Each enricher in turn."""
    found: Case = request.param
    return found


def lookup_of(case: Case) -> FixedLookup:
    """Knows `a`, `b` and, past its expiry, `old`; fails for `broken`."""
    return FixedLookup(
        {
            "a": case.value("a"),
            "b": case.value("b"),
            "old": Entry(State.FOUND, value=case.value("old"), stale=True),
            "broken": Entry(State.FAILED, reason=Reason.DATABASE_ERROR),
        },
        absent="nobody-knows",
    )


def run(case: Case, keys: list[str | None], lookup: KeyLookup) -> Enrichment:
    """Enrich with nothing at hand but what the enricher says that it reads."""
    enricher = case.build(lookup)
    events = make_events(**{case.key: keys})[[column for column in enricher.reads if column == case.key]]
    return look_up_and_enrich(enricher, events, earlier(len(keys), enricher.reads))


def earlier(rows: int, columns: tuple[str, ...]) -> Mapping[str, Enrichment]:
    """What geo and user add to a chunk without addresses and users, cut down to `columns` and the status."""
    events = make_events(source_ip=[None] * rows, user_id=[None] * rows)
    added = {
        enricher.name: look_up_and_enrich(enricher, events, {})
        for enricher in (GeoEnricher(FixedLookup({})), UserEnricher(FixedLookup({})))
    }
    return {
        name: Enrichment(
            a.codes, a.values[[c for c in a.values.columns if c in columns or c == STATUS]], a.fetched, a.counts
        )
        for name, a in added.items()
    }  # fmt: skip


def test_values_have_exactly_what_the_enricher_writes(case: Case) -> None:
    """An enricher adds the columns in `writes`, in that order, and says beside them what became of each key."""
    added = run(case, KEYS, lookup_of(case))
    assert tuple(added.values.columns) == (*case.build(FixedLookup({})).writes, STATUS, JSON)


def test_columns_are_the_enrichers_own_and_of_the_contract() -> None:
    """No two enrichers write the same column, and each column is one of the output's."""
    written = [column for case in CASES.values() for column in case.build(FixedLookup({})).writes]
    assert len(written) == len(set(written))
    assert set(written) < set(OUTPUT_COLUMNS)


def test_names_are_the_sources_of_the_contract() -> None:
    """An enricher is called what `enrichment_sources` calls it."""
    assert [case.build(FixedLookup({})).name for case in CASES.values()] == [source.value for source in Source]


def test_each_reads_only_keys_and_what_an_earlier_one_wrote() -> None:
    """In the order geo, user, business each enricher finds what it reads."""
    known = {"source_ip", "user_id", "request_id"}
    for case in CASES.values():
        enricher = case.build(FixedLookup({}))
        assert set(enricher.reads) <= known
        known |= set(enricher.writes)


def test_rows_keep_their_order_when_keys_repeat_fail_and_are_missing(case: Case) -> None:
    """Each row gets its own key's answer; what is not known is null."""
    added = run(case, KEYS, lookup_of(case))
    assert [None if pd.isna(value) else value for value in added.take(case.column)] == [
        "at b", None, "at a", "at b", None, None, None, "at old", "at a",
    ]  # fmt: skip


def test_status_says_why_columns_are_null(case: Case) -> None:
    """Answered, stale, absent, failed and no key at all are told apart."""
    added = run(case, KEYS, lookup_of(case))
    assert added.take(STATUS).tolist() == [
        OK, NO_KEY, OK, OK, "nobody-knows", NO_KEY, Reason.DATABASE_ERROR, STALE, OK,
    ]  # fmt: skip


def test_absence_past_its_expiry_is_told_from_one_of_now(case: Case) -> None:
    """Both are reasons; only the stale one says that the source could not be asked."""
    stale = Entry(State.ABSENT, reason=Reason.USER_NOT_FOUND, stale=True)
    added = run(case, ["a", "b"], FixedLookup({"a": stale, "b": Entry(State.ABSENT, reason=Reason.USER_NOT_FOUND)}))
    assert added.take(STATUS).tolist() == ["stale user-not-found", "user-not-found"]
    assert (added.counts.stale, added.counts.absent, added.counts.failed) == (1, 2, 0)


def test_row_zero_is_all_null(case: Case) -> None:
    """Rows without a key belong to row 0, which has nothing but nulls."""
    added = run(case, KEYS, lookup_of(case))
    writes = case.build(FixedLookup({})).writes
    assert [code == 0 for code in added.codes] == [key is None for key in KEYS]
    assert added.values.loc[0, list(writes)].isna().all()
    assert parsed(added.values[JSON][0]) == dict.fromkeys(writes)


def test_json_says_what_the_columns_say(case: Case) -> None:
    """The ready-made JSON of an answer holds exactly its columns, under their names and in their order."""
    added = run(case, KEYS, lookup_of(case))
    writes = case.build(FixedLookup({})).writes
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


def test_lookup_is_asked_once_for_distinct_keys(case: Case) -> None:
    """However many rows a key has, the lookup sees it once, and all keys in one call."""
    lookup = lookup_of(case)
    run(case, KEYS, lookup)
    assert [sorted(keys) for keys in lookup.asked] == [["a", "b", "broken", "lost", "old"]]


def test_lookup_is_not_asked_when_no_row_has_a_key(case: Case) -> None:
    """A chunk without keys costs no lookup."""
    lookup = FixedLookup({})
    added = run(case, [None, None], lookup)
    assert lookup.asked == []
    assert added.codes.tolist() == [0, 0]


def test_counts_are_by_message(case: Case) -> None:
    """The first message of a key counts for who answered it, every further one for memory."""
    counts = run(case, [*KEYS, "lost", "broken", "broken", "old"], lookup_of(case)).counts
    assert (counts.messages, counts.distinct, counts.misses, counts.memory) == (11, 5, 5, 6)
    assert (counts.absent, counts.failed, counts.stale) == (2, 3, 2)


def test_empty_chunk_adds_nothing(case: Case) -> None:
    """A chunk without messages has no rows, and still the columns."""
    added = run(case, [], FixedLookup({}))
    assert added.codes.tolist() == []
    assert added.counts.messages == 0


def test_input_is_left_untouched(case: Case) -> None:
    """Neither the events nor what earlier enrichers added are changed."""
    enricher = case.build(lookup_of(case))
    events = make_events(**{case.key: KEYS})
    before, added = events.copy(deep=True), earlier(len(KEYS), enricher.reads)
    values_before = {name: a.values.copy(deep=True) for name, a in added.items()}
    look_up_and_enrich(enricher, events, added)
    pd.testing.assert_frame_equal(events, before)
    for name, values in values_before.items():
        pd.testing.assert_frame_equal(added[name].values, values)


@pytest.mark.parametrize("name", CASES)
@given(keys=st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=30))
def test_join_keeps_rows_and_order_for_any_keys(name: str, keys: list[str | None]) -> None:
    """Whatever the keys, row i has the answer for key i."""
    case = CASES[name]
    lookup = FixedLookup({key: case.value(key) for key in keys if key is not None})
    taken = run(case, keys, lookup).take(case.column)
    assert [None if pd.isna(value) else value for value in taken] == [
        None if key is None else f"at {key}" for key in keys
    ]
