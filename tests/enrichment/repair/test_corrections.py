"""What a correction is made of, without services."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest

from enrichment.caches.base import Entry, State
from enrichment.codec.records import Chunk, Header, pack_headers, unpack_headers
from enrichment.enrichers.base import look_up_and_enrich
from enrichment.enrichers.business.enricher import BusinessEnricher
from enrichment.enrichers.business.risk import Condition, Levels, Op, RiskRules, Rule
from enrichment.enrichers.geo.enricher import GeoEnricher
from enrichment.enrichers.testing import FixedLookup
from enrichment.enrichers.user.enricher import UserEnricher
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import (
    HEADER_REVISION,
    ORIGIN_HEADERS,
    OUTPUT_COLUMNS,
    Context,
    Place,
    Profile,
    Reason,
    Source,
    column_names,
)
from enrichment.repair.corrections import Corrector, LookUp, Tally, missing_of, revised

NOW = "2024-01-15T12:00:00.000Z"
ORIGIN: list[Header] = [(name, b"0") for name in ORIGIN_HEADERS]
RULES = RiskRules(0.1, Levels(0.0, 0.3, 0.6, 0.8), [
    Rule("free", 0.2, (Condition("user_subscription_tier", Op.EQUAL, "free"),)),
    Rule("user-unknown", 0.4, (Condition("user_status", Op.EQUAL, Reason.USER_NOT_FOUND),)),
    Rule("address-unknown", 0.3, (Condition("geo_status", Op.EQUAL, Reason.GEO_NOT_FOUND),)),
])  # fmt: skip
FAILED = Entry(State.FAILED, reason=Reason.USER_TIMEOUT)


def published(**fields: Any) -> bytes:
    """A message that was published without its user."""
    added: dict[str, Any] = dict.fromkeys(OUTPUT_COLUMNS) | {
        "geo_country": "Norway", "geo_latitude": 59.91, "business_unit": "payments", "business_amount": 12.5,
        "business_risk_score": 0.1, "business_risk_level": "low", "business_fraud_indicators": [],
        "enrichment_sources": [Source.GEO, Source.BUSINESS], "enrichment_errors": [Reason.USER_TIMEOUT],
        "enriched_at": "2024-01-15T10:00:00.000Z",
    }  # fmt: skip
    own = {"message": "m", "source_ip": "8.8.8.8", "user_id": "u", "request_id": "r", "mine": [1.0, {"é": None}]}
    return msgspec.json.encode(own | added | fields)


def correct(*values: bytes, users: dict[str, Any] | None = None, contexts: dict[str, Any] | None = None,
            headers: list[Header] | None = None, max_bytes: int = 1_000_000) -> tuple[Chunk, Tally]:  # fmt: skip
    """The corrections of messages, with those sources given that can be asked."""
    count = len(values)
    chunk = Chunk.of(
        [0] * count, list(range(count)), [7] * count, [b"k"] * count, [pack_headers(headers or ORIGIN)] * count,
        list(values),
    )  # fmt: skip
    business = BusinessEnricher(FixedLookup(contexts or {}, absent=Reason.BUSINESS_NOT_FOUND), RULES)
    lookups: dict[Source, LookUp] = {}
    if users is not None:
        enricher = UserEnricher(FixedLookup(users, absent=Reason.USER_NOT_FOUND))
        lookups[Source.USER] = partial(look_up_and_enrich, enricher, added={})
    if contexts is not None:
        lookups[Source.BUSINESS] = business.contexts
    return Corrector(lookups, business.score).correct(chunk, NOW, TopicLimits("out", max_bytes))


def test_missing_columns_are_filled_and_all_others_kept() -> None:
    """User and risk are new; the message, place and context are what they were; nothing names an outage any more."""
    before = msgspec.json.decode(published())
    chunk, tally = correct(published(), users={"u": Profile("free", 3)})
    [value] = chunk.values
    assert msgspec.json.decode(value or b"") == before | {
        "user_subscription_tier": "free", "user_account_age_days": 3,
        "business_risk_score": 0.3, "business_risk_level": "medium", "business_fraud_indicators": ["free"],
        "enrichment_sources": [Source.GEO, Source.USER, Source.BUSINESS], "enrichment_errors": None, "enriched_at": NOW,
    }  # fmt: skip
    assert tally == Tally({Source.USER: 1}, {Source.USER: 0}, {Source.USER: 0}, 1)


def test_user_that_does_not_exist_is_an_answer() -> None:
    """The outage gives way to the permanent error, and the risk rules see it."""
    chunk, _ = correct(published(), users={})
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["enrichment_errors"], value["business_fraud_indicators"]) == (["user-not-found"], ["user-unknown"])


def test_rules_see_what_the_other_sources_had_said() -> None:
    """Statuses of sources that are not asked again come from the message."""
    errors = [Reason.GEO_NOT_FOUND, Reason.USER_TIMEOUT]
    chunk, _ = correct(
        published(enrichment_errors=errors, enrichment_sources=[Source.BUSINESS], geo_country=None),
        users={"u": Profile("premium")},
    )
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["enrichment_errors"], value["business_fraud_indicators"]) == (
        ["geo-ip-not-found"],
        ["address-unknown"],
    )


def stale_absence(**fields: Any) -> bytes:
    """A message whose user was unknown when the service was last asked, long ago."""
    return published(enrichment_errors=[Reason.USER_NOT_FOUND], enrichment_stale=[Source.USER], **fields)


def test_stale_absence_is_missing() -> None:
    """It is looked up again; one of now is an answer, and so is a stale value."""
    assert missing_of(stale_absence()) == {Source.USER}
    assert missing_of(published(enrichment_errors=[Reason.USER_NOT_FOUND])) == frozenset()
    assert missing_of(published(enrichment_errors=None, enrichment_stale=[Source.GEO, "no source"])) == frozenset()


@pytest.mark.parametrize(
    ("users", "errors", "tier"),
    [
        pytest.param({"u": Profile("premium", 1)}, None, "premium", id="found"),
        pytest.param({}, [Reason.USER_NOT_FOUND], None, id="still unknown"),
    ],
)
def test_stale_absence_is_corrected_with_what_is_so(
    users: dict[str, Any], errors: list[str] | None, tier: str | None
) -> None:
    """The mark goes: the message says what the service says now."""
    chunk, tally = correct(stale_absence(), users=users)
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["enrichment_errors"], value["enrichment_stale"]) == (errors, None)
    assert (value["user_subscription_tier"], tally.corrected) == (tier, {Source.USER: 1})


def test_stale_absence_stays_when_the_source_is_still_down() -> None:
    """Served stale once more it is no answer: nothing is corrected, and the message stays pending."""
    again = Entry(State.ABSENT, reason=Reason.USER_NOT_FOUND, stale=True)
    chunk, tally = correct(stale_absence(), users={"u": again})
    assert (len(chunk), tally.failed, tally.messages) == (0, {Source.USER: 1}, 0)


def test_stale_absence_keeps_its_mark_when_another_source_is_corrected() -> None:
    """Only what is asked for again changes."""
    value = stale_absence(business_unit=None, enrichment_sources=[Source.GEO])
    partial = msgspec.json.decode(value) | {"enrichment_errors": [Reason.USER_NOT_FOUND, Reason.DATABASE_ERROR]}
    chunk, _ = correct(msgspec.json.encode(partial), contexts={"r": Context("payments")})
    corrected = msgspec.json.decode(chunk.values[0] or b"")
    assert (corrected["enrichment_errors"], corrected["enrichment_stale"]) == ([Reason.USER_NOT_FOUND], [Source.USER])
    assert corrected["business_fraud_indicators"] == ["user-unknown"]


def test_stale_sources_stay_stale() -> None:
    """What had been served past its expiry is still said to be."""
    chunk, _ = correct(published(enrichment_stale=[Source.GEO]), users={"u": Profile("free")})
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["enrichment_stale"], value["enrichment_sources"][0]) == ([Source.GEO], Source.GEO)


def test_message_whose_source_fails_again_has_no_correction() -> None:
    """The others of the chunk do, in order; both are counted."""
    values = [published(user_id="a"), published(user_id="b"), published(user_id="c")]
    chunk, tally = correct(*values, users={"a": Profile("free"), "b": FAILED, "c": Profile("free")})
    assert (chunk.offsets, tally) == ([0, 2], Tally({Source.USER: 2}, {Source.USER: 1}, {Source.USER: 0}, 2))


def test_correction_that_is_too_large_is_counted_and_left_out() -> None:
    """The others of the chunk are corrected; a source that answered only for such messages has answered."""
    values = [published(user_id="a"), published(user_id="b", message="m" * 9_000)]
    users = {"a": Profile("free"), "b": Profile("free")}
    chunk, tally = correct(*values, users=users, max_bytes=9_000)
    assert (chunk.offsets, tally) == ([0], Tally({Source.USER: 1}, {Source.USER: 0}, {Source.USER: 1}, 1))
    _, tally = correct(values[1], users=users, max_bytes=9_000)
    assert (tally.messages, tally.is_answered) == (0, True)


def test_message_with_two_outages_is_corrected_where_it_can_be() -> None:
    """The source that answers is filled in, the other error stays."""
    both = published(
        enrichment_errors=[Reason.USER_TIMEOUT, Reason.DATABASE_ERROR], enrichment_sources=[Source.GEO],
        **dict.fromkeys(column_names(Context)),
    )  # fmt: skip
    chunk, tally = correct(both, users={"u": FAILED}, contexts={"r": Context("payments")})
    value = msgspec.json.decode(chunk.values[0] or b"")
    assert (value["business_unit"], value["enrichment_errors"]) == ("payments", [Reason.USER_TIMEOUT])
    assert value["business_risk_score"] == 0.1
    assert (tally.corrected, tally.failed, tally.messages) == (
        {Source.BUSINESS: 1, Source.USER: 0},
        {Source.BUSINESS: 0, Source.USER: 1},
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
    assert revised([*own, *ORIGIN]) == [*expected, *ORIGIN]


def test_headers_of_a_correction_are_packed_again() -> None:
    """The chunk that is staged holds the new headers."""
    chunk, _ = correct(published(), users={}, headers=[("a", b"1"), *ORIGIN])
    assert unpack_headers(chunk.headers[0]) == [("a", b"1"), (HEADER_REVISION, b"2"), *ORIGIN]


@pytest.mark.parametrize(
    ("value", "missing"),
    [
        (published(), {Source.USER}),
        (published(enrichment_errors=[Reason.USER_NOT_FOUND, Reason.INVALID_IP]), set()),
        (published(enrichment_errors=[Reason.GEO_LOOKUP_FAILED, Reason.DATABASE_ERROR]), {Source.GEO, Source.BUSINESS}),
        (published(enrichment_errors=None), set()),
        (b"no JSON", set()),
        (None, set()),
    ],
    ids=["outage", "permanent", "two", "none", "no message", "tombstone"],
)
def test_only_outages_are_missing(value: bytes | None, missing: set[Source]) -> None:
    """Permanent errors, and what is no message of ours, name nothing to repair."""
    assert missing_of(value) == missing


def test_place_is_looked_up_by_its_address() -> None:
    """Geo is a source like the others; keys of messages that do not miss it are not asked."""
    lookup = FixedLookup({"8.8.8.8": Place("Norway", timezone="Europe/Oslo")})
    business = BusinessEnricher(FixedLookup({}), RULES)
    down = published(enrichment_errors=[Reason.GEO_LOOKUP_FAILED], enrichment_sources=[Source.BUSINESS], user_id=None)
    values: list[bytes | None] = [down, published(source_ip="1.1.1.1")]
    chunk = Chunk.of([0, 0], [0, 1], [7, 7], [b"k", b"k"], [pack_headers(ORIGIN)] * 2, values)
    corrector = Corrector({Source.GEO: partial(look_up_and_enrich, GeoEnricher(lookup), added={})}, business.score)
    corrected, tally = corrector.correct(chunk, NOW, TopicLimits("out", 1_000_000))
    assert (lookup.asked, tally.messages) == ([["8.8.8.8"]], 1)
    assert msgspec.json.decode(corrected.values[0] or b"")["geo_timezone"] == "Europe/Oslo"
