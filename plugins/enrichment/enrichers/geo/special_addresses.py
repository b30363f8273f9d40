"""The addresses that need no database: invalid texts, and addresses of networks that are not public."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from enrichment.caches.base import Entry, KeyLookup, State, Tier
from enrichment.caches.entries import Answers, Entries
from enrichment.enrichers.geo import INVALID_IP, Place
from enrichment.enrichers.geo.special_registry import Blocks, is_globally_reachable

PUBLIC, RESERVED, INVALID = "public", "reserved", "invalid"
# Network types by address block; what else is not routed globally is `reserved`.
NETWORKS: dict[str, tuple[str, ...]] = {
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "shared": ("100.64.0.0/10",),  # between a carrier's NAT and its customers
    "loopback": ("127.0.0.0/8", "::1/128"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "documentation": ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
    "unspecified": ("0.0.0.0/32", "::/128"),
}
_KINDS = Blocks({block: kind for kind, blocks in NETWORKS.items() for block in blocks})
_LONGEST = 100  # characters of an IPv6 address with its zone; longer texts are no address and would fill the memory
_ENTRIES = {kind: Entry(State.FOUND, value=Place(network_type=kind)) for kind in (*NETWORKS, RESERVED)} | {
    INVALID: Entry(State.FAILED, reason=INVALID_IP)
}


class SpecialAddresses:
    """A `KeyLookup` in front of the caches: answers special addresses itself and passes public ones on, in one call.

    Its own answers are not cached and count as memory. Public places come from the lookup with their `network_type`.
    """

    def __init__(self, public: KeyLookup) -> None:
        self._public = public

    def answer_many(self, keys: Sequence[str]) -> Answers:
        """One answer per key, in the order of `keys`."""
        kinds = {key: network_type(key) for key in keys}
        known = Entries.of({key: _ENTRIES[kind] for key, kind in kinds.items() if kind != PUBLIC})
        public = known.others(keys)
        looked_up = Answers.of(public, self._public.answer_many(public) if public else [])
        return Answers.in_order(keys, [known.from_tier(Tier.MEMORY), looked_up])


def network_type(address: str) -> str:
    """`public`, `private`, `loopback`, ...; `invalid` for a text that is not an address, and for a public address with
    a zone. An IPv4 address mapped into IPv6 has the type of the IPv4 address."""
    return _network_type(address) if len(address) <= _LONGEST else INVALID


@lru_cache(maxsize=10_000)
def _network_type(address: str) -> str:
    try:
        parsed = ip_address(address)
    except ValueError:
        return INVALID
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    kind = _KINDS.find(parsed) or (PUBLIC if is_globally_reachable(parsed) else RESERVED)
    # A zone names one of a machine's links: a public address has no zone (RFC 4007), so no database is asked.
    return INVALID if kind == PUBLIC and "%" in address else kind
