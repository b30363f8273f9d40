"""Entries and answers as columns: whatever they hold, they are what their objects say."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from enrichment.caches.base import Answer, Entry, State, Tier
from enrichment.caches.entries import Answers, Entries, last, lasting
from enrichment.codec.struct_columns import columns_of
from enrichment.enrichers.user import Profile
from enrichment.messages import Reason

texts = st.text(st.characters(codec="utf-8"), max_size=3)
profiles = st.builds(Profile, st.none() | texts, st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | texts)
parts: dict[str, Any] = {"expires_at": st.floats(0, 2e9), "version": texts, "stale": st.booleans()}
entry = st.one_of(
    st.builds(Entry, st.just(State.FOUND), profiles, **parts),
    st.builds(Entry, st.sampled_from([State.ABSENT, State.FAILED]), st.none(), st.sampled_from(Reason), **parts),
)
some_entries = st.dictionaries(texts, entry)


@given(some_entries)
def test_entries_are_those_that_they_were_made_of(entries: dict[str, Entry]) -> None:
    """In their order, with all that they hold."""
    columns = Entries.of(entries)
    assert dict(columns) == entries
    assert list(columns) == list(entries)
    assert Entries.of(columns) is columns


@given(some_entries, st.data())
def test_filtered_entries_and_the_other_keys_are_all(entries: dict[str, Entry], data: st.DataObject) -> None:
    """Each key is among those that are kept or among the others."""
    wanted = data.draw(st.lists(st.booleans(), min_size=len(entries), max_size=len(entries)))
    kept = Entries.of(entries).filter(pa.array(wanted, pa.bool_()))
    assert dict(kept) == {key: entries[key] for key, want in zip(entries, wanted, strict=True) if want}
    assert list(kept.others(list(entries))) == [key for key, want in zip(entries, wanted, strict=True) if not want]


@given(st.lists(some_entries, max_size=3), st.randoms(), st.sets(texts))
def test_latest_entry_of_each_key_is_that_of_the_last_part(
    parts: list[dict[str, Entry]], random: Any, unknown: set[str]
) -> None:
    """As dictionaries that are merged one after the other; keys that nobody asked for are left out."""
    merged = {key: entry for part in parts for key, entry in part.items()}
    keys = [*dict.fromkeys([*merged, *unknown])]
    random.shuffle(keys)
    keys = keys[: len(keys) // 2 + 1]
    latest = Entries.latest(keys, [Entries.of(part) for part in parts])
    assert dict(latest) == {key: merged[key] for key in keys if key in merged}
    assert list(latest.others(keys)) == [key for key in keys if key not in merged]


@given(some_entries, texts)
def test_dated_entries_have_the_expiry_of_their_state(entries: dict[str, Entry], version: str) -> None:
    """And the version; nothing else changes."""
    expiries = {State.FOUND: 3.0, State.ABSENT: 2.0, State.FAILED: 1.0}
    assert dict(Entries.of(entries).dated(expiries, version)) == {
        key: replace(entry, expires_at=expiries[entry.state], version=version) for key, entry in entries.items()
    }


@given(some_entries)
def test_lasting_entries_are_those_that_the_source_gave(entries: dict[str, Entry]) -> None:
    """Neither failures nor what was served stale."""
    assert dict(lasting(entries)) == {
        key: entry for key, entry in entries.items() if entry.state is not State.FAILED and not entry.stale
    }


@given(st.dictionaries(texts, profiles), texts)
def test_found_entries_are_made_of_columns(profiles: dict[str, Profile], version: str) -> None:
    """As if they were made of objects."""
    columns = columns_of(list(profiles.values()), Profile)
    assert dict(Entries.found(list(profiles), columns, Profile, version)) == {
        key: Entry(State.FOUND, profile, version=version) for key, profile in profiles.items()
    }


@given(some_entries, st.integers(0, 5))
def test_last_entries_are_the_same_of_columns_and_objects(entries: dict[str, Entry], count: int) -> None:
    """As many as are asked for, or all."""
    expected = dict(list(entries.items())[-count:] if count else [])
    assert dict(last(entries, count)) == dict(last(Entries.of(entries), count)) == expected


@given(st.dictionaries(texts, st.tuples(entry, st.sampled_from(Tier))), st.randoms())
def test_answers_of_several_tiers_stand_in_the_order_of_the_keys(
    answers: dict[str, tuple[Entry, Tier]], random: Any
) -> None:
    """Whichever tier gives which, and also where one has only absent keys, so no columns of values."""
    tiers = [
        Entries.of({key: given for key, (given, by) in answers.items() if by is tier}).from_tier(tier) for tier in Tier
    ]
    keys = list(answers)
    random.shuffle(keys)
    expected = [Answer(*answers[key]) for key in keys]
    found = Answers.in_order(keys, tiers)
    assert list(found) == expected
    assert found[:1] == expected[:1]
    assert list(Answers.of(keys, expected)) == expected


@given(some_entries)
def test_fields_are_null_where_nothing_was_found(entries: dict[str, Entry]) -> None:
    """There is a column for each field even where no entry has a value."""
    fields = Entries.of(entries).from_tier(Tier.POSTGRES).fields(Profile)
    nothing = Profile()
    for name in Profile.__struct_fields__:
        assert fields[f"user_{name}"].to_pylist() == [getattr(e.value or nothing, name) for e in entries.values()]


def test_value_of_an_entry_that_is_not_found_is_not_served() -> None:
    """A row of a table may hold more than its state allows."""
    answers = Answers.of(["key"], [Answer(Entry(State.ABSENT, Profile("free"), "user-not-found"), Tier.POSTGRES)])
    assert answers[0].entry.value is None
    assert answers.fields(Profile)["user_subscription_tier"].to_pylist() == [None]


def test_key_without_an_answer_is_an_error() -> None:
    """It is never answered with another key's."""
    known = Entries.of({"a": Entry(State.ABSENT, reason="user-not-found")}).from_tier(Tier.MEMORY)
    with pytest.raises(KeyError, match="lost"):
        Answers.in_order(["a", "lost"], [known])
