"""The rules of `risk_rules.toml` as the plain code that a per-message loop has: same names, weights and levels."""

from __future__ import annotations

from typing import Any

from benchmarks.answers import Known

RISKY_TYPES = frozenset({"refund", "withdrawal", "chargeback", "gift-card"})
CRYPTO_TYPES = frozenset({"crypto-purchase", "crypto-withdrawal"})
HOME_COUNTRIES = frozenset({"US", "CA", "GB", "DE", "FR", "NL", "IE"})
HIGH_RISK_COUNTRIES = frozenset({"IR", "KP", "MM"})
INTERNAL_NETWORKS = frozenset({"private", "shared", "loopback", "link-local"})
FORGED_NETWORKS = frozenset({"multicast", "documentation", "unspecified", "reserved"})
UNKNOWN_PLACES = frozenset({"geo-ip-not-found", "invalid-ip"})


# A rule is three lines; a table of rules would be shorter and slower.
def risk_of(context: dict[str, Any], place: Known, profile: Known) -> dict[str, Any]:  # noqa: C901, PLR0912, PLR0915
    """Score, level and fraud indicators of a request that has a context."""
    score, fired = 0.05, []
    amount, kind = context["business_amount"], context["business_transaction_type"]
    age = profile.columns["user_account_age_days"]
    country, network = place.columns["geo_country_code"], place.columns["geo_network_type"]
    is_high = amount is not None and amount >= 1000
    is_new = age is not None and age < 30
    if is_high:
        score += 0.10
        fired.append("high-amount")
    if amount is not None and amount >= 10000:
        score += 0.20
        fired.append("very-high-amount")
    if amount is not None and amount < 0:
        score += 0.15
        fired.append("negative-amount")
    if kind in RISKY_TYPES:
        score += 0.15
        fired.append("risky-transaction-type")
    if kind in CRYPTO_TYPES:
        score += 0.30
        fired.append("crypto-transaction")
    if is_new:
        score += 0.15
        fired.append("new-account")
    if is_new and is_high:
        score += 0.15
        fired.append("new-account-high-amount")
    if is_high and profile.columns["user_subscription_tier"] == "free":
        score += 0.10
        fired.append("free-tier-high-amount")
    if profile.status == "":
        score += 0.10
        fired.append("anonymous-user")
    if profile.status == "user-not-found":
        score += 0.20
        fired.append("unknown-user")
    if country is not None and country not in HOME_COUNTRIES:
        score += 0.05
        fired.append("cross-border")
    if country in HIGH_RISK_COUNTRIES:
        score += 0.25
        fired.append("high-risk-country")
    if place.status == "":
        score += 0.05
        fired.append("missing-address")
    if place.status in UNKNOWN_PLACES:
        score += 0.10
        fired.append("unknown-location")
    if network in INTERNAL_NETWORKS:
        score += 0.05
        fired.append("private-network")
    if network in FORGED_NETWORKS:
        score += 0.20
        fired.append("impossible-network")
    score = round(min(1.0, score), 2)
    level = "critical" if score >= 0.8 else "high" if score >= 0.6 else "medium" if score >= 0.3 else "low"
    return {"business_risk_score": score, "business_risk_level": level, "business_fraud_indicators": fired}
