"""Message values in, events and refusals out: the lookup keys of a message, or the reason why it cannot be processed.

A value goes on as the bytes it came in; decoding only reads it. Two paths lead on from here. On the **fast path** the
output is the input's bytes with additions spliced in before the closing brace, which is right only when no key stands
twice and none is a key of the output: for flat values (`enrichment.codec.flat`), so for nearly all. Every other message
is read by a JSON library and takes the **slow path** (parse, update, encode), which means the same and costs more.

The caller names the fields that are keys of lookups: fields of `Event`, or any others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, get_args

import msgspec
import numpy as np
import pyarrow as pa

from enrichment.codec.buffers import Flags
from enrichment.codec.flat import read_flat
from enrichment.codec.headers import unreadable
from enrichment.codec.json_text import NotJson, TooDeep, check_depth, lone_surrogate, parse
from enrichment.codec.records import replaced
from enrichment.messages import Event, Reason, Refusal, event_type

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
# A schema registry's serializers write a zero byte and a schema's id (four bytes, counted from 1) before the data.
REGISTRY_START, REGISTRY_SIZE = b"\0\0", 5


class Decoded(NamedTuple):
    """A chunk after decoding, a row for each message of it.

    `fast` says which may be spliced, `keys` holds a column for each key that lookups need (null where absent or empty,
    as parsers write a field that they did not find; a number is its text, as it was written), `refused` has those that
    are not events, by row.
    """

    fast: Flags
    keys: dict[str, pa.Array]
    refused: dict[int, Refusal]


class _Contract(NamedTuple):
    """How events with certain keys are read; fields by their names in JSON."""

    event: type[Event]
    decode: Callable[[bytes], Event]
    attributes: dict[str, str]  # of the keys
    required: tuple[str, ...]
    optional: tuple[str, ...]
    numeric: tuple[str, ...]  # those that may be numbers


@lru_cache
def _contract(keys: tuple[str, ...]) -> _Contract:
    event = event_type(keys)
    fields = msgspec.structs.fields(event)
    names = {field.encode_name: field.name for field in fields}
    return _Contract(
        event,
        msgspec.json.Decoder(event).decode,
        {name: names[name] for name in keys},
        tuple(field.encode_name for field in fields if field.required),
        tuple(field.encode_name for field in fields if not field.required),
        tuple(field.encode_name for field in fields if float in get_args(field.type)),
    )


def decode(column: pa.Array, keys: tuple[str, ...]) -> Decoded:
    """Decode a chunk's values (binary), and find these keys in them. Never raises for what a message holds."""
    flat, columns = read_flat(column, keys)
    if flat.all():
        return Decoded(flat, columns, {})
    others = np.flatnonzero(~flat)
    events, refused = _decode_others(column.take(pa.array(others)).to_pylist(), keys)
    rows = others.tolist()
    for name, attribute in _contract(keys).attributes.items():
        found = pa.array([event and (getattr(event, attribute) or None) for event in events], pa.string())
        columns[name] = replaced(columns[name], rows, found)
    return Decoded(flat, columns, {rows[row]: refusal for row, refusal in refused.items()})


def _decode_others(
    values: Sequence[bytes | None], keys: tuple[str, ...]
) -> tuple[list[Event | None], dict[int, Refusal]]:
    """The event of each value, None for those that are refused."""
    events: list[Event | None] = []
    refused: dict[int, Refusal] = {}
    contract = _contract(keys)
    attributes = tuple(contract.attributes.values())
    decoding = map(contract.decode, values)  # type: ignore[arg-type]  # a null value is refused below
    while len(events) < len(values):
        try:
            # Keeps what came before an exception, and goes on after it at the next turn.
            events.extend(decoding)
        except (msgspec.MsgspecError, TypeError, RecursionError, UnicodeDecodeError):
            found = explain(values[len(events)], keys)
            if isinstance(found, Refusal):
                refused[len(events)] = found
            events.append(found if isinstance(found, Event) else None)
    for row, event in enumerate(events):
        if event is None:
            continue
        value = values[row] or b""
        if (fault := _strict_fault(value)) is not None:  # the typed decode skips what it does not know
            refused[row], events[row] = fault, None
        elif any(isinstance(getattr(event, name), int | float) for name in attributes):
            _write_out(event, value, keys)
    return events, refused


def _write_out(event: Event, value: bytes, keys: tuple[str, ...]) -> None:
    """Give an event the texts of keys that are numbers."""
    fields = _decode_fields(value)
    for name, attribute in _contract(keys).attributes.items():
        if isinstance(getattr(event, attribute), int | float):
            setattr(event, attribute, key_text(fields[name]))


def key_text(raw: msgspec.Raw) -> str | None:
    """A key as it is looked up, from its JSON: a text, a number as it is written, None for null."""
    written = bytes(raw).decode()
    return msgspec.json.decode(raw, type=str | None) if written[0] in '"n' else written


def reject_all(column: pa.Array, keys: tuple[str, ...]) -> Decoded:
    """Reject every message of a batch that keeps failing for an unknown reason."""
    refusal = Refusal(Reason.PROCESSING_FAILED, "every batch with this message failed; see the tasks' logs")
    columns = dict.fromkeys(keys, pa.nulls(len(column), pa.string()))
    return Decoded(np.zeros(len(column), dtype=bool), columns, dict.fromkeys(range(len(column)), refusal))


def refuse_headers(column: pa.Array) -> dict[int, Refusal]:
    """The rows whose packed headers could not all be published, with the refusal of each."""
    return {row: Refusal(Reason.UNREADABLE_HEADERS, why) for row, why in unreadable(column).items()}


def _strict_fault(value: bytes) -> Refusal | None:
    try:
        value.decode()
        check_depth(value)
    except (UnicodeDecodeError, TooDeep) as bad:
        return _unreadable(bad)
    return None


def explain(value: bytes | None, keys: tuple[str, ...]) -> Refusal | Event:
    """Read a value slowly and exactly: name the reason for which the fast decode refused it.

    The fast decode judges every value of a duplicate key. Only the last one counts, so the value may be an event after
    all.
    """
    if not value:
        return Refusal(Reason.EMPTY_MESSAGE, "the value is null" if value is None else "the value is empty")
    if value.startswith(REGISTRY_START) and len(value) > REGISTRY_SIZE:
        schema = int.from_bytes(value[1:REGISTRY_SIZE])
        return Refusal(
            Reason.INVALID_JSON,
            f"it begins with a zero byte and the number {schema}, as what serializers of a schema registry write "
            "(Avro, Protobuf, JSON with a schema id); the topic must have plain JSON",
        )
    try:
        parsed = parse(value)
        fault = _field_fault(parsed, keys) if isinstance(parsed, dict) else _no_object(parsed)
        if fault is None and (half := lone_surrogate(value)) is not None:
            fault = Refusal(Reason.INVALID_JSON, half)
        if fault is None:
            fields = _decode_fields(value)  # as publishing will
            contract = _contract(keys)
            parsed |= {name: key_text(fields[name]) for name in contract.numeric if name in fields}
        return fault or msgspec.convert(parsed, contract.event)
    except (UnicodeDecodeError, TooDeep, NotJson, msgspec.MsgspecError) as bad:
        return _unreadable(bad)


def _unreadable(bad: Exception) -> Refusal:
    if isinstance(bad, UnicodeDecodeError):
        return Refusal(Reason.INVALID_ENCODING, f"not UTF-8 at byte {bad.start}")
    return Refusal(Reason.NESTED_TOO_DEEP if isinstance(bad, TooDeep) else Reason.INVALID_JSON, str(bad))


def _no_object(parsed: Any) -> Refusal:
    return Refusal(Reason.NOT_AN_OBJECT, f"a JSON {_JSON_NAMES[type(parsed)]}")


def _field_fault(parsed: dict[str, Any], keys: tuple[str, ...]) -> Refusal | None:
    contract = _contract(keys)
    missing = [name for name in contract.required if name not in parsed]
    if missing:
        return Refusal(Reason.MISSING_FIELD, f"required: {', '.join(missing)}")
    for name in (*contract.required, *contract.optional):
        value = parsed.get(name, "")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        may_be = (value is None and name in contract.optional) or (is_number and name in contract.numeric)
        if not (isinstance(value, str) or may_be):
            return Refusal(Reason.WRONG_TYPE, f"{name}: a JSON {_JSON_NAMES[type(value)]}, expected a string")
    return None


_JSON_NAMES = {
    dict: "object", list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"
}  # fmt: skip
