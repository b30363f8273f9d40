"""The contract of a message, with the keys that enrichments declare."""

from __future__ import annotations

import msgspec
import pytest

from enrichment.messages import Event, event_type

KEYS = ("source_ip", "user_id", "request_id")


def test_contract_is_itself_without_other_keys() -> None:
    """Its own keys, or some of them, change nothing."""
    assert event_type(KEYS) is event_type(KEYS[:1]) is event_type(()) is event_type(("service",)) is Event


def test_added_keys_stand_behind_the_fields_of_the_contract() -> None:
    """Each once, in their order, optional, and a number where it is one; the same keys have the same type."""
    keys = ("b.c", "user_id", "span_id", "a", "b.c")
    event = event_type(keys)
    known, fields = msgspec.structs.fields(Event), msgspec.structs.fields(event)
    assert event is event_type(keys)
    assert issubclass(event, Event)
    assert [field.encode_name for field in fields] == [*(field.name for field in known), "b.c", "a"]
    assert [field.required for field in fields] == [True] * 4 + [False] * 7
    assert [field.encode_name for field in fields if field.type == str | int | float | None] == [
        "span_id", *KEYS, "b.c", "a",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ['a "quoted" name', "a\\b", "a\tb", "\ud800"])
def test_name_that_needs_an_escape_is_no_key(name: str) -> None:
    """It is refused when it is declared, not when a message comes."""
    with pytest.raises(ValueError, match=r"must not contain|surrogates not allowed"):
        event_type((*KEYS, name))
