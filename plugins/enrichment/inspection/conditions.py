"""What somebody looks for in a topic: messages as columns in, the rows that fit out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.codec.headers import origin_endings
from enrichment.codec.records import unpack_headers
from enrichment.conservation.origins import Origin, parts_of

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
ORIGINAL = "original_message"  # the field of a dead letter that holds its message
_FIELD = re.compile(r"([A-Za-z_][\w.-]*)=(.*)", re.DOTALL)


class MessageCondition(Protocol):
    """Tells which messages fit."""

    def rows(self, messages: pa.RecordBatch) -> list[int]:
        """The rows of those that do, in order."""
        ...


class Everything:
    """Fits every message."""

    def rows(self, messages: pa.RecordBatch) -> list[int]:
        """See `MessageCondition`."""
        return list(range(messages.num_rows))


class HasText:
    """Fits messages with these characters, as they are, in value, key or headers."""

    def __init__(self, text: str) -> None:
        self._text = text

    def rows(self, messages: pa.RecordBatch) -> list[int]:
        """See `MessageCondition`."""
        return _where(_have(messages[name], self._text) for name in ("value", "key", "headers"))


class HasField:
    """Fits JSON objects with this value in a field, written as text, number, `true` or `null`; of a list one item is
    enough. `a.b` is a field within a field. The fields of a dead letter's message count as its own.

    With `or_text` a value that is no object, or a dead letter that holds none, fits where it has the value as text: a
    message that cannot be read may still be the one.
    """

    def __init__(self, name: str, value: str, *, or_text: bool = False) -> None:
        self._name = name
        self._value = value
        self._or_text = or_text

    def rows(self, messages: pa.RecordBatch) -> list[int]:
        """See `MessageCondition`."""
        values = messages["value"]
        # Only these can: JSON may also write any character as an escape.
        likely = _where([_have(values, self._value), _have(values, "\\")])
        return [row for row in likely if self._fits(values[row].as_py())]

    def _fits(self, value: bytes) -> bool:
        try:
            fields = _decode_fields(value)
        except _UNREADABLE:
            return self._or_text and self._value.encode() in value
        if self._says(_find(fields, self._name)):
            return True
        original = fields.get(ORIGINAL)
        if original is None:
            return False
        try:
            return self._says(_find(_decode_fields(original), self._name))
        except _UNREADABLE:
            return self._or_text and self._value.encode() in bytes(original)

    def _says(self, raw: msgspec.Raw | None) -> bool:
        if raw is None:
            return False
        written = bytes(raw)
        if written.startswith(b'"'):
            return bool(msgspec.json.decode(raw) == self._value)
        if written.startswith(b"["):
            return any(self._says(item) for item in _decode_items(raw))
        return written == self._value.encode()


class CameFrom:
    """Fits what was published of one input message: enriched, corrected, replayed, or dead."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._endings = origin_endings(origin.offset)

    def rows(self, messages: pa.RecordBatch) -> list[int]:
        """See `MessageCondition`."""
        headers = messages["headers"]
        likely = _where(pc.fill_null(pc.ends_with(headers, ending), False) for ending in self._endings)
        return [row for row in likely if parts_of(unpack_headers(headers[row].as_py())).origin == self._origin]


def read_filter(text: str) -> MessageCondition:
    """What somebody has typed: nothing, `name=value`, or any other text."""
    if not text:
        return Everything()
    named = _FIELD.fullmatch(text)
    return HasText(text) if named is None else HasField(named[1], named[2])


def _have(column: pa.Array, text: str) -> pa.Array:
    return pc.fill_null(pc.match_substring(column, text), False)


def _where(found: Iterable[pa.Array]) -> list[int]:
    flags = np.logical_or.reduce([one.to_numpy(zero_copy_only=False) for one in found])
    rows: list[int] = np.flatnonzero(flags).tolist()
    return rows


def _find(fields: Mapping[str, msgspec.Raw], name: str) -> msgspec.Raw | None:
    if name in fields:
        return fields[name]
    outer, _, inner = name.partition(".")
    if not inner or outer not in fields:
        return None
    try:
        return _find(_decode_fields(fields[outer]), inner)
    except _UNREADABLE:
        return None
