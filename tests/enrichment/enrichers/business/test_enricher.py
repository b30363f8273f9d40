"""Context and risk of requests; the promises of all enrichers are in `test_every_enricher.py`."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.caches.base import Entry, State
from enrichment.enrichers.base import JSON, STATUS, Enrichment, OpenEnricher
from enrichment.enrichers.business import BUSINESS, Context
from enrichment.enrichers.business.risk import RiskRules
from enrichment.enrichers.business.risk_scorer import RiskScorer, risks_of
from enrichment.enrichers.geo import GEO, Place
from enrichment.enrichers.geo.special_addresses import SpecialAddresses
from enrichment.enrichers.testing import FixedLookup, look_up_and_enrich, make_events
from enrichment.enrichers.user import USER, Profile
from tests.fixtures.risks import request_risks

RULES = RiskRules.load()
PLACES = {
    "8.8.8.8": Place(country="United States", country_code="US", network_type="public"),
    "175.45.176.1": Place(country="North Korea", country_code="KP", network_type="public"),
}
PROFILES = {"user-123": Profile("premium", 365, "Acme Corp"), "user-new": Profile("free", 3, None)}
CONTEXTS: dict[str, Any] = {
    "req-789": Context("payments", "payment", 1250.0, "USD"),
    "req-calm": Context("catalog", "payment", 10.0, "EUR"),
    "req-bare": Context(),
    "req-down": Entry(State.FAILED, reason="database-connection-error"),
}


def enrich(events: pd.DataFrame, lookup: FixedLookup | None = None) -> Enrichment:
    """Geo and user first, then business, on the same chunk."""
    added = {
        "geo": look_up_and_enrich(
            OpenEnricher(GEO, SpecialAddresses(FixedLookup(PLACES, absent="geo-ip-not-found"))), events, {}
        ),
        "user": look_up_and_enrich(OpenEnricher(USER, FixedLookup(PROFILES, absent="user-not-found")), events, {}),
    }
    enricher = OpenEnricher(
        BUSINESS, lookup or FixedLookup(CONTEXTS, absent="business-context-not-found"), RiskScorer(RULES)
    )
    return look_up_and_enrich(enricher, events, added)


def chunk(*rows: tuple[str | None, str | None, str | None]) -> pd.DataFrame:
    """A chunk from (request, address, user)."""
    return make_events(
        request_id=[row[0] for row in rows], source_ip=[row[1] for row in rows], user_id=[row[2] for row in rows]
    )


def test_documented_message_has_risk_0_15() -> None:
    """The example of the contract, with everything that business adds to it."""
    added = enrich(chunk(("req-789", "8.8.8.8", "user-123")))
    assert json.loads(b"{%s}" % added.take(JSON)[0]) == {
        "business_unit": "payments",
        "business_transaction_type": "payment",
        "business_amount": 1250.0,
        "business_currency": "USD",
        "business_risk_score": 0.15,
        "business_risk_level": "low",
        "business_fraud_indicators": ["high-amount"],
    }


def test_risk_differs_when_the_same_request_comes_from_elsewhere() -> None:
    """Each row is scored with its own place and profile; the context is the same."""
    added = enrich(
        chunk(
            ("req-789", "8.8.8.8", "user-123"),
            ("req-789", "175.45.176.1", "user-123"),
            ("req-789", "8.8.8.8", "user-new"),
            ("req-789", None, None),
            ("req-789", "8.8.8.8", "user-123"),
        )
    )
    assert added.take("business_risk_score").tolist() == [0.15, 0.45, 0.55, 0.3, 0.15]
    assert added.take("business_risk_level").tolist() == ["low", "medium", "medium", "medium", "low"]
    assert set(added.take("business_unit")) == {"payments"}
    assert len(added.values) == 5, "row 0 and four combinations: the last row is the first one's"


def test_indicators_are_an_empty_list_when_nothing_is_suspicious() -> None:
    """No indicator is an answer; no context is none."""
    added = enrich(chunk(("req-calm", "8.8.8.8", "user-123"), ("req-lost", "8.8.8.8", "user-123")))
    written = [json.loads(b"{%s}" % fragment)["business_fraud_indicators"] for fragment in added.take(JSON)]
    assert written == [[], None]


def test_rows_without_context_have_no_risk_whatever_their_place() -> None:
    """Absent, failed and missing requests leave all columns null, one row of values for each reason and request."""
    added = enrich(
        chunk(
            ("req-lost", "175.45.176.1", "user-new"), ("req-lost", "8.8.8.8", None),
            ("req-down", "8.8.8.8", "user-123"), (None, "175.45.176.1", "user-new"),
        )
    )  # fmt: skip
    assert added.take(STATUS).tolist() == [
        "business-context-not-found",
        "business-context-not-found",
        "database-connection-error",
        "",
    ]
    assert added.values[list(BUSINESS.output_columns)].isna().all(axis=None)
    assert len(added.values) == 3


def test_context_of_nulls_is_scored_all_the_same() -> None:
    """A request that is known has a risk, even where its row says nothing."""
    added = enrich(chunk(("req-bare", "8.8.8.8", "user-123")))
    assert added.take("business_risk_score").tolist() == [0.05]
    assert added.take(STATUS).tolist() == ["ok"]


def test_stale_context_is_scored_and_marked() -> None:
    """An expired context that is served while the database is down still gives a risk."""
    stale = FixedLookup({"req-789": Entry(State.FOUND, value=CONTEXTS["req-789"], stale=True)})
    added = enrich(chunk(("req-789", "8.8.8.8", "user-123")), stale)
    assert added.take("business_risk_score").tolist() == [0.15]
    assert added.take(STATUS).tolist() == ["stale"]
    assert added.counts.stale == 1


def test_outage_of_an_earlier_lookup_is_no_fraud() -> None:
    """A user service or geo database that is down raises no score: only its answers do."""
    events = chunk(("req-calm", "8.8.8.8", "user-123"))
    down = FixedLookup({"8.8.8.8": Entry(State.FAILED, reason="geo-ip-lookup-failed"),
                        "user-123": Entry(State.FAILED, reason="user-lookup-timeout")})  # fmt: skip
    added = {
        e.declaration.name: look_up_and_enrich(e, events, {})
        for e in (OpenEnricher(GEO, down), OpenEnricher(USER, down))
    }
    business = look_up_and_enrich(OpenEnricher(BUSINESS, FixedLookup(CONTEXTS), RiskScorer(RULES)), events, added)
    assert business.take("business_risk_score").tolist() == [0.05]


def test_risks_to_record_are_those_of_each_requests_first_row() -> None:
    """The cache table gets one risk per request; requests without context have none."""
    events = chunk(
        ("req-lost", "8.8.8.8", "user-123"), ("req-789", "175.45.176.1", "user-123"), (None, None, None),
        ("req-calm", "8.8.8.8", "user-123"), ("req-789", "8.8.8.8", "user-123"),
    )  # fmt: skip
    risks = risks_of(events, enrich(events))
    assert risks == request_risks(
        ["req-789", "req-calm"],
        [0.45, 0.05],
        ["medium", "low"],
        [["high-amount", "cross-border", "high-risk-country"], []],
    )


def test_there_are_no_risks_to_record_when_no_request_has_context() -> None:
    """A chunk of unknown requests records nothing."""
    events = chunk(("req-lost", None, None), (None, None, None))
    assert risks_of(events, enrich(events)) == request_risks([], [], [], [])


def test_missing_earlier_enricher_is_an_error() -> None:
    """Business without geo and user before it is a mistake of the wiring, not a score without them."""
    with pytest.raises(KeyError, match="geo"):
        look_up_and_enrich(
            OpenEnricher(BUSINESS, FixedLookup(CONTEXTS), RiskScorer(RULES)), chunk(("req-789", None, None)), {}
        )


ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, "req-lost", *CONTEXTS]),
        st.sampled_from([None, "10.0.0.1", "9.9.9.9", "nowhere", *PLACES]),
        st.sampled_from([None, "user-lost", *PROFILES]),
    ),
    max_size=6,
)


@given(rows=ROWS)
def test_chunk_gives_each_row_what_it_gets_alone(rows: list[tuple[str | None, str | None, str | None]]) -> None:
    """A row's JSON and status do not depend on the rows around it."""
    together = enrich(chunk(*rows))
    alone = [enrich(chunk(row)) for row in rows]
    assert together.take(JSON).tolist() == [added.take(JSON)[0] for added in alone]
    assert together.take(STATUS).tolist() == [added.take(STATUS)[0] for added in alone]
