"""Profiles from users; what all enrichers promise is in `test_every_enricher.py`."""

from __future__ import annotations

import json

from enrichment.caches.base import Entry, State
from enrichment.enrichers.base import JSON, STATUS, OpenEnricher
from enrichment.enrichers.testing import FixedLookup, look_up_and_enrich, make_events
from enrichment.enrichers.user import USER, Profile

PREMIUM = Profile(subscription_tier="premium", account_age_days=365, company="Acme Corp")


def test_profile_is_added_when_the_user_is_known() -> None:
    """The documented user comes out with tier, age in days and company."""
    added = look_up_and_enrich(
        OpenEnricher(USER, FixedLookup({"user-123": PREMIUM})), make_events(user_id=["user-123"]), {}
    )
    assert json.loads(b"{%s}" % added.take(JSON)[0]) == {
        "user_subscription_tier": "premium",
        "user_account_age_days": 365,
        "user_company": "Acme Corp",
    }


def test_age_stays_a_whole_number_when_others_are_unknown() -> None:
    """A null beside it does not turn an age into a fraction."""
    events = make_events(user_id=["user-123", "who", None])
    added = look_up_and_enrich(OpenEnricher(USER, FixedLookup({"user-123": PREMIUM})), events, {})
    assert str(added.values["user_account_age_days"].dtype) == "int64[pyarrow]"
    assert added.take("user_account_age_days")[0] == 365


def test_reason_is_kept_when_the_service_fails() -> None:
    """A timeout and an unknown user are different words."""
    lookup = FixedLookup({"slow": Entry(State.FAILED, reason="user-lookup-timeout")}, absent="user-not-found")
    added = look_up_and_enrich(OpenEnricher(USER, lookup), make_events(user_id=["slow", "who"]), {})
    assert added.take(STATUS).tolist() == ["user-lookup-timeout", "user-not-found"]
