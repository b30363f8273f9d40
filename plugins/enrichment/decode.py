"""Message values in, events and refusals out: what must be known of a message, and why one cannot be processed.

A value goes on as the bytes it came in; decoding only reads it. Two roads lead on from here. On the **fast** one the
output is the input's bytes with additions spliced in before the closing brace, which is right only when no key stands
twice and none is a key of the output. That is proven by counting quotes: a message whose only quotes are those of the
nine known fields can hold no other key, no repeated key, nothing nested and no escaped quote. Every other message takes
the **plain** road (parse, update, encode), which means the same and costs more.
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

from enrichment.messages import KEY_COLUMNS, REQUEST_ID, SOURCE_IP, USER_ID, Event, Reason
from enrichment.splicing import count_quotes

SLICE = 500  # messages decoded at once: their events fit into a processor's cache
_decode_event = msgspec.json.Decoder(Event).decode
_OPTIONAL = tuple(field.name for field in msgspec.structs.fields(Event) if not field.required)
_REQUIRED = tuple(field.name for field in msgspec.structs.fields(Event) if field.required)
QUOTES = 4  # of a field that is a string: two of its key, two of its value
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_JSON_DEPTH = 512  # a reader of the output must be able to parse it; stdlib json and msgspec both manage this depth


class Refusal(NamedTuple):
    """Why a message cannot be processed: becomes `error_reason` and `error_detail` of its dead letter."""

    reason: Reason
    detail: str


class Decoded(NamedTuple):
    """A chunk after decoding.

    `accepted` are the positions of the events in the chunk, `fast` says of each whether it may be spliced, `keys` holds
    a column for each key that lookups need (None where absent), `refused` the others by their position.
    """

    accepted: np.ndarray[Any, np.dtype[np.int64]]
    fast: np.ndarray[Any, np.dtype[np.bool_]]
    keys: dict[str, pa.Array]
    refused: dict[int, Refusal]


def decode(column: pa.Array) -> Decoded:
    """Decode a chunk's values (binary). Never raises for what a message holds."""
    values: list[bytes | None] = column.to_pylist()
    refused: dict[int, Refusal] = {}
    keys: dict[str, list[str | None]] = {name: [] for name in KEY_COLUMNS}
    untraced: list[int] = []  # how many of trace and span id are absent
    # In slices, so that the events are still in the processor's cache when their fields are taken out.
    for start in range(0, len(values), SLICE):
        events = _decode_slice(values, start, refused)
        # Spelled out: an attribute in a comprehension costs half of what `attrgetter` does, for every message.
        keys[SOURCE_IP] += [event.source_ip for event in events]
        keys[USER_ID] += [event.user_id for event in events]
        keys[REQUEST_ID] += [event.request_id for event in events]
        untraced += [(event.trace_id is None) + (event.span_id is None) for event in events]
    accepted = np.delete(np.arange(len(values)), list(refused))
    columns = {name: pa.array(found, pa.string()) for name, found in keys.items()}
    absent = np.array(untraced, dtype=np.int64)
    for found in columns.values():
        absent += found.is_null().to_numpy(zero_copy_only=False)
    quotes, closed = count_quotes(column.take(pa.array(accepted)) if refused else column)
    fast = closed & (quotes == QUOTES * (len(_REQUIRED) + len(_OPTIONAL) - absent))
    return _check_plain(values, Decoded(accepted, fast, columns, refused))


def _decode_slice(values: Sequence[bytes | None], start: int, refused: dict[int, Refusal]) -> list[Event]:
    """The events of the slice that begins at `start`; those that are none are added to `refused`."""
    chosen = values[start : start + SLICE]
    events: list[Event] = []
    already = len(refused)
    decoding = map(_decode_event, chosen)  # type: ignore[arg-type]  # a null value is refused below
    while (done := len(events) + len(refused) - already) < len(chosen):
        try:
            # Keeps what came before an exception, and goes on behind it at the next turn.
            events.extend(decoding)
        except (msgspec.MsgspecError, TypeError, RecursionError, UnicodeDecodeError) as why:
            done = len(events) + len(refused) - already
            refused[start + done] = explain(chosen[done], why)
    return events


def set_aside(column: pa.Array) -> Decoded:
    """Refuse a chunk whole: something about it fails the pipeline, whatever it is."""
    refusal = Refusal(Reason.PROCESSING_FAILED, "every batch with this message failed; see the tasks' logs")
    return Decoded(
        np.empty(0, dtype=np.int64),
        np.empty(0, dtype=bool),
        {name: pa.nulls(0, pa.string()) for name in KEY_COLUMNS},
        dict.fromkeys(range(len(column)), refusal),
    )


def _check_plain(values: Sequence[bytes | None], decoded: Decoded) -> Decoded:
    """Look at the whole of each message that takes the plain road: the typed decode skips what it does not know."""
    plain = np.flatnonzero(~decoded.fast).tolist()
    faults = {row: _strict_fault(values[decoded.accepted[row]] or b"") for row in plain}
    late = {row: fault for row, fault in faults.items() if fault is not None}
    if not late:
        return decoded
    stay = [row for row in range(len(decoded.accepted)) if row not in late]
    return Decoded(
        decoded.accepted[stay],
        decoded.fast[stay],
        {name: column.take(pa.array(stay, pa.int64())) for name, column in decoded.keys.items()},
        decoded.refused | {int(decoded.accepted[row]): refusal for row, refusal in late.items()},
    )


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
