"""Dead letters back into messages, and what is to become of each."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import msgspec
import orjson
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enrichment.batch import LIVE, REDRIVE, REPLAY, Batch, OffsetRange, Purpose, RedriveFilter
from enrichment.codec.decode import decode
from enrichment.codec.headers import FORMER_ORIGIN
from enrichment.codec.json_text import is_strict
from enrichment.codec.outgoing import origin_headers
from enrichment.codec.records import Chunk, Header, pack_headers, unpack_headers
from enrichment.dead_letters.reader import Verdict, judge, redrive_headers, unwrap
from enrichment.dead_letters.reasons import UNKNOWN, all_reasons, default_reasons, rule_of
from enrichment.dead_letters.writer import DeadLetters, normalised
from enrichment.enrichers.registry import REGISTRY
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import (
    HEADER_ATTEMPTS,
    HEADER_ORIGIN,
    HEADER_OWN,
    HEADER_REPLAY,
    HEADER_REVISION,
    REDRIVE_HEADERS,
    Reason,
)
from tests.fixtures.origins import former_origin

KEYS = ("source_ip", "user_id", "request_id")
SOURCE, DLQ = "stacklens-enriched", "analytics-dlq"
NOW = "2024-01-15T10:00:00.123Z"
LIVE_BATCH = Batch("dag/run/0", SOURCE, "group", 0, (OffsetRange(3, 0, 10),))
WANTED = RedriveFilter(SOURCE, all_reasons(), max_attempts=3, max_letter_bytes=1_000_000)
PATIENT = msgspec.structs.replace(WANTED, max_attempts=10**12)  # whatever the message's own headers say
REDRIVE_BATCH = Batch(
    "redrive/run/0", DLQ, "group", 0, (OffsetRange(3, 0, 9),), purpose=Purpose(REDRIVE, letters=WANTED)
)
GOOD = {"timestamp": "2024-01-15T10:00:00Z", "service": "payment", "level": "info", "message": "Payment"}
VALUE = json.dumps(GOOD).encode()


@dataclass(frozen=True)
class Sent:
    """A message as it came in, at offset 7 of partition 3."""

    value: bytes | None = VALUE
    key: bytes | None = b"k"
    timestamp: int = 1_705_312_800_000
    headers: list[Header] = field(default_factory=list)


def chunk_of(sent: Sent, partition: int = 3, offset: int = 7) -> Chunk:
    """The message as drain reads it."""
    return Chunk.of([partition], [offset], [sent.timestamp], [sent.key], [pack_headers(sent.headers)], [sent.value])


def set_aside(
    chunk: Chunk, batch: Batch = LIVE_BATCH, reason: str = "", detail: str = "out of order", at: str = NOW,
    max_bytes: int = 1_000_000,
) -> Chunk:  # fmt: skip
    """Its dead letter, as a redrive reads it from offset 50 of partition 1; the reason is the decoder's, if it has
    one."""
    frame = chunk.columns
    refused = decode(frame["value"], KEYS).refused
    death = (refused[0].reason, refused[0].detail) if refused else ("user-service-error", detail)
    written = DeadLetters(batch, at, TopicLimits("letters", max_bytes)).write(
        frame, origin_headers(frame, batch), "enrich", {0: (reason or death[0], death[1])}
    )
    return Chunk.of([1], [50], written.timestamps, written.keys, written.headers, written.values)


def edited(letter: Chunk, **fields: Any) -> Chunk:
    """A letter with other fields."""
    value = json.loads(letter.values[0] or b"") | fields
    return Chunk.of(
        letter.partitions, letter.offsets, letter.timestamps, letter.keys, letter.headers, [json.dumps(value).encode()]
    )


# What a JSON reader may stumble over.
odd = st.sampled_from(
    [b"18446744073709551616",
     rb'"\ud800"', rb'{"\udfff":1}', b"1e400", b"-1e999", b"1" * 5_000, b"0." + b"3" * 2_000, b'{"a":1,"a":2}',
     b"[" * 512 + b"]" * 512, b"[" * 700 + b"]" * 700, rb'"\u0000"', b"NaN", b'"\x00"']
)  # fmt: skip
objects = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False))
spaces = st.sampled_from([b"", b" ", b"\n\t "])
values = (
    st.none()
    | st.binary()
    | st.text().map(str.encode)
    | st.builds(
        lambda fields, before, behind, ascii_only: (
            before + json.dumps(GOOD | fields, ensure_ascii=ascii_only).encode() + behind
        ),
        objects,
        spaces,
        spaces,
        st.booleans(),
    )
    | st.builds(
        lambda extra, missing: b'{"level":%s,' % extra + VALUE[1:] if missing else b'{"a":%s}' % extra,
        odd,
        st.booleans(),
    )
    | odd.map(lambda extra: VALUE[:-1] + b',"x":' + extra + b',"level":null}')
)
reserved = st.sampled_from(
    [*REDRIVE_HEADERS, HEADER_ORIGIN, *FORMER_ORIGIN, HEADER_REPLAY, HEADER_REVISION, HEADER_OWN, "stacklens-"]
)
numbers = st.sampled_from([b"0", b"1", b"2", b"9" * 30, b"1" * 5_000])
headers = st.lists(st.tuples(st.text(max_size=9) | reserved, st.none() | st.binary(max_size=9) | numbers), max_size=5)
times = st.integers(0, 2**42) | st.sampled_from([-1, 0, 1, -5, 2**62])
messages = st.builds(Sent, values, st.none() | st.binary(max_size=20), times, headers)


@given(messages)
@example(Sent(b' {"a": 1.0, "a": 1e2}\n'))
@example(Sent(b""))
@example(Sent(headers=[(name, b"9") for name in REDRIVE_HEADERS]))
@example(Sent(headers=[(HEADER_ATTEMPTS, b"9" * 30)]))
@example(Sent(headers=[(HEADER_OWN, b"0")]))
@example(Sent(headers=[(HEADER_OWN, b"1"), (HEADER_OWN, b"1"), (HEADER_REVISION, b"1")]))
@example(Sent(b'{"timestamp":"t","service":"s","level":"l","message":null,"x":1e400}'))
@example(Sent(rb'{"timestamp":"t","service":"s","level":"l","message":null,"x":"\ud800"}', timestamp=-1))
def test_message_comes_back_as_it_was(sent: Sent) -> None:
    """Any message -> dead letter -> message: bytes, key, timestamp, headers and place are those that came in."""
    message = chunk_of(sent)
    letter = set_aside(message)
    back = unwrap(letter, PATIENT, set(), DLQ)
    assert unpack_headers(back.headers[0])[:-4] == sent.headers
    assert Chunk.of(back.partitions, back.offsets, back.timestamps, back.keys, message.headers, back.values) == message


def test_letter_of_an_earlier_version_comes_back() -> None:
    """It says its origin in four headers, which are none of the message's own, as little as those of a redrive."""
    sent = Sent(headers=[("a", b"1"), ("b", None)])
    letter = set_aside(chunk_of(sent))
    for batch_id, purpose, sent_in in (
        ("dag/run/0", "live", []), ("redrive/run/0", REDRIVE, redrive_headers(1, DLQ, 3, 50))
    ):  # fmt: skip
        headers = pack_headers([*sent.headers, *sent_in, *former_origin(SOURCE, 3, batch_id, 7)])
        before = Chunk.of([1], [50], letter.timestamps, letter.keys, [headers], letter.values)
        back = unwrap(edited(before, purpose=purpose, batch_id=batch_id), PATIENT, set(), DLQ)
        assert unpack_headers(back.headers[0])[: -len(REDRIVE_HEADERS)] == sent.headers


@given(messages)
def test_message_comes_back_after_a_second_failure(sent: Sent) -> None:
    """A message that failed again after its redrive: its headers do not grow, and it counts one more try."""
    again = unwrap(set_aside(chunk_of(sent)), PATIENT, set(), DLQ)
    tried = dict(unpack_headers(again.headers[0]))[HEADER_ATTEMPTS]
    third = unwrap(set_aside(again, REDRIVE_BATCH), PATIENT, set(), DLQ)
    assert unpack_headers(third.headers[0])[:-4] == sent.headers
    assert int(dict(unpack_headers(third.headers[0]))[HEADER_ATTEMPTS] or b"") == int(tried or b"") + 1
    assert (third.offsets, third.timestamps, third.keys, third.values) == (
        [7],
        [sent.timestamp],
        [sent.key],
        [sent.value],
    )


@given(messages, st.sampled_from([LIVE, Purpose(REPLAY, headers=((HEADER_REPLAY, "again"),))]))
def test_every_reader_takes_every_letter(sent: Sent, purpose: Purpose) -> None:
    """Strict readers too, those that refuse repeated keys, and numbers that no double holds."""
    batch = msgspec.structs.replace(LIVE_BATCH, purpose=purpose)
    [letter] = set_aside(chunk_of(sent), batch).values
    assert letter is not None
    assert is_strict(letter)
    assert max(len(digits) for digits in re.findall(rb"\d+", re.sub(rb'"[^"]*"', b"", letter))) < 1_000
    for reader in (orjson.loads, msgspec.json.decode, json.loads):
        assert reader(letter)["source_offset"] == 7
    assert pd.read_json(StringIO(letter.decode()), typ="series", dtype=False)["source_offset"] == 7


# As they were written before: the object as it came, whatever readers say to it.
OLD = (
    rb'{"timestamp":"t","service":"payment","level":"l","message":null,"x":"\ud800"}',
    b'{"timestamp":"t","service":"payment","level":"l","message":null,"x":1e400}',
    b'{"timestamp":"t","service":"payment","level":"l","message":null,"x":' + b"1" * 5_000 + b"}",
    b'{"timestamp":"t","service":"payment","level":"l","message":null,"x":1,"x":2}',
)


@pytest.mark.parametrize("value", OLD, ids=["surrogate", "1e400", "digits", "twice"])
def test_letter_of_an_earlier_version_gives_its_object_back(value: bytes) -> None:
    """What was written before strict readers were thought of is still read, byte for byte."""
    letter = set_aside(chunk_of(Sent(value)))
    written = msgspec.json.decode(letter.values[0] or b"")
    written |= {"original_message": msgspec.Raw(value), "original_encoding": "json"}
    old = Chunk.of([1], [50], letter.timestamps, letter.keys, letter.headers, [msgspec.json.encode(written)])
    assert verdict(old, wanted(service="payment"))[0] is Verdict.REDRIVE
    assert unwrap(old, WANTED, set(), DLQ).values == [value]


@pytest.mark.parametrize("value", OLD, ids=["surrogate", "1e400", "digits", "twice"])
def test_service_is_found_in_the_text_of_an_object(value: bytes) -> None:
    """A letter that holds its object as text is one of its service, too."""
    letter = set_aside(chunk_of(Sent(value)))
    assert isinstance(json.loads(letter.values[0] or b"")["original_message"], str)
    assert verdict(letter, wanted(service="payment"))[0] is Verdict.REDRIVE
    assert verdict(letter, wanted(service="other"))[0] is Verdict.FILTERED


def test_redriven_message_says_where_its_letter_was() -> None:
    """Behind the message's own headers: how often it was tried, and topic, partition and offset of the letter."""
    back = unwrap(set_aside(chunk_of(Sent(headers=[("own", b"1")]))), WANTED, set(), DLQ)
    assert unpack_headers(back.headers[0]) == [
        ("own", b"1"),
        *zip(REDRIVE_HEADERS, (b"1", b"analytics-dlq", b"1", b"50"), strict=True),
    ]


def verdict(
    letter: Chunk, wanted: RedriveFilter = WANTED, redriven: Sequence[tuple[int, int]] = ()
) -> tuple[Verdict, str]:
    """What is to become of a letter."""
    [judged] = judge(letter, wanted, set(redriven))
    return judged.verdict, judged.why


def wanted(**changed: Any) -> RedriveFilter:
    """All letters but for what is said."""
    return msgspec.structs.replace(WANTED, **changed)


LETTER = set_aside(chunk_of(Sent()))
WRONG: tuple[Any, ...] = (10**400, 1.5, "7", True, [], {})
MOMENT = datetime(2024, 1, 15, 10, 0, 0, 123_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({}, Verdict.REDRIVE, id="nothing"),
        pytest.param({"source_topic": "other"}, Verdict.FILTERED, id="other-topic"),
        pytest.param({"source_partition": 3}, Verdict.REDRIVE, id="its-partition"),
        pytest.param({"source_partition": 0}, Verdict.FILTERED, id="other-partition"),
        pytest.param({"service": "payment"}, Verdict.REDRIVE, id="its-service"),
        pytest.param({"service": "other"}, Verdict.FILTERED, id="other-service"),
        pytest.param({"since": MOMENT}, Verdict.REDRIVE, id="since-then"),
        pytest.param({"since": MOMENT.replace(second=1)}, Verdict.FILTERED, id="since-later"),
        pytest.param({"until": MOMENT}, Verdict.FILTERED, id="until-then"),
        pytest.param({"until": MOMENT.replace(second=1)}, Verdict.REDRIVE, id="until-later"),
        pytest.param({"reasons": ("user-lookup-timeout",)}, Verdict.LEFT, id="other-reason"),
        pytest.param({"max_attempts": 1}, Verdict.PARKED, id="tried-too-often"),
        pytest.param({"max_letter_bytes": 5_500}, Verdict.REDRIVE, id="room"),
        pytest.param({"max_letter_bytes": 4_500}, Verdict.LEFT, id="no-room-for-another"),
    ],
)
def test_filters(changed: dict[str, Any], expected: Verdict) -> None:
    """Reason, time and source of a letter, how often it was tried and how large it is, decide what becomes of it."""
    assert verdict(LETTER, wanted(**changed))[0] is expected


@pytest.mark.parametrize(
    ("letter", "why"),
    [
        pytest.param(set_aside(chunk_of(Sent(b"x" * 9_000)), max_bytes=3_000), "only the beginning", id="cut"),
        pytest.param(
            set_aside(chunk_of(Sent()), Batch("r", SOURCE, "g", 0, (), purpose=Purpose("replay"))),
            "by a replay",
            id="replay",
        ),
        pytest.param(chunk_of(Sent(b"no letter")), "no dead letter", id="no-json"),
        pytest.param(chunk_of(Sent(None)), "no dead letter", id="null"),
        pytest.param(chunk_of(Sent()), "no dead letter", id="other-object"),
        pytest.param(
            edited(LETTER, original_encoding="base64", original_message="&"), "no dead letter", id="no-base64"
        ),
        pytest.param(edited(LETTER, source_offset=-1), "no dead letter", id="no-offset"),
        pytest.param(edited(LETTER, source_timestamp=2**63), "no dead letter", id="no-time"),
        *(
            pytest.param(edited(LETTER, **{name: number}), "no dead letter", id=f"{name}-{number!s:.9}")
            for name in ("source_partition", "source_offset", "attempts", "source_timestamp")
            for number in WRONG
        ),
        *(
            pytest.param(edited(LETTER, **{name: number}), "no dead letter", id=f"{name}-{number}")
            for name in ("source_partition", "source_offset", "attempts")
            for number in (-1, -(2**63), None, 2**63)
        ),
        pytest.param(edited(LETTER, source_partition=2**31), "no dead letter", id="no-partition"),
        pytest.param(edited(LETTER, attempts=0), "no dead letter", id="never-tried"),
        pytest.param(edited(LETTER, original_encoding="latin-1"), "no dead letter", id="other-encoding"),
        pytest.param(edited(LETTER, original_message="text"), "no dead letter", id="encoding-json-but-text"),
        pytest.param(edited(LETTER, error_reason="x" * 10**6), "not a reason", id="huge-reason"),
        pytest.param(set_aside(chunk_of(Sent(key=b"k" * 9_000)), max_bytes=3_000), "key or headers", id="key-omitted"),
        pytest.param(
            set_aside(chunk_of(Sent(headers=[("h", b"v" * 9_000)])), max_bytes=3_000), "key or headers", id="no-headers"
        ),
        pytest.param(
            edited(LETTER, source_key=None, source_key_encoding="omitted"), "key or headers", id="old-omission"
        ),
    ],
)
def test_what_cannot_be_repaired_is_left(letter: Chunk, why: str) -> None:
    """What does not give the message back stays, and says why; it never fails a redrive."""
    found, said = verdict(letter)
    assert found is Verdict.LEFT
    assert why in said
    assert len(unwrap(letter, WANTED, set(), DLQ)) == 0


def test_service_of_what_is_no_object() -> None:
    """A letter without a service that could be told is none of that service."""
    for value in (b"no JSON", b"[1]", b'{"service": 1}', None):
        assert verdict(set_aside(chunk_of(Sent(value))), wanted(service="payment"))[0] is Verdict.FILTERED


def test_time_of_a_letter_that_tells_none() -> None:
    """A letter whose time cannot be read is in no window."""
    for moment in ("yesterday", "2024-01-15T10:00:00"):
        assert (
            verdict(edited(LETTER, sent_to_dlq_at=moment), wanted(since=MOMENT.replace(year=2000)))[0]
            is Verdict.FILTERED
        )
    assert verdict(edited(LETTER, sent_to_dlq_at="yesterday"))[0] is Verdict.REDRIVE


def test_letter_that_is_marked_is_done() -> None:
    """A letter that was sent in again before is not looked at."""
    assert verdict(LETTER, redriven=[(1, 50)]) == (Verdict.DONE, "sent in again before")
    assert verdict(LETTER, redriven=[(1, 51), (50, 1)])[0] is Verdict.REDRIVE


def test_letter_written_anew_gives_an_equal_message() -> None:
    """A letter that a tool has formatted is still the same message, if not the same bytes."""
    back = unwrap(edited(set_aside(chunk_of(Sent(b' {"service":1,"a":2.0}')))), WANTED, set(), DLQ)
    assert json.loads(back.values[0] or b"") == {"service": 1, "a": 2.0}


def test_letter_of_an_earlier_version_is_understood() -> None:
    """Letters did not always say what set them aside: those are live ones."""
    value = json.loads(LETTER.values[0] or b"")
    del value["purpose"]
    old = Chunk.of([1], [50], LETTER.timestamps, LETTER.keys, LETTER.headers, [json.dumps(value).encode()])
    assert verdict(old)[0] is Verdict.REDRIVE


def test_every_reason_has_its_default() -> None:
    """Which reasons are worth another try is said of each; those that need a person are not among them."""
    assert {*map(str, Reason), *REGISTRY.reasons} == set(all_reasons())
    assert UNKNOWN not in map(rule_of, all_reasons())
    assert rule_of("of a later release") is UNKNOWN
    assert set(default_reasons()) & {*map(str, Reason)} == {"message-too-large"}
    assert set(default_reasons()) >= {
        "geo-ip-lookup-failed", "geo-ip-not-found", "user-lookup-timeout", "user-service-error",
        "user-not-found", "business-context-not-found", "database-connection-error",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ("not UTF-8 at byte 17", "not UTF-8 at byte <n>"),
        ("2,097,200 bytes enriched; 2097152 at most", "<n> bytes enriched; <n> at most"),
        (
            "Expecting ',' delimiter: line 1 column 5 (char 4)",
            "Expecting <quoted> delimiter: line <n> column <n> (char <n>)",
        ),
        ('no field "user_17" in `a`', "no field <quoted> in <quoted>"),
        ("key 0xDEADbeef of 6f1c2d3e-0000-4000-8000-00000000abcd, 9f86d081884c7d65", "key <hex> of <hex>, <hex>"),
        ("required: level, service", "required: level, service"),
        ("a facade, decade 12.5", "a facade, decade <n>"),
    ],
)
def test_details_that_differ_only_in_values_are_one(detail: str, expected: str) -> None:
    """Digits, hex and quoted values are what differs from message to message."""
    assert normalised(detail) == expected
