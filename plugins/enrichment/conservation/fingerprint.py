"""What the conservation check compares: a few numbers that an input and its output share if the output is right.

Hashes are Python's own of 64 bits, with a new key in each process: they can only be compared within one run.
"""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from enrichment.batch import LIVE
from enrichment.codec.headers import split_origin
from enrichment.codec.records import Header
from enrichment.conservation.origins import Origin, Parts, headers_of
from enrichment.enrichers.registry import REGISTRY
from enrichment.messages import DeadLetter, Reason

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_names = lru_cache(maxsize=10_000)(msgspec.json.Decoder(tuple[str, ...] | None).decode)
_WITH_SPACE = b"{["  # only objects and arrays can have white space between their tokens
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)  # ValueError: also what is not UTF-8 or base64


class Form(IntEnum):
    """How an output holds its input."""

    BROKEN = 0
    ENRICHED = 1
    OBJECT = 2  # a dead letter with the JSON object
    TEXT = 3  # a dead letter with its text, or the beginning of it
    BYTES = 4  # a dead letter with its bytes in base64, or the beginning of them


class Fingerprint(NamedTuple):
    """The numbers compared. `content` covers the fields, or the original message, its size and whether it was cut.

    `UNSAID` stands for what an output cannot state, and equals anything.
    """

    key: int
    timestamp: int
    headers: int
    content: int


UNSAID = -(2**63)
NO_TIMESTAMP = -1


class Output(NamedTuple):
    """An output's fingerprint, how many bytes of the original it holds, and the sources and errors it counts under."""

    form: Form
    size: int
    fingerprint: Fingerprint
    sources: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class Broken(ValueError):
    """An output that does not belong in its topic; the message says what is wrong with it."""


def is_appended(message: Message) -> bool:
    """Whether its timestamp is the broker's, which says nothing about its input's."""
    return bool(message.timestamp()[0] == TIMESTAMP_LOG_APPEND_TIME)


def labels_of(value: bytes) -> dict[str, Any]:
    """The fields of a message that strict readers accept; none for one that they refuse."""
    try:
        fields = _parse(value)
        json.dumps(fields, ensure_ascii=False).encode()  # half a surrogate pair cannot be encoded
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def of_input(message: Message, form: Form, size: int) -> Fingerprint:
    """The fingerprint that an output in this form must have, holding `size` bytes of the original.

    Raises `Broken` when the input cannot have an output in this form.
    """
    value = message.value() or b""
    try:
        if form is Form.ENRICHED:
            value.decode()  # raw fields are not checked for it
            content = _enriched(_decode_fields(value))
        elif form is Form.OBJECT:
            content = _object(_parse(value), len(value))
        else:
            content = hash((form, value[:size], len(value), size < len(value)))
    except _UNREADABLE as why:
        raise Broken(f"form: the input is no JSON object, {why}") from why
    # To the client a timestamp of 0 means the present time: 1 is the nearest that it can send.
    return _fingerprint(message.key(), message.timestamp()[1] or 1, headers_of(message), content)


def of_analytics(message: Message, parts: Parts) -> Output:
    """The fingerprint of an enriched message, whose headers have these parts. Raises `Broken`."""
    value = message.value() or b""
    try:
        value.decode()  # raw fields are not checked for it
        fields = _decode_fields(value)
        without = [e for e in REGISTRY.enrichers if fields.keys().isdisjoint(e.output_columns)]
        known_lack = {column for e in without for column in e.output_columns}
        if lacking := [name for name in REGISTRY.output_columns if name not in fields and name not in known_lack]:
            raise Broken(f"without {', '.join(lacking)}")
        sources = _decode_names(bytes(fields["enrichment_sources"])) or ()
        errors = _decode_names(bytes(fields["enrichment_errors"])) or ()
        if named := [e.name for e in without if e.source in sources or not e.reasons.keys().isdisjoint(errors)]:
            raise Broken(f"names {', '.join(named)}, but has none of its columns")
        content = _enriched(fields)
    except _UNREADABLE as why:
        raise Broken(f"no enriched message: {why}") from why
    fingerprint = _fingerprint(message.key(), _timestamp(message), parts.own, content)
    return Output(Form.ENRICHED, 0, fingerprint, sources, errors, tuple(e.name for e in without))


def said_timestamp(message: Message) -> int:
    """The timestamp of an output's input: a dead letter states it, and may have another itself."""
    try:
        said = msgspec.convert(_parse(message.value() or b""), DeadLetter).source_timestamp
    except _UNREADABLE:
        said = None
    return message.timestamp()[1] if said is None else said


def _known(reason: str) -> str:
    """A reason that a dead letter may have. Raises `ValueError` for any other."""
    return reason if reason in REGISTRY.reasons else Reason(reason)


def of_letter(message: Message, origin: Origin, parts: Parts) -> Output:
    """The fingerprint of a dead letter, whose headers have these parts. Raises `Broken`, also when it contradicts its
    own origin, key or timestamp."""
    try:
        letter = msgspec.convert(_parse(message.value() or b""), DeadLetter)
        reason = _known(letter.error_reason)
        key = _decode(letter.source_key, letter.source_key_encoding)
        form, size, content = _original(letter)
        written_at = round(datetime.fromisoformat(letter.sent_to_dlq_at).timestamp() * 1000)
    except _UNREADABLE as why:
        raise Broken(f"no dead letter: {why}") from why
    said = Origin(letter.source_topic, letter.source_partition, letter.source_offset)
    if said != origin:
        raise Broken(f"its fields name {said}, its headers {origin}")
    omitted = letter.omitted or (("headers", "key") if letter.source_key_encoding == "omitted" else ())
    if message.key() not in (key, _stand_in(origin) if key is None else key):
        raise Broken(f"source_key {letter.source_key!r} is not the key {message.key()!r}")
    if not {"key", "headers"}.issuperset(omitted) or ("key" in omitted) != (letter.source_key_encoding == "omitted"):
        raise Broken(f"omitted {omitted}, but source_key_encoding {letter.source_key_encoding!r}")
    timestamp = NO_TIMESTAMP if letter.source_timestamp is None else letter.source_timestamp or 1
    if message.timestamp()[1] not in (timestamp, written_at) and not is_appended(message):
        raise Broken(f"source_timestamp {letter.source_timestamp} is not the timestamp {message.timestamp()[1]}")
    # Earlier versions did not mark a message's own headers, but live draining has never added any.
    own = parts.own if parts.marked or letter.purpose != LIVE.kind else split_origin(headers_of(message))[0]
    found = _fingerprint(key, timestamp, own, content)
    return Output(form, size, found._replace(**dict.fromkeys(omitted, UNSAID)), errors=(reason,))


def _stand_in(origin: Origin) -> bytes:
    """The key of a dead letter whose message has none, where the topic requires one."""
    return f"{origin.topic}:{origin.partition}:{origin.offset}".encode()


def _fingerprint(key: bytes | None, timestamp: int, headers: list[Header], content: int) -> Fingerprint:
    return Fingerprint(hash(key), timestamp, hash(tuple(headers)), content)


def _timestamp(output: Message) -> int:
    return UNSAID if is_appended(output) else output.timestamp()[1]


def _enriched(fields: dict[str, msgspec.Raw]) -> int:
    """The fields that are not the output's own, each with its JSON text without white space."""
    texts = {name: bytes(fields[name]) for name in fields.keys() - REGISTRY.added}
    for name, text in texts.items():
        if text[0] in _WITH_SPACE:
            texts[name] = msgspec.json.format(text, indent=-1)
    return hash(frozenset(texts.items()))


def _parse(value: bytes) -> Any:
    """What a JSON text says. Dead letters of earlier versions hold objects that strict readers refuse: half a
    surrogate pair stays as it is, and a number that no double holds becomes its text."""
    return json.loads(value.decode(), parse_int=_number, parse_float=_number, parse_constant=_refuse)


def _number(digits: str) -> float | str:
    number = float(digits)
    if math.isinf(number):
        return f"number {digits}"
    return int(digits) if digits.lstrip("-").isdigit() else number


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _object(value: object, size: int) -> int:
    return hash((Form.OBJECT, json.dumps(value, sort_keys=True), size))


def _original(letter: DeadLetter) -> tuple[Form, int, int]:
    if isinstance(letter.original_message, dict):
        if letter.original_truncated:
            raise Broken("a truncated object")
        return Form.OBJECT, 0, _object(letter.original_message, letter.original_size_bytes)
    form = Form.BYTES if letter.original_encoding == "base64" else Form.TEXT
    held = _decode(letter.original_message, letter.original_encoding) or b""
    content = hash((form, held, letter.original_size_bytes, letter.original_truncated))
    return form, len(held), content


def _decode(text: str | None, encoding: str) -> bytes | None:
    if text is None:
        return None
    return base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
