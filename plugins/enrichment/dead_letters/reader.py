"""Messages of the dead-letter topic in; out come the verdict on each, the reason for it, and the original messages.

Pure: depends only on the dead letter and the filter.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from enrichment.batch import LIVE, REDRIVE, RedriveFilter
from enrichment.codec.headers import marked_own, split_origin
from enrichment.codec.json_text import NotJson, TooDeep, lone_surrogate, parse, without_lone_surrogates
from enrichment.codec.records import NO_TIMESTAMP, Chunk, Header, message_size, pack_headers, unpack_headers
from enrichment.dead_letters.reasons import rule_of
from enrichment.dead_letters.writer import normalised
from enrichment.messages import REDRIVE_HEADERS, DeadLetter

Position = tuple[int, int]  # partition and offset of a dead letter
# How much larger the next dead letter of the same message may be: the headers of a redrive, another detail.
GROWTH_BYTES = 4096


class RawLetter(DeadLetter, frozen=True):
    """A dead letter whose `original_message` is still JSON text."""

    original_message: msgspec.Raw


class Verdict(StrEnum):
    """What a redrive does with a dead letter."""

    REDRIVE = "redrive"  # sent in again
    PARKED = "parked"  # would be, but was tried too often
    LEFT = "left"  # stays where it is
    FILTERED = "filtered"  # not asked about
    DONE = "already-redriven"  # has a successor: an enriched message or another dead letter


class Judged(NamedTuple):
    """The verdict on a record of the topic and the reason; `letter` is None for a record that is not a dead letter."""

    row: int
    letter: RawLetter | None
    verdict: Verdict
    why: str


_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # ValueError: also what is not UTF-8 or base64
_decode_letter = msgspec.json.Decoder(RawLetter).decode
# Upper bounds of a dead letter's numbers: Kafka's partitions and offsets, and a plausible number of attempts.
_PARTITIONS, _OFFSETS, _ATTEMPTS = 2**31, 2**63, 10**9
_ENCODINGS = {"json", "utf-8", "base64", "null"}


def judge(chunk: Chunk, wanted: RedriveFilter, redriven: Collection[Position]) -> Iterator[Judged]:
    """Judge each record of a chunk; those at the positions `redriven` are done."""
    for row, position in enumerate(zip(chunk.partitions, chunk.offsets, strict=True)):
        if position in redriven:
            yield Judged(row, None, Verdict.DONE, "sent in again before")
            continue
        try:
            written = chunk.values[row] or b""
            letter = _read(written)
            _check(letter, written)
            if chunk.headers[row] is None:
                raise ValueError("more headers than the Kafka client reads")
            size = message_size(written, chunk.keys[row], chunk.headers[row])
            yield Judged(row, letter, *_judge(letter, written, size, wanted))
        except _UNREADABLE as why:
            yield Judged(row, None, Verdict.LEFT, f"no dead letter of this pipeline: {normalised(str(why))}")


def _read(written: bytes) -> RawLetter:
    """A dead letter. Those of earlier versions hold the object as it came, perhaps with half a surrogate pair: then
    `original_message` is not exact here and must be taken from the bytes."""
    try:
        return _decode_letter(written)
    except msgspec.DecodeError:
        readable = without_lone_surrogates(written)
        if readable == written:
            raise
        return _decode_letter(readable)


def _check(letter: RawLetter, written: bytes) -> None:
    """Raises what `judge` catches when no message can be restored: this pipeline did not write the dead letter."""
    if letter.original_encoding not in _ENCODINGS:
        raise ValueError("another encoding than the pipeline's")
    if letter.original_encoding == "json" and not bytes(letter.original_message).lstrip().startswith(b"{"):
        raise ValueError("no object, but not said to be text")
    original_value(letter, written)
    timestamp = letter.source_timestamp or 0
    for number, least, end in (
        (letter.source_partition, 0, _PARTITIONS),
        (letter.source_offset, 0, _OFFSETS),
        (timestamp, -_OFFSETS, _OFFSETS),
        (letter.attempts, 1, _ATTEMPTS),
    ):
        if not least <= number < end:
            raise ValueError("a number out of range")


def _judge(letter: RawLetter, written: bytes, size: int, wanted: RedriveFilter) -> tuple[Verdict, str]:
    if not _is_asked_for(letter, written, wanted):
        return Verdict.FILTERED, "not asked for"
    for stays, why in (
        (letter.error_reason not in wanted.reasons, rule_of(letter.error_reason).why),
        (letter.purpose not in (LIVE.kind, REDRIVE), f"set aside by a {letter.purpose}: run that again"),
        (letter.original_truncated, "it holds only the beginning of the message"),
        (_is_without(letter), "key or headers of the message were too large to be kept"),
        (size + GROWTH_BYTES > wanted.max_letter_bytes, "another letter of it would not fit into the topic"),
    ):
        if stays:
            return Verdict.LEFT, why
    if letter.attempts >= wanted.max_attempts:
        return Verdict.PARKED, f"tried {letter.attempts} times, {wanted.max_attempts} at most"
    return Verdict.REDRIVE, rule_of(letter.error_reason).why


def _is_without(letter: RawLetter) -> bool:
    """Whether it lacks key or headers of the message; earlier versions said so of the key alone."""
    return bool(letter.omitted) or letter.source_key_encoding == "omitted"


def _is_asked_for(letter: RawLetter, written: bytes, wanted: RedriveFilter) -> bool:
    return (
        letter.source_topic == wanted.source_topic
        and wanted.source_partition in (None, letter.source_partition)
        and _is_between(letter.sent_to_dlq_at, wanted.since, wanted.until)
        and (not wanted.service or service_of(letter, written) == wanted.service)
    )


def _is_between(moment: str, since: datetime | None, until: datetime | None) -> bool:
    if since is None and until is None:
        return True
    try:
        at = datetime.fromisoformat(moment)
        return (since is None or at >= since) and (until is None or at < until)
    except (ValueError, TypeError):  # no time, or one without a zone
        return False


def service_of(letter: RawLetter, written: bytes) -> Any:
    """The service of the original message, if it can be read."""
    try:
        parsed = parse(original_value(letter, written) or b"")
    except (NotJson, TooDeep, UnicodeDecodeError):
        return None
    return parsed.get("service") if isinstance(parsed, dict) else None


def unwrap(chunk: Chunk, wanted: RedriveFilter, redriven: Collection[Position], topic: str) -> Chunk:
    """The messages to be sent in again, in place of their dead letters of `topic`: bytes, key, timestamp and headers as
    they came, with their original partition and offset.

    Their own headers are followed by the number of attempts and the position of the dead letter.
    """
    rows = [judged for judged in judge(chunk, wanted, redriven) if judged.verdict is Verdict.REDRIVE]
    letters = [(judged.row, judged.letter) for judged in rows if judged.letter is not None]
    return Chunk.of(
        [letter.source_partition for _, letter in letters],
        [letter.source_offset for _, letter in letters],
        [NO_TIMESTAMP if letter.source_timestamp is None else letter.source_timestamp for _, letter in letters],
        # In a topic that requires keys, the dead letter of a message without one has a key of its own.
        [None if letter.source_key_encoding == "null" else chunk.keys[row] for row, letter in letters],
        [
            pack_headers(
                [
                    *own_headers(letter, unpack_headers(chunk.headers[row])),
                    *redrive_headers(letter.attempts, topic, chunk.partitions[row], chunk.offsets[row]),
                ]
            )
            for row, letter in letters
        ],
        [original_value(letter, chunk.values[row] or b"") for row, letter in letters],
    )


def original_value(letter: RawLetter, written: bytes) -> bytes | None:
    """The original message's bytes; `written` is the dead letter as it is in the topic.

    The white space around an object, which a JSON reader drops, is restored by the length that the dead letter states.
    (One that a tool has rewritten still gives an equal object.)
    """
    if letter.original_encoding == "json":
        verbatim = written[len(_BEFORE) :][: letter.original_size_bytes]
        if written.startswith(_BEFORE + verbatim + _BEHIND) and len(verbatim) == letter.original_size_bytes:
            return verbatim
        if lone_surrogate(written) is not None:
            raise ValueError("half a surrogate pair in a dead letter that was rewritten")
        return bytes(letter.original_message)
    text = msgspec.json.decode(letter.original_message, type=str | None)
    if text is None:
        return None
    return base64.b64decode(text, validate=True) if letter.original_encoding == "base64" else text.encode()


_BEFORE, _BEHIND = b'{"original_message":', b',"original_encoding":'


def own_headers(letter: RawLetter, headers: list[Header]) -> list[Header]:
    """The headers that the message originally had."""
    marked = marked_own(headers)
    if marked is not None:
        return headers[:marked]
    own, _ = split_origin(headers)
    sent_in = letter.purpose == REDRIVE and tuple(name for name, _ in own[-len(REDRIVE_HEADERS) :]) == REDRIVE_HEADERS
    return own[: -len(REDRIVE_HEADERS)] if sent_in else own


def redrive_headers(attempts: int, topic: str, partition: int, offset: int) -> list[Header]:
    """The number of attempts, and the position of the dead letter."""
    said = (b"%d" % attempts, topic.encode(), b"%d" % partition, b"%d" % offset)
    return list(zip(REDRIVE_HEADERS, said, strict=True))
