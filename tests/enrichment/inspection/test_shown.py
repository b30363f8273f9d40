"""A message as somebody is shown it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enrichment.codec.records import NO_TIMESTAMP, Header, pack_headers
from enrichment.dead_letters.reader import redrive_headers
from enrichment.inspection import shown as showing
from enrichment.inspection.answers import answers_in
from enrichment.inspection.scan import FoundMessage
from enrichment.inspection.shown import (
    MessagePosition,
    ShownBytes,
    Told,
    detail_of,
    fields_of,
    line_of,
    row_of,
    shown,
)
from enrichment.inspection.topics import ShownTopic, TopicRole
from enrichment.messages import HEADER_REPLAY, HEADER_REVISION
from include.local.records import play_file
from tests.fixtures.origins import former_origin, origin_header

INPUT = ShownTopic("in", TopicRole.INPUT)
OUTPUT = ShownTopic("out", TopicRole.OUTPUT)
LETTERS = ShownTopic("dlq", TopicRole.DEAD_LETTERS)
ORIGIN = [origin_header("in", 3, "dag/run/0", 17)]
FROM = MessagePosition("in", 3, 17)


def found(value: bytes | None, *headers: Header, **changed: Any) -> FoundMessage:
    """A message with these headers."""
    parts = {"topic": "out", "partition": 1, "offset": 5, "timestamp": 1_700_000_000_000, "key": b"k", **changed}
    return FoundMessage(**parts, headers=pack_headers(headers), value=value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ShownBytes("", "null")),
        (b"", ShownBytes("", "text")),
        (b'{"a":1.50,"b":1E2}', ShownBytes('{\n  "a": 1.50,\n  "b": 1E2\n}', "json")),
        (b'{"a": 1', ShownBytes('{"a": 1', "text")),
        ("Grüße\n".encode(), ShownBytes("Grüße\n", "text")),
        (b"\x00\x00\x00\x00\x07rest", ShownBytes("0000 0000 0772 6573 74", "hex")),
        (b"\xff\xfe", ShownBytes("fffe", "hex")),
        (b'{"a": "\xff"}', ShownBytes("7b22 6122 3a20 22ff 227d", "hex")),
        (b"[" * 5_000 + b"]" * 5_000, ShownBytes("[" * 5_000 + "]" * 5_000, "text")),
    ],
    ids=["tombstone", "empty", "JSON as it was written", "no JSON", "text", "control characters", "no text",
         "JSON with bytes that are no text", "nested too deep"],
)  # fmt: skip
def test_bytes_are_shown_as_what_they_are(value: bytes | None, expected: ShownBytes) -> None:
    """JSON laid out without a change to it, text as it is, all else as digits."""
    assert shown(value) == expected


def test_long_values_are_cut_between_characters() -> None:
    """And say so."""
    assert shown("äöü".encode(), 3) == ShownBytes("ä", "text", is_cut=True)
    assert shown(b"\xff" * 9, 3) == ShownBytes("ffff ff", "hex", is_cut=True)
    assert shown(b'{"a": 1}', 7) == ShownBytes('{"a": 1', "text", is_cut=True)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (b'{"a": 1.50}', '{"a": 1.50}'), (b'{\n "a": 1.50\n}', '{"a":1.50}'), (b"no json", "no json"), (None, ""),
        (b"two\nlines", None), (b"", None), (b"\xff", None), (b"end\r", None),
    ],
    ids=["as it is", "laid out", "text", "tombstone", "lines", "empty", "no text", "would lose its end"],
)  # fmt: skip
def test_line_is_what_is_played_again(value: bytes | None, line: str | None) -> None:
    """By `make run INPUT=`: the same message, or an equal object; or none, with the reason."""
    copied, why = line_of(value)
    assert copied == line
    assert bool(why) == (line is None)


@pytest.mark.parametrize(
    "value", [b'{"a": 1.50}', b"no json", None, "Grüße \u2028".encode(), b"tab\t, carriage\rreturn"]
)
def test_line_is_read_back_as_the_same_message(value: bytes | None, tmp_path: Path) -> None:
    """By what `make run INPUT=` reads files with."""
    line, _ = line_of(value)
    file = tmp_path / "copied.jsonl"
    file.write_bytes(f"{line}\n".encode())
    assert [record.value for record in play_file(file)] == [value]


def test_value_that_is_too_large_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clipboard is no place for it."""
    monkeypatch.setattr(showing, "MOST_BYTES", 10)
    assert line_of(b"x" * 11)[0] is None


def test_input_says_nothing() -> None:
    """Whatever its headers pretend."""
    row = row_of(found(b'{"a": 1}', *ORIGIN), INPUT)
    assert (row.told, row.start, row.key, row.timestamp) == (Told(), '{"a": 1}', "k", "2023-11-14T22:13:20.000Z")


def test_message_without_time_or_key_has_none() -> None:
    """Nor a value: a tombstone."""
    row = row_of(found(None, key=None, timestamp=NO_TIMESTAMP), INPUT)
    assert (row.timestamp, row.key, row.start, row.size_bytes) == (None, None, "", 0)


ENRICHED = (
    b'{"a": 1, "enrichment_sources": ["geo-ip"], "enrichment_errors": ["user-not-found"],'
    b' "enrichment_stale": ["geo-ip"], "user_id": "u", "geo_country": "X"}'
)


def test_enriched_message_says_what_became_of_it() -> None:
    """Which is told of corrections, replays and redrives, too."""
    told = Told(origin=FROM, batch_id="dag/run/0", sources=("geo-ip",), errors=("user-not-found",), stale=("geo-ip",))
    assert row_of(found(ENRICHED, *ORIGIN), OUTPUT).told == told
    assert row_of(found(ENRICHED, *former_origin("in", 3, "dag/run/0", 17)), OUTPUT).told == told
    corrected = row_of(found(ENRICHED, (HEADER_REVISION, b"3"), *ORIGIN), OUTPUT).told
    assert (corrected.revision, corrected.origin) == (3, FROM)
    assert row_of(found(ENRICHED, (HEADER_REPLAY, b"r"), *ORIGIN), OUTPUT).told.replay_id == "r"
    again = row_of(found(ENRICHED, *redrive_headers(1, "dlq", 2, 9), *ORIGIN), OUTPUT).told
    assert again.letter == MessagePosition("dlq", 2, 9)


def test_what_others_wrote_is_not_taken_for_an_output() -> None:
    """It has no origin."""
    assert row_of(found(ENRICHED), OUTPUT).told == Told()
    assert row_of(found(b"junk", *ORIGIN), OUTPUT).told == Told(origin=FROM, batch_id="dag/run/0")


def letter(original: Any, encoding: str) -> bytes:
    """A dead letter as the pipeline writes it."""
    return json.dumps({
        "original_message": original, "original_encoding": encoding, "original_size_bytes": 7,
        "original_truncated": False,
        "error_reason": "invalid-json", "error_detail": "why", "stage": "decode", "source_topic": "in",
        "source_partition": 3, "source_offset": 17, "source_timestamp": 1, "source_key": None,
        "source_key_encoding": "null", "batch_id": "dag/run/0", "attempts": 2, "sent_to_dlq_at": "2026-01-15T10:00:00Z",
    }).encode()  # fmt: skip


def test_dead_letter_shows_its_message() -> None:
    """As bytes, and as the line that is copied."""
    detail = detail_of(found(letter("no json", "utf-8"), *ORIGIN), LETTERS)
    assert detail.original == ShownBytes("no json", "text")
    assert detail.line == "no json"
    told = detail.row.told
    assert (told.reason, told.detail, told.stage, told.attempts) == ("invalid-json", "why", "decode", 2)
    assert detail_of(found(letter("/w==", "base64"), *ORIGIN), LETTERS).original == ShownBytes("ff", "hex")
    assert detail_of(found(letter(None, "null"), *ORIGIN), LETTERS).original == ShownBytes("", "null")


def test_dead_letters_that_others_wrote_are_shown_as_they_are() -> None:
    """Their message cannot be told."""
    assert detail_of(found(b"junk", *ORIGIN), LETTERS).original is None


def test_headers_are_shown_up_to_a_number() -> None:
    """Names that are not UTF-8, values that are no text, and null."""
    many: list[Header] = [("\udcff", b"\xff"), ("none", None), *[("h", b"v")] * 150]
    detail = detail_of(found(b"x", *many), INPUT)
    assert detail.headers is not None
    assert detail.headers[:3] == [
        ("\\xff", ShownBytes("ff", "hex")), ("none", ShownBytes("", "null")), ("h", ShownBytes("v", "text")),
    ]  # fmt: skip
    assert (len(detail.headers), detail.more_headers) == (100, 52)


def test_headers_that_were_not_read_are_not_said_to_be_none() -> None:
    """The client reads none where there are too many."""
    unread = msgspec.structs.replace(found(b"x"), headers=None)
    assert detail_of(unread, INPUT).headers is None
    assert detail_of(found(b"x"), INPUT).headers == []


def test_fields_are_as_they_were_written() -> None:
    """So that versions can be compared; of an object only."""
    assert fields_of(b'{"a": 1.50, "b": "x", "a": {"c": 1}}') == {"a": '{"c": 1}', "b": '"x"'}
    assert fields_of(b"[1]") is None
    assert fields_of(None) is None


def test_answers_follow_from_what_the_message_says() -> None:
    """Answered, past its expiry, unknown, not asked."""
    told = {a.source: (a.key, a.status, a.is_stale) for a in answers_in(ENRICHED)}
    assert told == {
        "geo-ip": (None, "answered", True), "user-profile": ("u", "user-not-found", False),
        "business-context": (None, "not asked", False),
    }  # fmt: skip
    assert {name for a in answers_in(ENRICHED) for name in a.columns} == {"geo_country"}
    assert answers_in(b'{"a": 1}') == answers_in(b"junk") == answers_in(None) == []
