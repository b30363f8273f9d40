"""What a correction is made of, without services."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import pytest

from enrichment.caches.base import Entry, State
from enrichment.codec.records import Chunk, Header, pack_headers, unpack_headers
from enrichment.enrichers.base import OpenEnricher
from enrichment.enrichers.business import BUSINESS, Context
from enrichment.enrichers.business.risk import Condition, Levels, Op, RiskRules, Rule
from enrichment.enrichers.business.risk_scorer import RiskScorer
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.geo import Place
from enrichment.enrichers.registry import REGISTRY
from enrichment.enrichers.testing import FixedLookup
from enrichment.enrichers.user import Profile
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import HEADER_REVISION
from enrichment.repair.corrections import Corrector, Tally, missing_of, revised
from tests.fixtures.origins import former_origin, origin_header

NOW = "2024-01-15T12:00:00.000Z"
ORIGIN = [origin_header("in", 0, "dag/run/0", 0)]
RULES = RiskRules(0.1, Levels(0.0, 0.3, 0.6, 0.8), [
    Rule("free", 0.2, (Condition("user_subscription_tier", Op.EQUAL, "free"),)),
    Rule("user-unknown", 0.4, (Condition("user_status", Op.EQUAL, "user-not-found"),)),
    Rule("address-unknown", 0.3, (Condition("geo_status", Op.EQUAL, "geo-ip-not-found"),)),
])  # fmt: skip
FAILED = Entry(State.FAILED, reason="user-lookup-timeout")


def published(**fields: Any) -> bytes:
    """A message that was published without its user."""
    added: dict[str, Any] = dict.fromkeys(REGISTRY.output_columns) | {
        "geo_country": "Norway", "geo_latitude": 59.91, "business_unit": "payments", "business_amount": 12.5,
        "business_risk_score": 0.1, "business_risk_level": "low", "business_fraud_indicators": [],
        "enrichment_sources": ["geo-ip", "business-context"], "enrichment_errors": ["user-lookup-timeout"],
        "enriched_at": "2024-01-15T10:00:00.000Z",
    }  # fmt: skip
    own = {"message": "m", "source_ip": "8.8.8.8", "user_id": "u", "request_id": "r", "mine": [1.0, {"é": None}]}
    return msgspec.json.encode(own | added | fields)


def correct(*values: bytes, places: dict[str, Any] | None = None, users: dict[str, Any] | None = None,
            contexts: dict[str, Any] | None = None,
            headers: list[Header] | None = None, max_bytes: int = 1_000_000) -> tuple[Chunk, Tally]:  # fmt: skip
    """The corrections of messages, with those sources given that can be asked."""
    count = len(values)
    chunk = Chunk.of(
        [0] * count, list(range(count)), [7] * count, [b"k"] * count, [pack_headers(headers or ORIGIN)] * count,
        list(values),
    )  # fmt: skip
    lookups = {
        "geo-ip": None if places is None else FixedLookup(places, absent="geo-ip-not-found"),
        "user-profile": None if users is None else FixedLookup(users, absent="user-not-found"),
        "business-context": None if contexts is None else FixedLookup(contexts, absent="business-context-not-found"),
    }
    asked = {source: lookup for source, lookup in lookups.items() if lookup is not None}
    corrector = Corrector.open(partial(opened, asked), frozenset(asked))
    return corrector.correct(chunk, NOW, TopicLimits("out", max_bytes))


def opened(lookups: Mapping[str, FixedLookup], declaration: LookupEnricher) -> OpenEnricher:
    """An enrichment over one of these lookups; over one that knows nothing where it has none."""
    lookup = lookups.get(declaration.source, FixedLookup({}))
    return OpenEnricher(declaration, lookup, RiskScorer(RULES) if declaration is BUSINESS else None)


def test_missing_columns_are_filled_and_all_others_kept() -> None:
    """User and risk are new; the message, place and context are what they were; nothing names an outage any more."""
    before = msgspec.json.decode(published())
    chunk, tally = correct(published(), users={"u": Profile("free", 3)})
    [value] = chunk.values
    assert msgspec.json.decode(value or b"") == before | {
        "user_subscription_tier": "free", "user_account_age_days": 3,
        "business_risk_score": 0.3, "business_risk_level": "medium", "business_fraud_indicators": ["free"],
        "enrichment_sources": ["geo-ip", "user-profile", "business-context"], "enrichment_errors": None,
        "enriched_at": NOW,
    }  # fmt: skip
    assert tally == Tally({"user-profile": 1}, {"user-profile": 0}, {"user-profile": 0}, 1)


def test_user_that_does_not_exist_is_an_answer() -> None:
    """The outage gives way to the permanent error, and the risk rules see it."""
    chunk, _ = correct(published(), users={})
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["enrichment_errors"], value["business_fraud_indicators"]) == (["user-not-found"], ["user-unknown"])


def test_rules_see_what_the_other_sources_had_said() -> None:
    """Statuses of sources that are not asked again come from the message."""
    errors = ["geo-ip-not-found", "user-lookup-timeout"]
    chunk, _ = correct(
        published(enrichment_errors=errors, enrichment_sources=["business-context"], geo_country=None),
        users={"u": Profile("premium")},
    )
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["enrichment_errors"], value["business_fraud_indicators"]) == (
        ["geo-ip-not-found"],
        ["address-unknown"],
    )


def stale_absence(**fields: Any) -> bytes:
    """A message whose user was unknown when the service was last asked, long ago."""
    return published(enrichment_errors=["user-not-found"], enrichment_stale=["user-profile"], **fields)


def test_stale_absence_is_missing() -> None:
    """It is looked up again; one of now is an answer, and so is a stale value."""
    assert missing_of(stale_absence()) == {"user-profile"}
    assert missing_of(published(enrichment_errors=["user-not-found"])) == frozenset()
    assert missing_of(published(enrichment_errors=None, enrichment_stale=["geo-ip", "no source"])) == frozenset()


@pytest.mark.parametrize(
    ("users", "errors", "tier"),
    [
        pytest.param({"u": Profile("premium", 1)}, None, "premium", id="found"),
        pytest.param({}, ["user-not-found"], None, id="still unknown"),
    ],
)
def test_stale_absence_is_corrected_with_what_is_so(
    users: dict[str, Any], errors: list[str] | None, tier: str | None
) -> None:
    """The mark goes: the message says what the service says now."""
    chunk, tally = correct(stale_absence(), users=users)
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["enrichment_errors"], value["enrichment_stale"]) == (errors, None)
    assert (value["user_subscription_tier"], tally.corrected) == (tier, {"user-profile": 1})


def test_stale_absence_stays_when_the_source_is_still_down() -> None:
    """Served stale once more it is no answer: nothing is corrected, and the message stays pending."""
    again = Entry(State.ABSENT, reason="user-not-found", stale=True)
    chunk, tally = correct(stale_absence(), users={"u": again})
    assert (len(chunk), tally.failed, tally.messages) == (0, {"user-profile": 1}, 0)


def test_stale_absence_keeps_its_mark_when_another_source_is_corrected() -> None:
    """Only what is asked for again changes."""
    value = stale_absence(business_unit=None, enrichment_sources=["geo-ip"])
    partial = msgspec.json.decode(value) | {"enrichment_errors": ["user-not-found", "database-connection-error"]}
    chunk, _ = correct(msgspec.json.encode(partial), contexts={"r": Context("payments")})
    corrected = msgspec.json.decode(chunk.values[0] or b"")
    assert (corrected["enrichment_errors"], corrected["enrichment_stale"]) == (["user-not-found"], ["user-profile"])
    assert corrected["business_fraud_indicators"] == ["user-unknown"]


def test_stale_sources_stay_stale() -> None:
    """What had been served past its expiry is still said to be."""
    chunk, _ = correct(published(enrichment_stale=["geo-ip"]), users={"u": Profile("free")})
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["enrichment_stale"], value["enrichment_sources"][0]) == (["geo-ip"], "geo-ip")


def test_message_whose_source_fails_again_has_no_correction() -> None:
    """The others of the chunk do, in order; both are counted."""
    values = [published(user_id="a"), published(user_id="b"), published(user_id="c")]
    chunk, tally = correct(*values, users={"a": Profile("free"), "b": FAILED, "c": Profile("free")})
    assert (chunk.offsets, tally) == ([0, 2], Tally({"user-profile": 2}, {"user-profile": 1}, {"user-profile": 0}, 2))


def test_correction_that_is_too_large_is_counted_and_left_out() -> None:
    """The others of the chunk are corrected; a source that answered only for such messages has answered."""
    values = [published(user_id="a"), published(user_id="b", message="m" * 9_000)]
    users = {"a": Profile("free"), "b": Profile("free")}
    chunk, tally = correct(*values, users=users, max_bytes=9_000)
    assert (chunk.offsets, tally) == ([0], Tally({"user-profile": 1}, {"user-profile": 0}, {"user-profile": 1}, 1))
    _, tally = correct(values[1], users=users, max_bytes=9_000)
    assert (tally.messages, tally.is_answered) == (0, True)


def test_message_with_two_outages_is_corrected_where_it_can_be() -> None:
    """The source that answers is filled in, the other error stays."""
    both = published(
        enrichment_errors=["user-lookup-timeout", "database-connection-error"], enrichment_sources=["geo-ip"],
        **dict.fromkeys(BUSINESS.output_columns[:4]),
    )  # fmt: skip
    chunk, tally = correct(both, users={"u": FAILED}, contexts={"r": Context("payments")})
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["business_unit"], value["enrichment_errors"]) == ("payments", ["user-lookup-timeout"])
    assert value["business_risk_score"] == 0.1
    assert (tally.corrected, tally.failed, tally.messages) == (
        {"business-context": 1, "user-profile": 0},
        {"business-context": 0, "user-profile": 1},
        1,
    )


def test_nothing_is_corrected_that_was_not_asked_for() -> None:
    """A chunk in which no source was asked again has no corrections."""
    assert correct(published())[1].messages == 0


def test_empty_chunk_has_no_corrections() -> None:
    """Nothing in, nothing out."""
    assert correct(users={})[1].messages == 0


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([], [(HEADER_REVISION, b"2")]),
        ([("a", b"1"), (HEADER_REVISION, b"2")], [("a", b"1"), (HEADER_REVISION, b"3")]),
        ([(HEADER_REVISION, b"x")], [(HEADER_REVISION, b"x"), (HEADER_REVISION, b"2")]),
        ([(HEADER_REVISION, b"9"), ("a", None)], [(HEADER_REVISION, b"9"), ("a", None), (HEADER_REVISION, b"2")]),
    ],
    ids=["first", "second", "an input's own", "an input's own, further in front"],
)  # fmt: skip
def test_revision_stands_before_the_origin(own: list[Header], expected: list[Header]) -> None:
    """The number counts up in its own place; whatever an input brought along is left alone."""
    for origin in (ORIGIN, former_origin("in", 0, "dag/run/0", 0)):
        assert revised([*own, *origin]) == [*expected, *ORIGIN]


def test_only_an_output_has_a_next_version() -> None:
    """A message that names no origin is somebody else's."""
    with pytest.raises(ValueError, match="without an origin"):
        revised([("a", b"1")])


def test_headers_of_a_correction_are_packed_again() -> None:
    """The chunk that is staged holds the new headers."""
    chunk, _ = correct(published(), users={}, headers=[("a", b"1"), *ORIGIN])
    assert unpack_headers(chunk.headers[0]) == [("a", b"1"), (HEADER_REVISION, b"2"), *ORIGIN]


@pytest.mark.parametrize(
    ("value", "missing"),
    [
        (published(), {"user-profile"}),
        (published(enrichment_errors=["user-not-found", "invalid-ip"]), set()),
        (
            published(enrichment_errors=["geo-ip-lookup-failed", "database-connection-error"]),
            {"geo-ip", "business-context"},
        ),
        (published(enrichment_errors=None), set()),
        (b"no JSON", set()),
        (None, set()),
    ],
    ids=["outage", "permanent", "two", "none", "no message", "tombstone"],
)
def test_only_outages_are_missing(value: bytes | None, missing: set[str]) -> None:
    """Permanent errors, and what is no message of ours, name nothing to repair."""
    assert missing_of(value) == missing


def test_place_is_looked_up_by_its_address() -> None:
    """Geo is a source like the others; keys of messages that do not miss it are not asked."""
    lookup = FixedLookup({"8.8.8.8": Place("Norway", timezone="Europe/Oslo")})
    down = published(enrichment_errors=["geo-ip-lookup-failed"], enrichment_sources=["business-context"], user_id=None)
    values: list[bytes | None] = [down, published(source_ip="1.1.1.1")]
    chunk = Chunk.of([0, 0], [0, 1], [7, 7], [b"k", b"k"], [pack_headers(ORIGIN)] * 2, values)
    corrector = Corrector.open(partial(opened, {"geo-ip": lookup}), frozenset({"geo-ip"}))
    corrected, tally = corrector.correct(chunk, NOW, TopicLimits("out", 1_000_000))
    assert (lookup.asked, tally.messages) == ([["8.8.8.8"]], 1)
    assert msgspec.json.decode(corrected.values[0] or b"")["geo_timezone"] == "Europe/Oslo"


def test_sources_that_are_not_declared_keep_their_names() -> None:
    """What another release or somebody's own enrichment said stays in the message, its name, error and mark too."""
    before = published(
        enrichment_sources=["geo-ip", "watch-list", "business-context"],
        enrichment_errors=["user-lookup-timeout", "asn-not-found"], enrichment_stale=["watch-list"],
        watch_category="scanner",
    )  # fmt: skip
    chunk, _ = correct(before, users={"u": Profile("free", 3)})
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert value["watch_category"] == "scanner"
    assert value["enrichment_sources"] == ["geo-ip", "user-profile", "business-context", "watch-list"]
    assert (value["enrichment_errors"], value["enrichment_stale"]) == (["asn-not-found"], ["watch-list"])
