"""A message as it is in its topic in; what somebody is shown of it out: bytes as text, what its headers say, and what
became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from enrichment.codec.headers import marked_own
from enrichment.codec.records import NO_TIMESTAMP, Header, unpack_headers
from enrichment.conservation.origins import Origin, parts_of
from enrichment.dead_letters.reader import RawLetter, original_value
from enrichment.inspection.scan import FoundMessage
from enrichment.inspection.topics import ShownTopic, TopicRole
from enrichment.kafka.times import to_text
from enrichment.messages import (
    HEADER_LETTER_OFFSET,
    HEADER_LETTER_PARTITION,
    HEADER_LETTER_TOPIC,
)
from enrichment.repair.corrections import Said

START_CHARACTERS = 300  # of a value in a list
KEY_CHARACTERS = 200
MOST_BYTES = 1_000_000  # of one value that is shown whole
COMPARED_BYTES = 100_000
HEADERS, HEADER_BYTES = 100, 2_000
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # ValueError: also what is not UTF-8 or base64
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_SAID = msgspec.json.Decoder(Said)


class MessagePosition(msgspec.Struct, frozen=True):
    """Where a message is."""

    topic: str
    partition: int
    offset: int


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an output says about itself.

    `origin` is its input message and `batch_id` its batch. `revision` is above 1 for a correction; `replay_id` names
    the replay that made it, `letter` the dead letter that was sent in again for it. The rest is of dead letters
    (`reason` to `attempts`) or of enriched messages.
    """

    origin: MessagePosition | None = None
    batch_id: str = ""
    revision: int = 1
    replay_id: str | None = None
    letter: MessagePosition | None = None
    reason: str = ""
    detail: str = ""
    stage: str = ""
    attempts: int = 0
    at: str = ""
    sources: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()


class MessageRow(msgspec.Struct, frozen=True):
    """A message in a list: `start` is the beginning of its value, `timestamp` Kafka's, as a text."""

    topic: str
    role: TopicRole
    partition: int
    offset: int
    timestamp: str | None
    key: str | None
    size_bytes: int
    start: str
    told: Told


class ShownBytes(msgspec.Struct, frozen=True):
    """Bytes as they are shown: `form` is `json` (laid out), `text`, `hex` or `null`; `is_cut` says that there is more
    than that."""

    text: str
    form: str
    is_cut: bool = False


class MessageDetail(msgspec.Struct, frozen=True):
    """One message whole, as far as it can be shown.

    `line` is its value (of a dead letter the message that it holds) as a line of a file that is played; where there can
    be none, `no_line` says why. `headers` are the first of them, None where they are so many that the Kafka client
    reads none. `fields` are those of an object that is not too large to be compared, each as it was written.
    """

    row: MessageRow
    key: ShownBytes
    headers: list[tuple[str, ShownBytes]] | None
    more_headers: int
    value: ShownBytes
    original: ShownBytes | None
    line: str | None
    no_line: str
    fields: dict[str, str] | None


def row_of(message: FoundMessage, topic: ShownTopic) -> MessageRow:
    """A message as a list has it."""
    value = message.value or b""
    return MessageRow(
        topic=message.topic,
        role=topic.role,
        partition=message.partition,
        offset=message.offset,
        timestamp=None if message.timestamp == NO_TIMESTAMP else to_text(message.timestamp),
        key=None if message.key is None else shown(message.key, KEY_CHARACTERS, lay_out=False).text,
        size_bytes=len(value),
        start="" if message.value is None else _start(value),
        told=told_by(message, topic),
    )


def detail_of(message: FoundMessage, topic: ShownTopic) -> MessageDetail:
    """A message whole."""
    headers = unpack_headers(message.headers or b"")
    original = _original(message.value) if _holds_letters(topic) else None
    line, no_line = line_of(message.value if original is None else original[0])
    return MessageDetail(
        row=row_of(message, topic),
        key=shown(message.key),
        headers=None if message.headers is None else _headers(headers[:HEADERS]),
        more_headers=max(0, len(headers) - HEADERS),
        value=shown(message.value),
        original=None if original is None else shown(original[0]),
        line=line,
        no_line=no_line,
        fields=fields_of(message.value),
    )


def fields_of(value: bytes | None) -> dict[str, str] | None:
    """The fields of an object, each as it was written; None for anything else, and for what is too large to be
    compared."""
    if value is None or len(value) > COMPARED_BYTES:
        return None
    try:
        return {name: bytes(raw).decode() for name, raw in _decode_fields(value).items()}
    except _UNREADABLE:
        return None


def shown(value: bytes | None, most: int = MOST_BYTES, *, lay_out: bool = True) -> ShownBytes:
    """Bytes as they are shown: JSON laid out with its numbers as they were written, other text as it is, and what is
    not text as hexadecimal digits."""
    if value is None:
        return ShownBytes("", "null")
    is_cut = len(value) > most
    if lay_out and not is_cut and is_json(value):
        return ShownBytes(msgspec.json.format(value, indent=2).decode(), "json")
    text = _as_text(value[:most], is_cut=is_cut)
    if text is not None:
        return ShownBytes(text, "text", is_cut)
    few = value[: min(most, 4_000)]
    return ShownBytes(few.hex(" ", -2), "hex", len(few) < len(value))


def is_json(value: bytes) -> bool:
    """Whether it is one JSON value that can be laid out."""
    try:
        msgspec.json.decode(value)
        value.decode()
    except _UNREADABLE:
        return False
    return value[:1] in b"{[" or value.strip()[:1] in b"{["


def line_of(value: bytes | None) -> tuple[str | None, str]:
    """A value as a line of a file for `make run INPUT=`, or why it cannot be one."""
    if value is None:
        return "", ""
    if len(value) > MOST_BYTES:
        return None, f"its value has {len(value):,} bytes, more than {MOST_BYTES:,}: it is not copied"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None, "its value is not UTF-8, which a clipboard cannot hold"
    if value and value.rstrip(b"\r\n") == value and b"\n" not in value:
        return text, ""
    if is_json(value):
        return msgspec.json.format(value, indent=-1).decode(), ""
    return None, "its value is empty or has line breaks, and is no JSON: a line of a file cannot hold it"


def told_by(message: FoundMessage, topic: ShownTopic) -> Told:
    """What headers and value of an output say. An input says nothing."""
    headers = unpack_headers(message.headers or b"") if topic.has_outputs else []
    parts = parts_of(headers)
    if parts.origin is None:
        return Told()
    told = Told(
        origin=MessagePosition(*parts.origin),
        batch_id=parts.batch_id,
        revision=parts.revision,
        replay_id=parts.replay,
        letter=_letter(headers) if parts.redriven else None,
    )
    if _holds_letters(topic):
        letter = letter_in(message.value)
        return told if letter is None else msgspec.structs.replace(told, **_of_letter(letter))
    try:
        published = _SAID.decode(message.value or b"")
    except _UNREADABLE:
        return told
    return msgspec.structs.replace(
        told,
        sources=published.enrichment_sources,
        errors=published.enrichment_errors or (),
        stale=published.enrichment_stale or (),
    )


def letter_in(value: bytes | None) -> RawLetter | None:
    """The dead letter that a value is; None for anything else."""
    try:
        return msgspec.json.decode(value or b"", type=RawLetter)
    except _UNREADABLE:
        return None


def origin_of_letter(value: bytes | None) -> Origin | None:
    """The input message of a dead letter, by its fields."""
    letter = letter_in(value)
    return None if letter is None else Origin(letter.source_topic, letter.source_partition, letter.source_offset)


def _headers(headers: Sequence[Header]) -> list[tuple[str, ShownBytes]]:
    return [(_name(name), shown(value, HEADER_BYTES, lay_out=False)) for name, value in headers]


def _holds_letters(topic: ShownTopic) -> bool:
    return topic.role in (TopicRole.DEAD_LETTERS, TopicRole.REPLAYED_DEAD)


def _original(value: bytes | None) -> tuple[bytes | None] | None:
    """The message that a dead letter holds, in a tuple: it may be a tombstone. None where there is no message."""
    letter = letter_in(value)
    if letter is None:
        return None
    try:
        return (original_value(letter, value or b""),)
    except _UNREADABLE:
        return None


def _of_letter(letter: RawLetter) -> dict[str, Any]:
    return {
        "reason": letter.error_reason, "detail": letter.error_detail or "", "stage": letter.stage,
        "attempts": letter.attempts, "at": letter.sent_to_dlq_at,
    }  # fmt: skip


def _letter(headers: Sequence[Header]) -> MessagePosition | None:
    said = dict(headers[marked_own(headers) or 0 :])
    topic, partition, offset = (
        _text(said.get(name)) for name in (HEADER_LETTER_TOPIC, HEADER_LETTER_PARTITION, HEADER_LETTER_OFFSET)
    )
    is_position = partition.isdigit() and offset.isdigit() and len(partition) < 11 and len(offset) < 20
    return MessagePosition(topic, int(partition), int(offset)) if is_position else None


def _start(value: bytes) -> str:
    return shown(value, 4 * START_CHARACTERS, lay_out=False).text[:START_CHARACTERS]


def _as_text(part: bytes, *, is_cut: bool) -> str | None:
    """Bytes as text; None where they are not UTF-8, or hold what no text has. A cut may go through a character."""
    try:
        text = part.decode()
    except UnicodeDecodeError as odd:
        if not (is_cut and odd.reason == "unexpected end of data"):
            return None
        text = part[: odd.start].decode()
    return None if any(ord(character) < ord(" ") and character not in "\t\r\n" for character in text) else text


def _name(name: str) -> str:
    """A header's name, with what is not UTF-8 in it visible."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")[:KEY_CHARACTERS]


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
