"""Message values to events and refusals."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enrichment.codec.decode import decode, reject_all
from enrichment.messages import Reason

FIELDS = ("timestamp", "service", "level", "message", "trace_id", "span_id", "source_ip", "user_id", "request_id")
REQUIRED, OPTIONAL, KEYS = FIELDS[:4], FIELDS[4:], FIELDS[6:]
FOUR_KEYS = (*KEYS, "session_id")
WHOLE = {name: f"a {name}" for name in FIELDS}


def value_of(**fields: Any) -> bytes:
    """A message with all nine fields, some of them changed (None as a field's value is JSON's null)."""
    return json.dumps(WHOLE | fields).encode()


def with_extra(raw: bytes) -> bytes:
    """A whole message with `"extra": <raw>` in it, whatever the bytes."""
    return value_of()[:-1] + b',"extra":' + raw + b"}"


REFUSED = {
    "null value": (None, Reason.EMPTY_MESSAGE, "null"),
    "empty value": (b"", Reason.EMPTY_MESSAGE, "empty"),
    "not JSON": (b"GET / 200", Reason.INVALID_JSON, "line 1 column 1"),
    "cut off": (value_of()[:-9], Reason.INVALID_JSON, "char"),
    "two texts": (value_of() + value_of(), Reason.INVALID_JSON, "Extra data"),
    "NaN": (with_extra(b"NaN"), Reason.INVALID_JSON, "NaN"),
    "half a surrogate pair": (with_extra(rb'"\ud800"'), Reason.INVALID_JSON, r"the escape \ud800 at byte 237"),
    "the other half": (with_extra(rb'["\ud83d\ude00\udfff"]'), Reason.INVALID_JSON, r"the escape \udfff at byte 250"),
    "half a pair in a field": (value_of(message="?").replace(b"?", rb"\uD800"), Reason.INVALID_JSON, r"\uD800 at byte"),
    "half a pair in a name": (value_of()[:-1] + rb',"\ud800":1}', Reason.INVALID_JSON, r"\ud800 at byte 229"),
    "half a pair and a wrong type": (with_extra(rb'"\ud800","level":5'), Reason.WRONG_TYPE, "level: a JSON number"),
    "not UTF-8": (b"\xff\xfe", Reason.INVALID_ENCODING, "byte 0"),
    "not UTF-8 in a known field": (value_of(level="?").replace(b'"?"', b'"\xff"'), Reason.INVALID_ENCODING, "byte"),
    "not UTF-8 in an unknown field": (with_extra(b'"\xff"'), Reason.INVALID_ENCODING, "byte"),
    "array": (b"[1, 2]", Reason.NOT_AN_OBJECT, "array"),
    "string": (b'"text"', Reason.NOT_AN_OBJECT, "string"),
    "number": (b"12", Reason.NOT_AN_OBJECT, "number"),
    "null": (b"null", Reason.NOT_AN_OBJECT, "null"),
    "empty object": (b"{}", Reason.MISSING_FIELD, "timestamp, service, level, message"),
    "number for text": (value_of(level=5), Reason.WRONG_TYPE, "level: a JSON number"),
    "5,000 digits for text": (
        value_of(level="?").replace(b'"?"', b"1" * 5_000), Reason.WRONG_TYPE, "level: a JSON number, expected a string"
    ),
    "5,000 digits and no level": (
        value_of(extra="?").replace(b'"level"', b'"x"').replace(b'"?"', b"1" * 5_000), Reason.MISSING_FIELD, "level"
    ),
    "last of two of the wrong type": (value_of()[:-1] + b',"user_id":[5]}', Reason.WRONG_TYPE, "user_id: a JSON array"),
    "truth for a key": (value_of(user_id=True), Reason.WRONG_TYPE, "user_id: a JSON boolean"),
    "number for an optional field": (value_of(trace_id=5), Reason.WRONG_TYPE, "trace_id: a JSON number"),
    "Avro of a schema registry": (
        b"\0\0\0\1\5" + b"\x02\x14payment-\xff", Reason.INVALID_JSON, "a zero byte and the number 261, as what serial"
    ),
    "JSON of a schema registry": (b"\0\0\0\0\7" + value_of(), Reason.INVALID_JSON, "a zero byte and the number 7, as"),
    "zeros": (b"\0\0\0", Reason.INVALID_JSON, "line 1 column 1"),
    "object for a key": (value_of(source_ip={"v4": "8.8.8.8"}), Reason.WRONG_TYPE, "source_ip: a JSON object"),
    "null for a required field": (value_of(service=None), Reason.WRONG_TYPE, "service: a JSON null"),
    "nested deeply": (with_extra(b"[" * 700 + b"]" * 700), Reason.NESTED_TOO_DEEP, "701 deep"),
    "nested beyond any reader": (with_extra(b"[" * 100_000 + b"]" * 100_000), Reason.NESTED_TOO_DEEP, "100001 deep"),
    "nested deeply and of the wrong type": (
        value_of(level=5)[:-1] + b',"extra":' + b"[" * 700 + b"]" * 700 + b"}", Reason.NESTED_TOO_DEEP, "701 deep"
    ),
}  # fmt: skip


NUMBERS = [
    "0",
    "42",
    "-7",
    "12345678901234567890123",
    "1" * 5_000,
    "1.50",
    "-0",
    "1e3",
    "1E400",
    "3.141592653589793238",
]


@pytest.mark.parametrize("written", NUMBERS)
@pytest.mark.parametrize("name", KEYS)
def test_number_is_looked_up_as_it_is_written(name: str, written: str) -> None:
    """Digit by digit, whatever a reader of JSON makes of it; a duplicate of the wrong type before it counts nothing."""
    value = value_of(**{name: "?"}).replace(b'"?"', written.encode())
    twice = value[:-1].replace(written.encode(), b"[]") + f',"{name}":{written}}}'.encode()
    decoded = decode(pa.array([value_of(), value, twice], pa.binary()), KEYS)
    assert decoded.refused == {}
    assert decoded.keys[name].to_pylist()[1:] == [written, written]
    others = set(KEYS) - {name}
    assert all(decoded.keys[other].to_pylist() == [decoded.keys[other][0].as_py()] * 3 for other in others)


@pytest.mark.parametrize(("value", "reason", "detail"), REFUSED.values(), ids=REFUSED.keys())
def test_refusal_names_the_reason(value: bytes | None, reason: Reason, detail: str) -> None:
    """What cannot be processed has one declared reason and a detail that helps to find it, and costs no other
    message."""
    decoded = decode(pa.array([value_of(), value, value_of()], pa.binary()), KEYS)
    assert list(decoded.refused) == [1]
    assert decoded.refused[1].reason is reason
    assert detail in decoded.refused[1].detail


@pytest.mark.parametrize("name", REQUIRED)
def test_required_field_that_is_missing_is_named(name: str) -> None:
    """A message without a required field is refused by the field's name."""
    fields = {k: v for k, v in WHOLE.items() if k != name}
    assert decode(pa.array([json.dumps(fields).encode()], pa.binary()), KEYS).refused[0] == (
        Reason.MISSING_FIELD,
        f"required: {name}",
    )


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_field_may_be_absent_or_null(name: str) -> None:
    """A key that is absent is no error, nor is one that is null."""
    absent = json.dumps({k: v for k, v in WHOLE.items() if k != name}).encode()
    decoded = decode(pa.array([absent, value_of(**{name: None})], pa.binary()), KEYS)
    assert decoded.refused == {}
    if name in KEYS:
        assert decoded.keys[name].to_pylist() == [None, None]


def test_keys_are_those_of_the_messages() -> None:
    """Key columns have one value for each message, in order, whichever path it takes; null for one that is refused."""
    values = [value_of(user_id="a"), b"x", value_of(user_id='"', extra=1), value_of(user_id=""), value_of(user_id="b")]
    decoded = decode(pa.array(values, pa.binary()), KEYS)
    assert decoded.keys["user_id"].to_pylist() == ["a", None, '"', None, "b"]
    assert decoded.keys["source_ip"].to_pylist() == [ip := WHOLE["source_ip"], None, ip, ip, ip]


SPLICED = {
    "whole": (value_of(), True),
    "absent key": (b'{"timestamp":"t","service":"s","level":"l","message":"m"}', True),
    "white space": (json.dumps(WHOLE, indent=2).encode(), True),
    "escapes": (value_of(message='line\nfeed \\ é "hi"'), True),
    "beyond ASCII": (value_of(message="größer").replace(rb"\u00f6\u00df", "öß".encode()), True),
    "null key": (value_of(user_id=None), True),
    "escapes in a key": (value_of(user_id="a\tb"), False),
    "unknown field": (value_of(extra=1), False),
    "key of the output": (value_of(geo_country="Utopia"), False),
    "field twice": (value_of()[:-1] + b',"level":"again"}', False),
    "trailing white space": (value_of() + b" \n", False),
    "stranger in the place of a key": (
        json.dumps({k: v for k, v in WHOLE.items() if k != "user_id"} | {"geo_city": "x"}).encode(),
        False,
    ),
}


@pytest.mark.parametrize(("value", "fast"), SPLICED.values(), ids=SPLICED.keys())
def test_only_messages_without_strange_keys_may_be_spliced(value: bytes, fast: bool) -> None:
    """The fast path is for messages that hold known fields, each once, and nothing after the closing brace."""
    decoded = decode(pa.array([value], pa.binary()), KEYS)
    assert (decoded.refused, decoded.fast.tolist()) == ({}, [fast])


@pytest.mark.parametrize(
    "first", [b"5", b"null", b"{}", b"1e400", b"1" * 5_000], ids=["number", "null", "object", "1e400", "long"]
)
@pytest.mark.parametrize("name", ["level", "source_ip"])
def test_last_value_of_a_key_counts(name: str, first: bytes) -> None:
    """A key that stands twice has its last value, so what the first one was does not matter."""
    decoded = decode(pa.array([b'{"%s":%s,' % (name.encode(), first) + value_of()[1:]], pa.binary()), KEYS)
    assert (decoded.refused, decoded.fast.tolist()) == ({}, [False])
    assert decoded.keys["source_ip"].to_pylist() == [WHOLE["source_ip"]]


@pytest.mark.parametrize("raw", [b"1e400", b"-1e999", b"1" * 5_000, b'{"a":1,"a":2}'])
def test_what_only_some_readers_take_passes_through(raw: bytes) -> None:
    """Valid JSON in a field of its own is the message's business: nothing here needs to understand it."""
    assert decode(pa.array([with_extra(raw)], pa.binary()), KEYS).refused == {}


def test_reject_all_refuses_everything() -> None:
    """A chunk that is rejected becomes dead letters whole, good messages too."""
    decoded = reject_all(pa.array([value_of(), None], pa.binary()), KEYS)
    assert list(decoded.refused) == [0, 1]
    assert {refusal.reason for refusal in decoded.refused.values()} == {Reason.PROCESSING_FAILED}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
anything = st.text() | json_values
messages = st.fixed_dictionaries(
    dict.fromkeys(REQUIRED, st.text() | anything),
    optional=dict.fromkeys((*OPTIONAL, "session_id", "extra", "geo_country"), anything),
)


def accepted(value: bytes, keys: tuple[str, ...]) -> dict[str, str | None] | None:
    """The keys of a message, by the declared rule written plainly; None where it must be refused."""
    try:
        parsed = json.loads(value.decode(), parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return None
    if not isinstance(parsed, dict) or not all(isinstance(parsed.get(name), str) for name in REQUIRED):
        return None
    texts = (parsed.get(name) for name in OPTIONAL if name not in keys)
    found = [parsed.get(name) for name in keys]
    if not all(isinstance(text, str | None) for text in texts):
        return None
    if not all(isinstance(key, str | int | float | None) and not isinstance(key, bool) for key in found):
        return None
    written = json.loads(value, parse_int=str, parse_float=str)
    return {name: written.get(name) or None for name in keys}


@pytest.mark.parametrize("keys", [KEYS, FOUR_KEYS, (*KEYS, "trace_id")], ids=["three", "a fourth", "a known one"])
@given(
    st.lists(messages.map(lambda m: json.dumps(m, ensure_ascii=False).encode("utf-8", "surrogatepass")) | st.binary())
)
@example([value_of(), value_of(level=float("nan"))])
@example([value_of(session_id=1.50), value_of(session_id=[])])
def test_every_message_is_accepted_or_refused_by_the_declared_rule(keys: tuple[str, ...], values: list[bytes]) -> None:
    """Each message of a chunk is accepted, with its keys, or refused, exactly once, by what it holds and by nothing
    else."""
    decoded = decode(pa.array(values, pa.binary()), keys)
    expected = [accepted(value, keys) for value in values]
    assert sorted(decoded.refused) == [row for row, found in enumerate(expected) if found is None]
    for name in keys:
        assert decoded.keys[name].to_pylist() == [found and found[name] for found in expected]
    assert len(decoded.fast) == len(values)
    assert not decoded.fast[list(decoded.refused)].any()
