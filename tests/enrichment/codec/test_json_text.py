"""JSON texts: what is wrong with one, and whether every strict reader takes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import StringIO
from typing import Any

import msgspec
import orjson
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enrichment.codec.json_text import (
    DEPTH,
    NotJson,
    TooDeep,
    is_strict,
    lone_surrogate,
    parse,
    without_lone_surrogates,
)

LIMITED = 4300  # digits, for Python's int()


def nested(depth: int) -> bytes:
    """Arrays in one another."""
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(b"GET / 200", "Expecting value: line 1 column 1 (char 0)", id="text"),
        pytest.param(b'{"a":1', "Expecting ',' delimiter: line 1 column 7 (char 6)", id="cut-off"),
        pytest.param(b"{}{}", "Extra data: line 1 column 3 (char 2)", id="two-texts"),
        pytest.param(b'{"a": NaN}', "NaN is no JSON number", id="nan"),
        pytest.param(b"-Infinity", "-Infinity is no JSON number", id="infinity"),
        # Python 3.13 says "Illegal trailing comma before end of object: line 1 column 7 (char 6)".
        pytest.param(
            b'{"a":1, }',
            "Expecting property name enclosed in double quotes: line 1 column 9 (char 8)",
            id="comma-in-object",
        ),
        pytest.param(b"[1,\n]", "Expecting value: line 2 column 1 (char 4)", id="comma-in-array"),
        pytest.param(b"nope" + nested(DEPTH + 1), "Expecting value: line 1 column 1 (char 0)", id="deep-but-no-json"),
        pytest.param(b'"' + b"[" * 600, "Unterminated string starting at: line 1 column 1 (char 0)", id="no-end"),
    ],
)
def test_fault_is_said_in_one_way(text: bytes, why: str) -> None:
    """What is wrong and where, whatever Python's release says."""
    with pytest.raises(NotJson) as bad:
        parse(text)
    assert str(bad.value) == why


def test_trailing_comma_is_said_as_earlier_releases_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 points to the comma; the detail of a dead letter must not depend on it."""

    class Newer:
        def decode(self, text: str) -> Any:
            raise json.JSONDecodeError("Illegal trailing comma before end of object", text, text.index(","))

    monkeypatch.setattr("enrichment.codec.json_text._DECODER", Newer())
    for text, why in (
        (b'{"a":1, }', "Expecting property name enclosed in double quotes: line 1 column 9 (char 8)"),
        (b"[1,\n]", "Expecting value: line 2 column 1 (char 4)"),
    ):
        with pytest.raises(NotJson) as bad:
            parse(text)
        assert str(bad.value) == why


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        pytest.param(nested(DEPTH + 1), DEPTH + 1, id="one-too-many"),
        pytest.param(nested(100_000), 100_000, id="beyond-any-reader"),
        pytest.param(b"[" * 600, 600, id="cut-off"),
        pytest.param(b'{"a":' * 600 + b"1" + b"}" * 600, 600, id="objects"),
        pytest.param(nested(DEPTH + 1) + b"garbage", DEPTH + 1, id="wrong-behind"),
    ],
)
def test_depth_is_told_whatever_the_stack_allows(text: bytes, depth: int) -> None:
    """The limit is the declared one, not that of Python's stack."""
    with pytest.raises(TooDeep) as bad:
        parse(text)
    assert str(bad.value) == f"nested {depth} deep; {DEPTH} at most"


def test_depth_within_the_limit_is_read() -> None:
    """Brackets in strings are no nesting."""
    assert parse(nested(DEPTH)) is not None
    assert parse(json.dumps(["[" * 9999, '"{{[']).encode()) == ["[" * 9999, '"{{[']


def test_quotes_without_end_take_no_hours() -> None:
    """A string that never ends is looked at once, however many quotes it holds."""
    with pytest.raises(NotJson, match="Unterminated string"):
        parse(b'"' + rb"\"" * 1_000_000 + b"[" * 600)


def test_long_integers_are_numbers() -> None:
    """Python's limit of digits is nothing to a message."""
    assert sys.get_int_max_str_digits() == LIMITED
    assert parse(b'{"a": ' + b"1" * (LIMITED + 1) + b"}") == {"a": 0}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (rb'"\ud800"', r"the escape \ud800 at byte 1"),
        (rb'"\uDFFF"', r"the escape \uDFFF at byte 1"),
        (rb'"\ud83d\ude00 \ud83d\u0041"', r"the escape \ud83d at byte 14"),
        (rb'"\ud800\ud83d\ude00"', r"the escape \ud800 at byte 1"),
        (rb'"\ud83d\ude00"', None),
        (rb'"\\ud800"', None),
        (rb'"\\\ud800"', r"the escape \ud800 at byte 3"),
    ],
)
def test_half_a_surrogate_pair_is_found(text: bytes, found: str | None) -> None:
    """Its place is said; a pair is a character, and an escaped backslash begins no escape."""
    said = lone_surrogate(text)
    assert said is None if found is None else said is not None and said.startswith(found)
    readable = without_lone_surrogates(text)
    assert (len(readable), lone_surrogate(readable)) == (len(text), None)
    msgspec.json.decode(readable)


NOT_STRICT = {
    "half a surrogate pair": rb'{"a":"\ud800"}',
    "half a pair in a key": rb'{"\udfff":1}',
    "a number beyond doubles": b'{"a":[1e400]}',
    "a negative one": b"-1e309",
    "a long integer": b"1" * 310,
    "one bit more than 64": b"18446744073709551616",
    "one bit more below zero": b"-9223372036854775809",
    "23 digits before the point": b"12345678901234567890123.5",
    "a number of 1,001 characters": b"0." + b"1" * 999,
    "a key twice": b'{"a":1,"b":{"c":1,"c":1}}'.replace(b'"c":1}', b'"\\u0063":1}'),
    "too deep inside a letter": nested(DEPTH),
    "no JSON": b"nope",
    "a byte-order mark": b"\xef\xbb\xbf{}",
    "not UTF-8": b'"\xff"',
    "NaN": b"NaN",
}
STRICT = {
    "a pair": rb'{"a":"\ud83d\ude00 \u0000"}',
    "the largest double": b"1.7976931348623157e308",
    "too small for a double": b"1e-400",
    "64 bits": b"18446744073709551615",
    "64 bits below zero": b"-9223372036854775808",
    "other ways to write numbers": b"[-0, 1E+5, 1.10, 2e-3, 1e00000000001, 9007199254740993]",
    "1,000 characters": b"0." + b"1" * 998,
    "deep": nested(DEPTH - 1),
    "white space around": b" \n{}\t ",
}


@pytest.mark.parametrize("text", NOT_STRICT.values(), ids=NOT_STRICT.keys())
def test_what_some_reader_refuses_is_not_strict(text: bytes) -> None:
    """No reader has to take these."""
    assert not is_strict(text)


@pytest.mark.parametrize("text", STRICT.values(), ids=STRICT.keys())
def test_what_every_reader_takes_is_strict(text: bytes) -> None:
    """These every reader takes, also inside an object."""
    assert is_strict(text)
    read_strictly(b'{"a":' + text + b"}")


def read_strictly(text: bytes) -> None:
    """Raises what any of several readers raises, those that refuse repeated keys among them."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(name: str) -> None:
        raise ValueError(name)

    readers: tuple[Callable[[bytes], Any], ...] = (
        orjson.loads,
        lambda value: pd.read_json(StringIO(value.decode()), typ="series", dtype=False),
        msgspec.json.decode,
        lambda value: json.loads(value.decode(), object_pairs_hook=distinct, parse_constant=refuse),
        lambda value: json.dumps(json.loads(value), ensure_ascii=False, allow_nan=False).encode(),
    )
    for reader in readers:
        reader(text)


parts = st.sampled_from(
    [b"{", b"}", b"[", b"]", b",", b":", b'"a"', rb'"\ud800"', rb'"\ud83d\ude00"', b"1", b"1e400", b"NaN", b" ", b'"',
     b"9" * 400, b"\\", b"\xff"]
)  # fmt: skip


@given(st.lists(parts).map(b"".join) | st.binary())
@example(b'{"a":1,"a":[1e400]}')
def test_any_bytes_have_an_answer(text: bytes) -> None:
    """Nothing raises but what is declared, and what is strict is read by everybody."""
    try:
        parse(text)
    except (UnicodeDecodeError, NotJson, TooDeep):
        assert not is_strict(text)
    if is_strict(text):
        read_strictly(b'{"a":' + text + b"}")
