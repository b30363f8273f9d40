"""Any field of a message may be a key: it is found on both paths, and costs a message neither of them."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from enrichment.codec.decode import Decoded, decode, reject_all
from enrichment.messages import Reason

KEYS = ("source_ip", "user_id", "request_id")
FIELDS = ("timestamp", "service", "level", "message", "trace_id", "span_id", *KEYS)
WHOLE = {name: f"a {name}" for name in FIELDS}
ADDED = ["session_id", "http.session-id", "größe", "__typename", "class", "_0", "a name", ""]
added = pytest.mark.parametrize("name", ADDED)


def value_of(key: str, raw: str, **fields: Any) -> bytes:
    """A whole message with one more field, whatever its JSON."""
    return json.dumps(WHOLE | fields)[:-1].encode() + f",{json.dumps(key, ensure_ascii=False)}:{raw}}}".encode()


def decode_one(value: bytes, keys: tuple[str, ...]) -> Decoded:
    """A message on its own."""
    return decode(pa.array([value], pa.binary()), keys)


FOUND = {
    "text": ('"a key"', "a key", True),
    "text beyond ASCII": ('"schlüssel"', "schlüssel", True),
    "whole number": ("12345678901234567890123", "12345678901234567890123", False),
    "number as it is written": ("1.50", "1.50", False),
    "no finite number": ("-1E400", "-1E400", False),
    "zero": ("0", "0", False),
    "null": ("null", None, True),
    "empty": ('""', None, True),
    "escaped": (r'"a\tb\u00e9\ud83d\ude00"', "a\tbé😀", False),
}


@pytest.mark.parametrize(("raw", "key", "fast"), FOUND.values(), ids=FOUND.keys())
@added
def test_added_key_is_found(name: str, raw: str, key: str | None, fast: bool) -> None:
    """On the fast path where it is plain text, and beside a field that nobody knows on the slow one."""
    keys = (*KEYS, name)
    for fields, expected in (({}, fast), ({"extra": 1}, False)):
        decoded = decode_one(value_of(name, raw, **fields), keys)
        assert (decoded.refused, decoded.fast.tolist()) == ({}, [expected])
        assert {other: column.to_pylist() for other, column in decoded.keys.items()} == {
            **{other: [WHOLE[other]] for other in KEYS},
            name: [key],
        }


@added
def test_added_key_may_be_absent(name: str) -> None:
    """It is null then, on both paths."""
    values = [json.dumps(WHOLE).encode(), json.dumps(WHOLE | {"extra": 1}).encode()]
    decoded = decode(pa.array(values, pa.binary()), (*KEYS, name))
    assert (decoded.refused, decoded.fast.tolist()) == ({}, [True, False])
    assert decoded.keys[name].to_pylist() == [None, None]


@pytest.mark.parametrize("name", ["session_id", "http.session-id", "trace_id"])
@pytest.mark.parametrize(("raw", "kind"), [("[1]", "array"), ("{}", "object"), ("true", "boolean")])
def test_added_key_that_is_none_is_refused(name: str, raw: str, kind: str) -> None:
    """As one of the contract's own; the last of two counts."""
    for value in (value_of(name, raw), value_of(name, "7", **{name: "x"})[:-1] + f',"{name}":{raw}}}'.encode()):
        [refusal] = decode_one(value, (*KEYS, name)).refused.values()
        assert refusal == (Reason.WRONG_TYPE, f"{name}: a JSON {kind}, expected a string")
    twice = value_of(name, raw)[:-1] + f',"{name}":7}}'.encode()
    assert decode_one(twice, (*KEYS, name)).keys[name].to_pylist() == ["7"]


@pytest.mark.parametrize("raw", ['"text"', "1", "1e400", "[1]"])
def test_field_that_is_not_declared_keeps_a_message_from_the_fast_path(raw: str) -> None:
    """What would be a key if somebody declared it is the message's business, whatever it holds."""
    decoded = decode_one(value_of("session_id", raw), KEYS)
    assert (decoded.refused, decoded.fast.tolist()) == ({}, [False])
    assert {name: column.to_pylist() for name, column in decoded.keys.items()} == {name: [WHOLE[name]] for name in KEYS}


@pytest.mark.parametrize("name", ["trace_id", "span_id"])
def test_optional_text_of_the_contract_takes_numbers_as_a_key(name: str) -> None:
    """Only then."""
    value = value_of("extra", "1", **{name: 17})
    assert decode_one(value, (name,)).keys[name].to_pylist() == ["17"]
    assert decode_one(value, KEYS).refused[0] == (
        Reason.WRONG_TYPE,
        f"{name}: a JSON number, expected a string",
    )


def test_required_field_as_a_key_stays_required_and_text() -> None:
    """The output promises it."""
    values = [value_of("x", "1"), value_of("x", "1", service=""), value_of("x", "1", service=5), b"{}"]
    decoded = decode(pa.array(values, pa.binary()), ("service",))
    assert decoded.keys["service"].to_pylist() == ["a service", None, None, None]
    assert [refusal.reason for refusal in decoded.refused.values()] == [Reason.WRONG_TYPE, Reason.MISSING_FIELD]


@pytest.mark.parametrize("raw", ["7", "1e400", "1" * 5_000])
def test_field_that_is_a_key_no_more_may_still_be_a_number(raw: str) -> None:
    """What a contract takes does not depend on which enrichments there are."""
    value = json.dumps(WHOLE | {"user_id": "?"}).replace('"?"', raw).encode()
    twice = b'{"level":5,' + value[1:]
    decoded = decode(pa.array([value, twice], pa.binary()), ("source_ip",))
    assert (decoded.refused, list(decoded.keys)) == ({}, ["source_ip"])
    assert decoded.keys["source_ip"].to_pylist() == [WHOLE["source_ip"]] * 2


@pytest.mark.parametrize("extra", [{}, {"extra": 1}], ids=["fast", "slow"])
def test_enrichments_may_share_a_key(extra: dict[str, int]) -> None:
    """It is one column then, whichever path the message takes."""
    value = value_of("session_id", '"s"', **extra)
    keys = ("session_id", "user_id", "session_id", "user_id", "level")
    decoded = decode_one(value, keys)
    assert {name: column.to_pylist() for name, column in decoded.keys.items()} == {
        "session_id": ["s"],
        "user_id": [WHOLE["user_id"]],
        "level": [WHOLE["level"]],
    }


def test_rejected_chunk_has_the_columns_of_its_keys() -> None:
    """Null for each message."""
    decoded = reject_all(pa.array([b"{}", b"{}"], pa.binary()), (*KEYS, "session_id"))
    assert [(name, column.to_pylist()) for name, column in decoded.keys.items()] == [
        (name, [None, None]) for name in (*KEYS, "session_id")
    ]
