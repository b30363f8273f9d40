"""Chunks to the messages of the two topics: both paths, dead letters, headers, counts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.batch import REDRIVE, Batch, OffsetRange, Purpose, RedriveFilter
from enrichment.batches.drain import stage
from enrichment.batches.provenance import StagedEnrichment
from enrichment.batches.route import Routed, Router, slow_path
from enrichment.codec.decode import decode
from enrichment.codec.records import Chunk, Header, message_size, pack_headers, unpack_headers
from enrichment.codec.struct_columns import columns_of, fragments
from enrichment.enrichers.business import Context, Risk
from enrichment.enrichers.geo import Place
from enrichment.enrichers.registry import NO_KEY, OK, REGISTRY, STALE
from enrichment.enrichers.user import Profile
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import HEADER_ATTEMPTS, HEADER_ORIGIN, REDRIVE_HEADERS, Provenance, Reason
from tests.fixtures.origins import origin_header

KEYS = ("source_ip", "user_id", "request_id")
BATCH = Batch("dag/run/0", "stacklens-enriched", "group", 0, (OffsetRange(3, 100, 200),))
NOW = "2024-01-15T10:00:00.123Z"
PLACE = Place(country="United States", latitude=37.386, longitude=float("nan"))
EVENT = {
    "timestamp": "2024-01-15T10:00:00Z",
    "service": "payment-service",
    "level": "info",
    "message": "Payment processed",
}
SOURCES = ("geo-ip", "user-profile", "business-context")


def value_of(**fields: Any) -> bytes:
    """A message of the contract, some fields added or changed."""
    return json.dumps(EVENT | fields).encode()


def json_of(structs: Sequence[msgspec.Struct]) -> pa.Array:
    """What an enricher writes for each of these structs, all of one kind."""
    return fragments(columns_of(structs, type(structs[0])))


def addition(
    source: str, structs: Sequence[msgspec.Struct], status: Sequence[str], codes: Sequence[int]
) -> StagedEnrichment:
    """An enricher's work on a chunk."""
    return StagedEnrichment(source, np.array(codes, dtype=np.int32), pa.array(status, pa.string()), json_of(structs))


def additions(rows: int, **status: str) -> list[StagedEnrichment]:
    """Three enrichers that say the same of every row; `geo`, `user` and `business` are their statuses."""
    words = {"geo": OK, "user": OK, "business": OK} | status
    structs: list[Sequence[msgspec.Struct]] = [
        [Place(), PLACE],
        [Profile(), Profile(company="Acme")],
        [Context(), Context(unit="payments")],
    ]
    return [
        addition(source, made, [NO_KEY, word], [0 if word == NO_KEY else 1] * rows)
        for source, made, word in zip(SOURCES, structs, words.values(), strict=True)
    ]


def chunk(
    values: Sequence[bytes | None], headers: Sequence[Header] = (), key: bytes | None = b"k"
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Events and refused messages, as drain stages them, at offsets from 100 on."""
    count = len(values)
    read = Chunk.of(
        [3] * count, range(100, 100 + count), [1_700_000_000_000] * count, [key] * count,
        [pack_headers(headers)] * count, values,
    )  # fmt: skip
    staged = stage(read, partial(decode, keys=KEYS))
    return staged.events, staged.refused


def route(values: Sequence[bytes | None], status: Mapping[str, str] | None = None, **options: Any) -> Routed:
    """Route a chunk with the same answers for all rows."""
    headers, key = options.pop("headers", ()), options.pop("key", b"k")
    events, refused = chunk(values, headers, key)
    output = TopicLimits("out", options.pop("max_output_bytes", 2**20), **options.pop("output", {}))
    letters = TopicLimits("letters", options.pop("max_dlq_bytes", 2**20), **options.pop("letters", {}))
    router = Router(BATCH, NOW, output, letters, **options)
    # In slices of two, as drain stages them in slices of more.
    slices = (events.slice(start, 2) for start in range(0, events.num_rows, 2))
    routed = list(router.route(slices, additions(events.num_rows, **(status or {})), refused))
    analytics = Chunk(pa.concat_batches([part.analytics.columns for part in routed]))
    return Routed(analytics, routed[-1].dead_letters, routed[-1].counts, routed[-1].fingerprints)


def outputs(routed: Routed) -> list[bytes]:
    """The values of the enriched messages: none is null."""
    return [value for value in routed.analytics.values if value is not None]


def test_enriched_message_is_the_input_and_the_additions() -> None:
    """Every input field as it came, plus what was added and where it came from."""
    [value] = outputs(route([value_of(trace_id="t")]))
    assert json.loads(value) == {
        **EVENT,
        "trace_id": "t",
        **json.loads(msgspec.json.encode(PLACE)), **msgspec.to_builtins(Profile(company="Acme")),
        **msgspec.to_builtins(Context(unit="payments")),
        "enrichment_sources": ["geo-ip", "user-profile", "business-context"],
        "enrichment_errors": None, "enrichment_stale": None, "enriched_at": NOW,
    }  # fmt: skip
    assert value.startswith(value_of(trace_id="t")[:-1])


def refuse_constant(name: str) -> None:
    """JSON has no such number."""
    raise AssertionError(name)


def test_output_is_strict_json() -> None:
    """NaN in an answer comes out as null."""
    [value] = outputs(route([value_of()]))
    assert json.loads(value, parse_constant=refuse_constant)["geo_longitude"] is None


def test_absent_keys_are_null_and_not_listed() -> None:
    """A key that was absent is no error: its columns are null and its source is not listed."""
    routed = route([value_of()], {"user": NO_KEY})
    message = json.loads(routed.analytics.values[0] or b"")
    assert (message["user_company"], message["enrichment_sources"]) == (None, ["geo-ip", "business-context"])
    assert message["enrichment_errors"] is None
    assert (routed.counts.enriched, routed.counts.partial) == (1, 0)


def test_failed_lookup_costs_its_own_columns() -> None:
    """A lookup that fails leaves a partially enriched message with the error named."""
    routed = route([value_of()], {"user": "user-lookup-timeout", "business": "business-context-not-found"})
    message = json.loads(routed.analytics.values[0] or b"")
    assert message["enrichment_sources"] == ["geo-ip"]
    assert message["enrichment_errors"] == ["user-lookup-timeout", "business-context-not-found"]
    assert (routed.counts.enriched, routed.counts.partial, routed.counts.dead) == (0, 1, 0)
    assert routed.counts.by_reason == {"user-lookup-timeout": 1, "business-context-not-found": 1}


def test_stale_answer_is_marked() -> None:
    """What was served past its expiry is listed as a source, and named as stale."""
    message = json.loads(outputs(route([value_of()], {"geo": STALE}))[0])
    assert message["enrichment_stale"] == ["geo-ip"]
    assert "geo-ip" in message["enrichment_sources"]


def test_stale_absence_is_marked_and_named() -> None:
    """That the key was unknown once is the error, and that nobody could be asked now is said beside it."""
    routed = route([value_of()], {"user": f"{STALE} {'user-not-found'}"})
    message = json.loads(outputs(routed)[0])
    assert message["enrichment_errors"] == ["user-not-found"]
    assert message["enrichment_stale"] == ["user-profile"]
    assert "user-profile" not in message["enrichment_sources"]
    assert (routed.counts.partial, routed.counts.by_reason) == (1, {"user-not-found": 1})


@pytest.mark.parametrize(
    ("name", "source", "unknown", "failed"),
    [
        ("geo", "geo-ip", "geo-ip-not-found", "geo-ip-lookup-failed"),
        ("user", "user-profile", "user-not-found", "user-service-error"),
        ("business", "business-context", "business-context-not-found", "database-connection-error"),
    ],
)
def test_stale_absence_from_a_required_source_is_its_failure(name: str, source: str, unknown: str, failed: str) -> None:
    """A message is not set aside for what its source said once; where the source is not down for all, the letter says
    that it failed for this one."""
    routed = route([value_of()], {name: f"{STALE} {unknown}"}, required=frozenset({source}))
    assert routed.counts.dead_by_reason == {failed: 1}


def test_missing_required_source_makes_a_dead_letter() -> None:
    """When the policy says that a missing enrichment is fatal, the message is set aside with that reason."""
    routed = route([value_of()] * 2, {"geo": "geo-ip-lookup-failed"}, required=frozenset({"geo-ip"}))
    assert (routed.analytics.values, routed.counts.dead) == ([], 2)
    letter = json.loads(routed.dead_letters.values[0] or b"")
    assert (letter["error_reason"], letter["stage"], letter["original_message"]) == (
        "geo-ip-lookup-failed",
        "enrich",
        EVENT,
    )


def test_optional_source_that_fails_is_not_fatal_where_another_is_required() -> None:
    """Only the sources that the policy names are fatal."""
    routed = route([value_of()], {"user": "user-lookup-timeout"}, required=frozenset({"geo-ip"}))
    assert (routed.counts.partial, routed.counts.dead) == (1, 0)


@pytest.mark.parametrize(
    ("value", "original", "encoding"),
    [
        (b'{"level": 1}', {"level": 1}, "json"),
        (b"[1]", "[1]", "utf-8"),
        (b"plain text", "plain text", "utf-8"),
        (b"\xff\x00", base64.b64encode(b"\xff\x00").decode(), "base64"),
        (None, None, "null"),
        (b"", "", "utf-8"),
    ],
    ids=["object", "array", "text", "bytes", "tombstone", "empty"],
)
def test_dead_letter_gives_the_original_back(value: bytes | None, original: Any, encoding: str) -> None:
    """The object, the text, or base64 with its encoding named, and where it stands."""
    routed = route([value_of(), value])
    letter = json.loads(routed.dead_letters.values[0] or b"")
    assert (letter["original_message"], letter["original_encoding"]) == (original, encoding)
    assert (letter["source_topic"], letter["source_partition"], letter["source_offset"]) == (
        "stacklens-enriched",
        3,
        101,
    )
    assert (letter["source_key"], letter["source_timestamp"], letter["sent_to_dlq_at"]) == ("k", 1_700_000_000_000, NOW)
    assert (letter["attempts"], letter["batch_id"], letter["original_truncated"]) == (1, "dag/run/0", False)
    assert (routed.counts.enriched, routed.counts.dead, routed.counts.total) == (1, 1, 2)


def test_key_timestamp_and_headers_are_kept() -> None:
    """The message's own headers come first, as they came; then where it came from."""
    own = [("tenant", b"t1"), ("null", None), ("empty", b""), ("tenant", b"\xff")]
    routed = route([value_of()], headers=own, key=None)
    assert list(map(unpack_headers, routed.analytics.headers)) == [
        [*own, origin_header("stacklens-enriched", 3, "dag/run/0", 100)]
    ]
    assert (routed.analytics.keys, routed.analytics.timestamps) == ([None], [1_700_000_000_000])
    assert routed.analytics.partitions == [3]


def test_attempts_are_a_redrives_to_count() -> None:
    """What a redrive says was tried twice is on its third attempt; an own header of that name says nothing."""
    headers: list[Header] = [(HEADER_ATTEMPTS, b"9"), *((name, b"2") for name in REDRIVE_HEADERS)]
    _, refused = chunk([b"x"], headers)
    redrive = Purpose(REDRIVE, letters=RedriveFilter(BATCH.topic, (), 3, 1_000_000))
    for purpose, attempts in ((BATCH.purpose, 1), (redrive, 3)):
        router = Router(
            msgspec.structs.replace(BATCH, purpose=purpose),
            NOW,
            TopicLimits("out", 1_000_000),
            TopicLimits("dlq", 1_000_000),
        )
        [*_, routed] = router.route(iter([]), additions(0), refused)
        assert json.loads(routed.dead_letters.values[0] or b"")["attempts"] == attempts


def test_message_that_outgrows_the_topic_is_set_aside_alone() -> None:
    """An output that the topic does not take becomes a dead letter, and costs no other message anything."""
    routed = route([value_of(), value_of(message="m" * 5000)], max_output_bytes=4000)
    assert [json.loads(v or b"")["message"] for v in routed.analytics.values] == [EVENT["message"]]
    letter = json.loads(routed.dead_letters.values[0] or b"")
    assert (letter["error_reason"], letter["original_message"]["message"]) == ("message-too-large", "m" * 5000)


def test_key_and_headers_count_towards_the_size() -> None:
    """What a topic takes is the whole message, not only its value."""
    for large in ({"key": b"k" * 5000}, {"headers": [("h", b"v" * 5000)]}):
        routed = route([value_of()], max_output_bytes=4000, **large)
        assert json.loads(routed.dead_letters.values[0] or b"")["error_reason"] == "message-too-large"


def test_dead_letter_that_outgrows_its_topic_is_cut_and_says_so() -> None:
    """Of a message that is too large for the dead letters too, the beginning is kept, and where the whole stands."""
    value = value_of(message="m" * 9000)
    routed = route([value], max_output_bytes=4000, max_dlq_bytes=4000)
    letter = json.loads(routed.dead_letters.values[0] or b"")
    assert (letter["original_truncated"], letter["original_encoding"]) == (True, "base64")
    assert value.startswith(base64.b64decode(letter["original_message"]))
    assert letter["original_size_bytes"] == len(value)
    assert 2000 < len(routed.dead_letters.values[0] or b"") <= 4000


def test_dead_letter_of_an_enormous_key_fits_its_topic() -> None:
    """Even what is not the value never makes a dead letter that cannot be sent: where the message stands is kept."""
    headers = [("h", b"v" * 5000)]
    routed = route([value_of()], max_output_bytes=4000, max_dlq_bytes=4000, key=b"k" * 5000, headers=headers)
    letter = json.loads(routed.dead_letters.values[0] or b"")
    assert (letter["source_key"], letter["source_key_encoding"], letter["source_offset"]) == (None, "omitted", 100)
    assert (json.dumps(letter["original_message"]).encode(), letter["original_truncated"]) == (value_of(), False)
    assert letter["omitted"] == ["headers", "key"]
    assert routed.dead_letters.keys == [None]
    assert [name for name, _ in unpack_headers(routed.dead_letters.headers[0])] == [HEADER_ORIGIN]


def test_dead_letters_of_a_chunk_are_in_the_order_of_their_offsets() -> None:
    """Refused when decoded or set aside later: each partition keeps its order."""
    routed = route(
        [value_of(), b"x", value_of(), b"y"], {"geo": "geo-ip-lookup-failed"}, required=frozenset({"geo-ip"})
    )
    assert [json.loads(v or b"")["source_offset"] for v in routed.dead_letters.values] == [100, 101, 102, 103]


texts = st.text(st.characters(exclude_categories=["Cs"]))
strange = st.dictionaries(
    st.sampled_from(["extra", *REGISTRY.output_columns]),
    texts | st.integers() | st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    max_size=3,
)


@given(
    st.fixed_dictionaries(dict.fromkeys(EVENT, texts), optional={"source_ip": texts | st.none()}),
    strange,
    st.booleans(),
)
def test_fast_and_slow_path_mean_the_same(fields: dict[str, Any], extra: dict[str, Any], ascii_only: bool) -> None:
    """On either path a message's output is that of parse, update, encode."""
    value = json.dumps(fields | extra, ensure_ascii=ascii_only).encode()
    [output] = outputs(route([value]))
    made = [json_of([struct])[0].as_py() for struct in (PLACE, Profile(company="Acme"), Context(unit="payments"))]
    tail = msgspec.json.encode(Provenance(tuple(SOURCES), None, None, NOW))[1:]
    assert json.loads(output) == json.loads(slow_path(value, made, tail))


def test_slow_path_keeps_values_as_they_came() -> None:
    """Numbers are not rewritten: what a reader gets is what the sender wrote."""
    raw = b'{"timestamp":"t","service":"s","level":"l","message":"m",'
    raw += b'"big":12345678901234567890123,"exact":1.10,"geo_city":"x"}'
    [output] = outputs(route([raw]))
    assert b'"big":12345678901234567890123' in output
    assert b'"exact":1.10' in output
    assert output.count(b'"geo_city"') == 1


def test_field_that_stands_twice_keeps_its_last_value() -> None:
    """A repeated key comes out once, as a JSON reader would have taken it."""
    [output] = outputs(route([value_of()[:-1] + b',"level":"last"}']))
    assert output.count(b'"level"') == 1
    assert json.loads(output)["level"] == "last"


def test_risk_follows_the_context() -> None:
    """A fragment may be made of several structs: the output holds the fields of both."""
    structs = Context(unit="payments"), Risk(risk_score=0.15, fraud_indicators=())
    joined = b",".join(json_of([struct])[0].as_py() for struct in structs)
    [message] = [json.loads(slow_path(value_of(), [joined], b'"enriched_at":"x"}'))]
    assert (message["business_unit"], message["business_risk_score"], message["business_fraud_indicators"]) == (
        "payments",
        0.15,
        [],
    )


def test_message_that_its_topic_refuses_is_set_aside_alone() -> None:
    """A time that the output topic does not take makes a dead letter, whose time is that of its message."""
    routed = route([value_of()], output={"max_age_ms": 3_600_000})
    [letter] = [json.loads(v or b"") for v in routed.dead_letters.values]
    assert letter["error_reason"] == Reason.MESSAGE_REFUSED
    assert letter["error_detail"].startswith("INVALID_TIMESTAMP: 1700000000000 is ")
    assert (letter["source_timestamp"], routed.dead_letters.timestamps) == (1_700_000_000_000, [1_700_000_000_000])
    assert (len(routed.analytics), routed.counts.dead_by_reason) == (0, {Reason.MESSAGE_REFUSED: 1})


@pytest.mark.parametrize("value", [value_of(), b"x"], ids=["refused", "no JSON"])
def test_dead_letter_has_the_time_of_now_where_its_topic_refuses_that_of_its_message(value: bytes) -> None:
    """Also close to the limit: the letter says what the message had."""
    now = 1_705_312_800_123
    age = now - 1_700_000_000_000
    limited = {"max_age_ms": age + 30_000}
    routed = route([value], output={"max_age_ms": 1}, letters=limited)
    assert routed.dead_letters.timestamps == [now]
    assert json.loads(routed.dead_letters.values[0] or b"")["source_timestamp"] == 1_700_000_000_000
    routed = route([value], output={"max_age_ms": 1}, letters={"max_age_ms": age + 90_000})
    assert routed.dead_letters.timestamps == [1_700_000_000_000]


def test_dead_letter_has_a_key_where_its_topic_must_have_one() -> None:
    """The place of its message stands in for no key, and the letter says that there was none."""
    routed = route([value_of()], key=None, output={"compacted": True}, letters={"compacted": True})
    assert routed.dead_letters.keys == [b"stacklens-enriched:3:100"]
    letter = json.loads(routed.dead_letters.values[0] or b"")
    assert (letter["source_key"], letter["source_key_encoding"]) == (None, "null")
    assert route([b"x"], key=None).dead_letters.keys == [None]


def test_dead_letter_that_was_refused_is_written_otherwise() -> None:
    """Whatever the broker had against it: it has the time of now and a key."""
    [headers] = route([b"x"], key=None).dead_letters.headers
    routed = route([b"x"], key=None, letters={"known": {headers: "INVALID_RECORD: no"}})
    assert (routed.dead_letters.timestamps, routed.dead_letters.keys) == (
        [1_705_312_800_123],
        [b"stacklens-enriched:3:100"],
    )


@pytest.mark.parametrize("name", [HEADER_ORIGIN, HEADER_ATTEMPTS, *REDRIVE_HEADERS, "own"])
def test_dead_letter_of_an_enormous_header_fits_whatever_its_name(name: str) -> None:
    """A header of the message's own that has one of the pipeline's names is not kept for that."""
    routed = route([value_of()], max_output_bytes=4000, max_dlq_bytes=4000, headers=[(name, b"v" * 9000)])
    [headers], [value] = routed.dead_letters.headers, routed.dead_letters.values
    assert message_size(value or b"", routed.dead_letters.keys[0], headers) <= 4000
    assert [header for header, _ in unpack_headers(headers)] == [HEADER_ORIGIN]
    assert json.loads(value or b"")["error_reason"] == Reason.MESSAGE_TOO_LARGE


def letter_of(value: bytes | None, max_bytes: int, **parts: Any) -> tuple[dict[str, Any], Chunk]:
    """The dead letter of a message that is too large for the output topic."""
    found = route([value], max_output_bytes=1, max_dlq_bytes=max_bytes, **parts).dead_letters
    return json.loads(found.values[0] or b""), found


@pytest.mark.parametrize(
    ("parts", "omitted"),
    [
        ({"key": b"k" * 5000}, ["key"]),
        ({"headers": [("h", b"v" * 5000)]}, ["headers"]),
        ({"headers": [("stacklens-revision", b"v" * 5000), ("stacklens-origin", b"v" * 5000)]}, ["headers"]),
        ({"key": b"k" * 5000, "headers": [("h", b"v" * 5000)]}, ["headers", "key"]),
    ],
    ids=["key", "headers", "headers-named-like-ours", "both"],
)
def test_letter_says_what_it_is_without(parts: dict[str, Any], omitted: list[str]) -> None:
    """A key or headers that no letter has room for are omitted whole and named; the value is whole and says so."""
    letter, found = letter_of(value_of(), 4000, **parts)
    assert (letter["original_message"], letter["original_truncated"]) == (EVENT, False)
    assert letter["omitted"] == omitted
    assert (letter["source_key_encoding"] == "omitted", found.keys == [None]) == (("key" in omitted),) * 2
    own = [name for name, _ in unpack_headers(found.headers[0])][:-1]
    assert own == ([] if "headers" in omitted else [name for name, _ in parts.get("headers", [])])


def test_value_that_only_base64_has_room_for_is_whole() -> None:
    """As a JSON string a text may be six times as long: in base64 it may still be all there, and is not cut then."""
    value = b"\x01" * 1500
    letter, _ = letter_of(value, 4000)
    assert base64.b64decode(letter["original_message"]) == value
    assert (letter["original_encoding"], letter["original_truncated"]) == ("base64", False)


def test_letter_of_an_ordinary_message_names_nothing_omitted() -> None:
    """The field is only there where it says something."""
    letter, _ = letter_of(value_of(), 100_000, headers=[("h", b"v")])
    assert "omitted" not in letter


def test_message_with_unread_headers_is_set_aside() -> None:
    """The client reads none of more than 100,000 headers: they must not be lost in silence."""
    read = Chunk.of([3], [100], [1_700_000_000_000], [b"k"], [b""], [value_of()])
    columns = read.columns.set_column(4, "headers", pa.nulls(1, pa.binary()))
    staged = stage(Chunk(columns), partial(decode, keys=KEYS))
    assert staged.events.num_rows == 0
    router = Router(BATCH, NOW, TopicLimits("out", 1_000_000), TopicLimits("dlq", 1_000_000))
    [*_, routed] = router.route(iter([]), additions(0), staged.refused)
    letter = json.loads(routed.dead_letters.values[0] or b"")
    assert (letter["error_reason"], letter["original_message"]) == (Reason.UNREADABLE_HEADERS, EVENT)
    assert (letter["omitted"], letter["source_key"]) == (["headers"], "k")
    assert [name for name, _ in unpack_headers(routed.dead_letters.headers[0])] == [HEADER_ORIGIN]


@given(st.binary(max_size=3000), st.binary(max_size=3000), st.binary(max_size=3000), st.integers(1500, 4500))
def test_letter_fits_and_says_what_it_holds(value: bytes, key: bytes, header: bytes, max_bytes: int) -> None:
    """Never larger than its topic takes; whole, or it names what is missing."""
    letter, found = letter_of(value, max_bytes, key=key, headers=[("h", header)])
    assert message_size(found.values[0] or b"", found.keys[0], found.headers[0]) <= max_bytes
    text = letter["original_message"]
    held = base64.b64decode(text) if letter["original_encoding"] == "base64" else text.encode()
    assert value.startswith(held)
    assert letter["original_truncated"] == (held != value)
    omitted = letter.get("omitted", [])
    assert found.keys == [None if "key" in omitted else key]
    assert len(unpack_headers(found.headers[0])) == (1 if "headers" in omitted else 2)
