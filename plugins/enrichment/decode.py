"""Message values in, events and refusals out: what must be known of a message, and why one cannot be processed.

A value goes on as the bytes it came in; decoding only reads it. Two roads lead on from here. On the **fast** one the
output is the input's bytes with additions spliced in before the closing brace, which is right only when no key stands
twice and none is a key of the output: for flat values (`enrichment.flat`), so for nearly all. Every other message is
read by a JSON library and takes the **plain** road (parse, update, encode), which means the same and costs more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from enrichment.buffers import Flags
from enrichment.flat import read_flat
from enrichment.messages import KEY_COLUMNS, Event, Reason

_decode_event = msgspec.json.Decoder(Event).decode
_OPTIONAL = tuple(field.name for field in msgspec.structs.fields(Event) if not field.required)
_REQUIRED = tuple(field.name for field in msgspec.structs.fields(Event) if field.required)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_JSON_DEPTH = 512  # a reader of the output must be able to parse it; stdlib json and msgspec both manage this depth


class Refusal(NamedTuple):
    """Why a message cannot be processed: becomes `error_reason` and `error_detail` of its dead letter."""

    reason: Reason
    detail: str


class Decoded(NamedTuple):
    """A chunk after decoding, a row for each message of it.

    `fast` says which may be spliced, `keys` holds a column for each key that lookups need (null where absent, or empty:
    that is what parsers write for a field that they did not find), `refused` has those that are no events, by row.
    """

    fast: Flags
    keys: dict[str, pa.Array]
    refused: dict[int, Refusal]


def decode(column: pa.Array) -> Decoded:
    """Decode a chunk's values (binary). Never raises for what a message holds."""
    flat, keys = read_flat(column)
    if flat.all():
        return Decoded(flat, keys, {})
    others = np.flatnonzero(~flat)
    events, refused = _decode_others(column.take(pa.array(others)).to_pylist())
    rows = np.arange(len(flat))
    rows[others] = len(flat) + np.arange(len(others))
    for name in KEY_COLUMNS:
        found = pa.array([getattr(event, name, None) or None for event in events], pa.string())
        keys[name] = pa.concat_arrays([keys[name], found]).take(pa.array(rows))
    return Decoded(flat, keys, {int(others[row]): refusal for row, refusal in refused.items()})


def _decode_others(values: Sequence[bytes | None]) -> tuple[list[Event | None], dict[int, Refusal]]:
    """The event of each value, None for those that are refused."""
    events: list[Event | None] = []
    refused: dict[int, Refusal] = {}
    decoding = map(_decode_event, values)  # type: ignore[arg-type]  # a null value is refused below
    while len(events) < len(values):
        try:
            # Keeps what came before an exception, and goes on behind it at the next turn.
            events.extend(decoding)
        except (msgspec.MsgspecError, TypeError, RecursionError, UnicodeDecodeError) as why:
            refused[len(events)] = explain(values[len(events)], why)
            events.append(None)
    # The typed decode skips what it does not know.
    for row, event in enumerate(events):
        if event is not None and (fault := _strict_fault(values[row] or b"")) is not None:
            refused[row], events[row] = fault, None
    return events, refused


def set_aside(column: pa.Array) -> Decoded:
    """Refuse a chunk whole: something about it fails the pipeline, whatever it is."""
    refusal = Refusal(Reason.PROCESSING_FAILED, "every batch with this message failed; see the tasks' logs")
    keys = dict.fromkeys(KEY_COLUMNS, pa.nulls(len(column), pa.string()))
    return Decoded(np.zeros(len(column), dtype=bool), keys, dict.fromkeys(range(len(column)), refusal))


def _strict_fault(value: bytes) -> Refusal | None:
    try:
        value.decode()
    except UnicodeDecodeError as bad:
        return Refusal(Reason.INVALID_ENCODING, f"not UTF-8 at byte {bad.start}")
    depth = _depth(value)
    if depth > _JSON_DEPTH:
        return Refusal(Reason.NESTED_TOO_DEEP, f"nested {depth} deep; {_JSON_DEPTH} at most")
    return None


def _depth(value: bytes) -> int:
    """How deep a JSON text is nested, or a bound of it that is small enough not to matter."""
    opened = value.count(b"[") + value.count(b"{")
    if opened <= _JSON_DEPTH:
        return opened
    brackets = _STRING.sub(b"", value)
    return max(accumulate((byte in b"[{") - (byte in b"]}") for byte in brackets))


def explain(value: bytes | None, why: Exception) -> Refusal:
    """The slow, exact road: name the reason for which the fast decode refused a value."""
    if not value:
        return Refusal(Reason.EMPTY_MESSAGE, "the value is null" if value is None else "the value is empty")
    try:
        text = value.decode()
    except UnicodeDecodeError as bad:
        return Refusal(Reason.INVALID_ENCODING, f"not UTF-8 at byte {bad.start}")
    try:
        parsed = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        return Refusal(Reason.NESTED_TOO_DEEP, "nested deeper than a JSON reader manages")
    except ValueError as bad:
        return Refusal(Reason.INVALID_JSON, str(bad))
    if not isinstance(parsed, dict):
        return Refusal(Reason.NOT_AN_OBJECT, f"a JSON {_JSON_NAMES[type(parsed)]}")
    return _field_fault(parsed) or Refusal(Reason.INVALID_JSON, str(why))


def _field_fault(parsed: dict[str, Any]) -> Refusal | None:
    missing = [name for name in _REQUIRED if name not in parsed]
    if missing:
        return Refusal(Reason.MISSING_FIELD, f"required: {', '.join(missing)}")
    for name in (*_REQUIRED, *_OPTIONAL):
        value = parsed.get(name, "")
        if not isinstance(value, str) and not (value is None and name in _OPTIONAL):
            return Refusal(Reason.WRONG_TYPE, f"{name}: a JSON {_JSON_NAMES[type(value)]}, expected a string")
    return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


_JSON_NAMES = {
    dict: "object", list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"
}  # fmt: skip
