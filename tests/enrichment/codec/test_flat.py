"""Which messages are flat: what the compiled loop says holds for a JSON library, too."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.codec.flat import MAX_FIELDS, read_flat

REQUIRED = ("timestamp", "service", "level", "message")
OPTIONAL = ("trace_id", "span_id", "source_ip", "user_id", "request_id")
FIELDS = (*REQUIRED, *OPTIONAL)
KEYS = OPTIONAL[2:]
WHOLE = {name: f"a {name}" for name in FIELDS}
sets_of_keys = pytest.mark.parametrize(
    "keys",
    [KEYS, (*KEYS, "session_id"), ("service", "trace_id", "a b/c", "user"), (*KEYS, "größe"), ()],
    ids=["three", "a fourth", "odd ones", "beyond ASCII", "none"],
)

texts = st.text(st.characters(codec="utf-8"))


def messages_with(keys: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Known fields, the keys among them, in any order."""
    optional = dict.fromkeys((*OPTIONAL, *(name for name in keys if name not in REQUIRED)), texts | st.none())
    fields = st.fixed_dictionaries(dict.fromkeys(REQUIRED, texts), optional=optional)
    return fields.flatmap(lambda found: st.permutations(list(found.items())))


layouts: list[dict[str, Any]] = [{"ensure_ascii": False}, {}, {"indent": 1}, {"separators": (",", ":")}]


def read(*values: bytes | None, keys: tuple[str, ...] = KEYS) -> list[tuple[bool, dict[str, str | None]]]:
    """Whether each value is flat, and its keys."""
    flat, found = read_flat(pa.array(values, pa.binary()), keys)
    columns = [found[name].to_pylist() for name in keys]
    return [(is_flat, dict(zip(keys, row, strict=True))) for is_flat, *row in zip(flat.tolist(), *columns, strict=True)]


def keys_if_flat(value: bytes, keys: tuple[str, ...]) -> dict[str, str | None] | None:
    """The keys of a flat message, by the declared rule written plainly; None where the value is not flat."""
    pairs: list[tuple[str, Any]] = []

    def note(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.extend(found)
        return dict(found)

    try:
        parsed = json.loads(value.decode(), object_pairs_hook=note)
    except ValueError:
        return None
    names = [name for name, _ in pairs]
    known = set(REQUIRED) <= set(names) <= {*FIELDS, *keys} and len(set(names)) == len(names)
    if not isinstance(parsed, dict) or not known or not value.endswith(b"}") or not value.startswith(b"{"):
        return None
    if not all(isinstance(text, str) or (text is None and name not in REQUIRED) for name, text in pairs):
        return None
    return {name: parsed.get(name) or None for name in keys}


@sets_of_keys
@given(st.data(), st.sampled_from(layouts))
def test_flat_messages_are_known_for_it(keys: tuple[str, ...], data: st.DataObject, layout: dict[str, Any]) -> None:
    """Known fields in any order, however they are written, are flat, with their keys; unless a key needs an escape, a
    name is written with a number for a letter, or a surrogate is written as one."""
    found = data.draw(st.lists(messages_with(keys)))
    values = [json.dumps(dict(fields), **layout).encode() for fields in found]
    for value, fields, row in zip(values, found, read(*values, keys=keys), strict=True):
        escaped = [json.dumps(text, **layout).count("\\") for name, text in fields if text and name in keys]
        spelt = [json.dumps(name, **layout).count("\\u") for name, _ in fields]
        if not any(escaped) and not any(spelt) and rb"\ud" not in value:
            assert row == (True, keys_if_flat(value, keys))


tokens = (b"", b'"', b"\\", b"{", b"}", b",", b":", b" ", b"\n", b"null", b"0", b"\\n", b"\\u", b'"level"')
bits = st.sampled_from((*tokens, b'"level":"x",', b'"geo_city":"x",', b"\x0b", b"\0", b"\xc3", b"\xff"))


@sets_of_keys
@given(st.data(), st.sampled_from(layouts))
def test_what_is_flat_is_so_for_a_json_library(
    keys: tuple[str, ...], data: st.DataObject, layout: dict[str, Any]
) -> None:
    """Bytes of a message are replaced anywhere, by what matters in JSON and by what is none: whatever is still taken
    for flat is, and has the keys that the library reads; neighbours do not matter."""
    value = json.dumps(dict(data.draw(messages_with(keys))), **layout).encode()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(value)))
        value = value[:start] + data.draw(bits) + value[start + data.draw(st.integers(0, 3)) :]
    plain = json.dumps(WHOLE).encode()
    (flat, found), after = read(None, plain, value, plain, keys=keys)[2:]
    assert after == (True, {name: WHOLE.get(name) for name in keys})
    assert found == (keys_if_flat(value, keys) if flat else dict.fromkeys(keys))


NOT_FLAT = {
    "null": None,
    "empty": b"",
    "brace": b"{",
    "braces": b"{}",
    "white space": b" ",
    "open string": b'{"timestamp":"}',
    "open escape": b'{"timestamp":"\\}',
    "name cut off": b'{"time',
    "name alone": b'{"timestamp"}',
    "comma before the brace": json.dumps(WHOLE)[:-1].encode() + b",}",
    "comma missing": json.dumps(WHOLE).replace(", ", " ").encode(),
    "control character": json.dumps(WHOLE).replace("a level", "a\tlevel").encode(),
    "no escape": json.dumps(WHOLE).replace("a level", r"a \level").encode(),
    "no digits": json.dumps(WHOLE).replace("a level", r"a \u00g0").encode(),
    "surrogate": json.dumps(WHOLE).replace("a level", r"a \ud83d\ude00").encode(),
    "not UTF-8": json.dumps(WHOLE).encode().replace(b"a level", b"a\xfflevel"),
    "field twice": b'{"level": "x", ' + json.dumps(WHOLE)[1:].encode(),
    "unknown field": json.dumps(WHOLE | {"geo_city": "x"}).encode(),
    "required field missing": json.dumps({name: WHOLE[name] for name in FIELDS[1:]}).encode(),
    "required field null": json.dumps(WHOLE | {"level": None}).encode(),
    "number": json.dumps(WHOLE | {"user_id": 7}).encode(),
    "object": json.dumps(WHOLE | {"user_id": {}}).encode(),
    "white space behind": json.dumps(WHOLE).encode() + b" ",
    "byte order mark": "\ufeff".encode() + json.dumps(WHOLE).encode(),
}


@pytest.mark.parametrize("value", NOT_FLAT.values(), ids=NOT_FLAT.keys())
def test_other_values_are_not_flat(value: bytes | None) -> None:
    """What is wrong, or not understood, is left to a JSON library; what stands before and behind it is not."""
    plain = json.dumps(WHOLE).encode()
    assert [flat for flat, _ in read(plain, value, plain)] == [True, False, True]


def test_value_that_is_no_utf8_costs_its_neighbours_nothing() -> None:
    """Others with letters beyond ASCII are flat as they are without it."""
    odd = json.dumps(WHOLE).encode().replace(b"a level", b"a\xfflevel")
    fine = json.dumps(WHOLE | {"level": "für"}, ensure_ascii=False).encode()
    assert [flat for flat, _ in read(fine, odd, fine)] == [True, False, True]


def test_part_of_a_column_is_read() -> None:
    """A slice of a column is its own rows."""
    values = [json.dumps(WHOLE | {"user_id": f"user-{n}"}).encode() for n in range(4)]
    flat, keys = read_flat(pa.array([b"x", *values], pa.binary()).slice(2, 2), KEYS)
    assert (flat.tolist(), keys["user_id"].to_pylist()) == ([True, True], ["user-1", "user-2"])


def test_fields_are_as_many_as_the_loop_can_note() -> None:
    """Each of them is found, and found twice; one more is refused, whatever the messages hold."""
    keys = tuple(f"key {n}" for n in range(MAX_FIELDS - len(FIELDS)))
    whole = WHOLE | {name: f"a {name}" for name in keys}
    again = {name: json.dumps(whole)[:-1].encode() + f', "{name}": "x"}}'.encode() for name in whole}
    first, *others = read(json.dumps(whole).encode(), *again.values(), keys=keys)
    assert first == (True, {name: f"a {name}" for name in keys})
    assert {flat for flat, _ in others} == {False}
    with pytest.raises(ValueError, match="61 known fields; 60 at most"):
        read(keys=(*keys, "one more"))
