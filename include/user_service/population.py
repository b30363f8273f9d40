"""Who the users are: three known ones and a population whose profiles follow from their ids alone."""

from __future__ import annotations

import re
from hashlib import blake2b

import msgspec

DEFAULT_SIZE = 1_000_000

# Per thousand of the population; what is left are ids of the range that nobody has.
_TIERS = (("free", 600), ("basic", 200), ("premium", 150), ("enterprise", 40))
_COMPANIES = ("Acme Corp", "Globex", "Initech", "Umbrella", "Hooli", "Stark Industries", "Wayne Enterprises", "Wonka")
_REGIONS = ("us-east", "us-west", "eu-central", "eu-west", "ap-south", "ap-northeast")
_OLDEST_DAYS = 3650
_ID = re.compile(r"user-([1-9][0-9]{0,17})")


class UserProfile(msgspec.Struct, frozen=True, gc=False):
    """What the service answers about a user. `email_hash` stands for an address that is nobody's business."""

    user_id: str
    subscription_tier: str | None
    account_age_days: int | None
    company: str | None
    region: str
    email_hash: str


def _digest(user_id: str) -> bytes:
    return blake2b(user_id.encode(), digest_size=16).digest()


def _known(user_id: str, tier: str, age_days: int, company: str | None, region: str) -> UserProfile:
    return UserProfile(user_id, tier, age_days, company, region, _digest(user_id).hex())


# The users that examples and tests name. `user-789` belongs to no company.
KNOWN = {
    profile.user_id: profile
    for profile in (
        _known("user-123", "premium", 365, "Acme Corp", "us-west"),
        _known("user-456", "basic", 90, "Globex", "eu-central"),
        _known("user-789", "free", 7, None, "ap-south"),
    )
}


def find_profile(user_id: str, size: int = DEFAULT_SIZE) -> UserProfile | None:
    """The profile of a known user or of `user-<n>` with 1 <= n <= size; None for other ids and for 1 % of the range.

    One in five users belongs to no company.
    """
    if user_id in KNOWN:
        return KNOWN[user_id]
    match = _ID.fullmatch(user_id)
    if match is None or int(match[1]) > size:
        return None
    digest = _digest(user_id)
    tier = _tier(int.from_bytes(digest[:4]) % 1000)
    if tier is None:
        return None
    age_days = int.from_bytes(digest[4:8]) % _OLDEST_DAYS
    company = None if digest[8] % 5 == 0 else _COMPANIES[digest[9] % len(_COMPANIES)]
    return UserProfile(user_id, tier, age_days, company, _REGIONS[digest[10] % len(_REGIONS)], digest.hex())


def _tier(permille: int) -> str | None:
    for tier, share in _TIERS:
        if permille < share:
            return tier
        permille -= share
    return None
