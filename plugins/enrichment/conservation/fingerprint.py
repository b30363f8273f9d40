"""What the conservation check compares of a message: the same few numbers from an input and from its output when the
output is right, others when it is not.

Hashes are Python's own of 64 bits, keyed anew in each process: good for comparing within one run, and for nothing else.
"""

from __future__ import annotations

import base64
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple, cast

import msgspec
from confluent_kafka import Message

from enrichment.messages import (
    HEADER_BATCH,
    HEADER_REPLAY,
    HEADER_REVISION,
    ORIGIN_HEADERS,
    OUTPUT_COLUMNS,
    REDRIVE,
    REDRIVE_HEADERS,
    DeadLetter,
    Reason,
)

Header = tuple[str, bytes | None]
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_letter = msgspec.json.Decoder(DeadLetter).decode
_decode_words = lru_cache(maxsize=10_000)(msgspec.json.Decoder(tuple[str, ...] | None).decode)
_ADDED = frozenset(OUTPUT_COLUMNS)
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)  # ValueError: also what is not UTF-8 or base64


class Form(IntEnum):
    """How an output holds its input."""

    BROKEN = 0
    ENRICHED = 1
    OBJECT = 2  # a dead letter with the JSON object
    TEXT = 3  # a dead letter with its text, or the beginning of it
    BYTES = 4  # a dead letter with its bytes in base64, or the beginning of them


class Fingerprint(NamedTuple):
    """What is compared. `content` covers the fields, or the original message, its size and whether it was cut."""

    key: int
    timestamp: int
    headers: int
    content: int


class Output(NamedTuple):
    """An output's fingerprint, how many bytes of the original it holds, and the words it counts under."""

    form: Form
    size: int
    fingerprint: Fingerprint
    sources: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Origin(NamedTuple):
    """Where an output says that it came from."""

    topic: str
    partition: int
    offset: int


class Broken(ValueError):
    """An output that is not what its topic holds; the message says what is wrong with it."""


def origin_of(message: Message) -> Origin | None:
    """The origin in a message's last four headers; None when they are not the origin headers."""
    last = _headers(message)[-len(ORIGIN_HEADERS) :]
    if tuple(name for name, _ in last) != ORIGIN_HEADERS:
        return None
    topic, partition, _, offset = (value or b"" for _, value in last)
    try:
        return Origin(topic.decode(), int(partition), int(offset))
    except ValueError:
        return None


def revision_of(message: Message) -> int:
    """Which version of an enriched message it is: 1, unless a number stands directly before its origin headers."""
    before = _headers(message)[: -len(ORIGIN_HEADERS)][-1:]
    stated = next((value for name, value in before if name == HEADER_REVISION), None)
    return int(stated) if stated is not None and stated.isdigit() else 1


def replay_of(message: Message) -> str | None:
    """The replay that an output says it was made by; None when it was live draining."""
    ids = [value for name, value in _uncorrected(message)[-1:] if name == HEADER_REPLAY]
    return (ids[0] or b"").decode(errors="replace") if ids else None


def sequence_of(message: Message) -> str:
    """Within what an output has its place in the order: all of live draining, or one window of a replay."""
    if replay_of(message) is None:
        return ""
    batch_id = (dict(_headers(message))[HEADER_BATCH] or b"").decode(errors="replace")
    return batch_id.rsplit("/", 2)[0]  # without its lane and number


def is_redriven(message: Message) -> bool:
    """Whether it says before its origin which dead letter it was."""
    return _names_letter(_headers(message)[: -len(ORIGIN_HEADERS)])


def of_input(message: Message, form: Form, size: int) -> Fingerprint:
    """What the fingerprint of an output in this form must be, holding `size` bytes of the original.

    Raises `Broken` when the input cannot have an output in this form.
    """
    value = message.value() or b""
    try:
        if form is Form.ENRICHED:
            content = _enriched(value)
        elif form is Form.OBJECT:
            content = _object(msgspec.json.decode(value), len(value))
        else:
            content = hash((form, value[:size], len(value), size < len(value)))
    except _UNREADABLE as why:
        raise Broken(f"form: the input is no JSON object, {why}") from why
    return _fingerprint(message.key(), message.timestamp()[1], _bare(_headers(message)), content)


def of_analytics(message: Message) -> Output:
    """The fingerprint of an enriched message. Raises `Broken`."""
    value = message.value() or b""
    try:
        value.decode()  # raw fields are not checked for it
        fields = _decode_fields(value)
        missing = [name for name in OUTPUT_COLUMNS if name not in fields]
        if missing:
            raise Broken(f"without {', '.join(missing)}")
        sources = _decode_words(bytes(fields["enrichment_sources"]))
        errors = _decode_words(bytes(fields["enrichment_errors"]))
        content = _enriched(value)
    except _UNREADABLE as why:
        raise Broken(f"no enriched message: {why}") from why
    headers = _own_headers(_uncorrected(message), redriven=True)
    fingerprint = _fingerprint(message.key(), message.timestamp()[1], headers, content)
    return Output(Form.ENRICHED, 0, fingerprint, sources or (), errors or ())


def said_timestamp(message: Message) -> int:
    """The timestamp that the input of an output had: a dead letter says it, and may have another itself."""
    try:
        said = _decode_letter(message.value() or b"").source_timestamp
    except _UNREADABLE:
        said = None
    return message.timestamp()[1] if said is None else said


def of_letter(message: Message, origin: Origin) -> Output:
    """The fingerprint of a dead letter. Raises `Broken`, also when it contradicts its own origin, key or timestamp."""
    try:
        letter = _decode_letter(message.value() or b"")
        reason = Reason(letter.error_reason)
        key = _decode(letter.source_key, letter.source_key_encoding)
        form, size, content = _original(letter)
        set_aside_at = round(datetime.fromisoformat(letter.sent_to_dlq_at).timestamp() * 1000)
    except _UNREADABLE as why:
        raise Broken(f"no dead letter: {why}") from why
    said = Origin(letter.source_topic, letter.source_partition, letter.source_offset)
    if said != origin:
        raise Broken(f"its fields name {said}, its headers {origin}")
    if message.key() not in (key, _stand_in(origin) if key is None else key):
        raise Broken(f"source_key {letter.source_key!r} is not the key {message.key()!r}")
    timestamp = letter.source_timestamp
    if message.timestamp()[1] not in (timestamp, set_aside_at):
        raise Broken(f"source_timestamp {timestamp} is not the timestamp {message.timestamp()[1]}")
    headers = _own_headers(_headers(message)[: -len(ORIGIN_HEADERS)], redriven=letter.purpose == REDRIVE)
    return Output(form, size, _fingerprint(key, timestamp, headers, content), errors=(reason,))


def _stand_in(origin: Origin) -> bytes:
    """The key of a letter whose message has none, where the topic takes no letter without one."""
    return f"{origin.topic}:{origin.partition}:{origin.offset}".encode()


def _headers(message: Message) -> list[Header]:
    return cast(list[Header], message.headers() or [])


def _own_headers(before: list[Header], *, redriven: bool) -> list[Header]:
    """What a message had itself of the headers before its origin; `redriven` says that those of a redrive may be
    there."""
    return _bare(before[: -len(REDRIVE_HEADERS)] if redriven and _names_letter(before) else before)


def _names_letter(before: list[Header]) -> bool:
    return tuple(name for name, _ in before[-len(REDRIVE_HEADERS) :]) == REDRIVE_HEADERS


def _uncorrected(message: Message) -> list[Header]:
    """The headers before the origin, without the revision of a correction."""
    before = _headers(message)[: -len(ORIGIN_HEADERS)]
    return before[:-1] if revision_of(message) > 1 else before


def _bare(headers: list[Header]) -> list[Header]:
    """Without what a batch's purpose adds behind a message's own headers; the same of an input and of its output."""
    while headers and headers[-1][0] == HEADER_REPLAY:
        headers = headers[:-1]
    return headers


def _fingerprint(key: bytes | None, timestamp: int | None, headers: list[Header], content: int) -> Fingerprint:
    return Fingerprint(hash(key), timestamp or 0, hash(tuple(headers)), content)


def _enriched(value: bytes) -> int:
    """The fields that are not the output's own, each with its JSON text but for white space."""
    fields = _decode_fields(msgspec.json.format(value, indent=-1))
    return hash(frozenset((name, bytes(raw)) for name, raw in fields.items() if name not in _ADDED))


def _object(value: object, size: int) -> int:
    return hash((Form.OBJECT, msgspec.json.encode(value, order="deterministic"), size))


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
