"""Which addresses are reachable globally: IANA's special-purpose registries, as a table of our own.

Python's `ipaddress` has them too, but not the same ones in each patch release: 2002:808:808::1 is public in 3.11.7 and
reserved in 3.13.0, with 2001:3::1 it is the other way round. The same message must come out the same on every worker,
so the table changes with our releases only.

- IPv4: https://www.iana.org/assignments/iana-ipv4-special-registry, with entries up to 2017-02 (192.0.0.10/32)
- IPv6: https://www.iana.org/assignments/iana-ipv6-special-registry, updated 2025-10-09, with entries up to 2025-04
  (100:0:0:1::/64)

Of two blocks that hold an address, the smaller one counts. Where the registry of IPv6 says "N/A", what is there is not
reachable as such: the address of a 6to4 or Teredo tunnel. (192.88.99.0/24, once the relay of such tunnels and N/A
since, is no block here: every Python calls it public.) Site-local and multicast addresses are in no registry; what they
are says `enrichment.enrichers.geo.special_addresses`.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Generic, TypeVar

T = TypeVar("T")
Address = IPv4Address | IPv6Address

_IPV4 = {
    "0.0.0.0/8": False,  # this network (RFC 791)
    "10.0.0.0/8": False,  # private use (RFC 1918)
    "100.64.0.0/10": False,  # shared address space (RFC 6598)
    "127.0.0.0/8": False,  # loopback (RFC 1122)
    "169.254.0.0/16": False,  # link local (RFC 3927)
    "172.16.0.0/12": False,  # private use (RFC 1918)
    "192.0.0.0/24": False,  # IETF protocol assignments (RFC 6890)
    "192.0.0.9/32": True,  # Port Control Protocol anycast (RFC 7723)
    "192.0.0.10/32": True,  # TURN anycast (RFC 8155)
    "192.0.2.0/24": False,  # documentation (RFC 5737)
    "192.31.196.0/24": True,  # AS112-v4 (RFC 7535)
    "192.52.193.0/24": True,  # AMT (RFC 7450)
    "192.168.0.0/16": False,  # private use (RFC 1918)
    "192.175.48.0/24": True,  # direct delegation AS112 service (RFC 7534)
    "198.18.0.0/15": False,  # benchmarking (RFC 2544)
    "198.51.100.0/24": False,  # documentation (RFC 5737)
    "203.0.113.0/24": False,  # documentation (RFC 5737)
    "240.0.0.0/4": False,  # reserved (RFC 1112)
    "255.255.255.255/32": False,  # limited broadcast (RFC 8190)
}
_IPV6 = {
    "::/128": False,  # unspecified (RFC 4291)
    "::1/128": False,  # loopback (RFC 4291)
    "::ffff:0:0/96": False,  # IPv4-mapped (RFC 4291)
    "64:ff9b::/96": True,  # IPv4-IPv6 translation (RFC 6052)
    "64:ff9b:1::/48": False,  # IPv4-IPv6 translation, local use (RFC 8215)
    "100::/64": False,  # discard only (RFC 6666)
    "100:0:0:1::/64": False,  # dummy prefix (RFC 9780)
    "2001::/23": False,  # IETF protocol assignments (RFC 2928), Teredo's 2001::/32 (RFC 4380: N/A) among them
    "2001:1::1/128": True,  # Port Control Protocol anycast (RFC 7723)
    "2001:1::2/128": True,  # TURN anycast (RFC 8155)
    "2001:1::3/128": True,  # DNS-SD SRP anycast (RFC 9665)
    "2001:3::/32": True,  # AMT (RFC 7450)
    "2001:4:112::/48": True,  # AS112-v6 (RFC 7535)
    "2001:20::/28": True,  # ORCHIDv2 (RFC 7343)
    "2001:30::/28": True,  # drone remote ID (RFC 9374)
    "2001:db8::/32": False,  # documentation (RFC 3849)
    "2002::/16": False,  # 6to4 (RFC 3056: N/A)
    "2620:4f:8000::/48": True,  # direct delegation AS112 service (RFC 7534)
    "3fff::/20": False,  # documentation (RFC 9637)
    "5f00::/16": False,  # segment routing SIDs (RFC 9602)
    "fc00::/7": False,  # unique local (RFC 4193)
    "fe80::/10": False,  # link-local unicast (RFC 4291)
}


class Blocks(Generic[T]):
    """What the smallest of some address blocks says about an address."""

    def __init__(self, said: Mapping[str, T]) -> None:
        # For each version of IP, longest prefix first: the bits after the prefix, and what is said by prefix.
        self._by_version: dict[int, dict[int, dict[int, T]]] = {4: {}, 6: {}}
        for block, what in sorted(((ip_network(b), what) for b, what in said.items()), key=lambda b: -b[0].prefixlen):
            rest = block.max_prefixlen - block.prefixlen
            self._by_version[block.version].setdefault(rest, {})[int(block.network_address) >> rest] = what

    def find(self, address: Address) -> T | None:
        """What is said about an address; None for one that no block holds."""
        number = int(address)
        for rest, said in self._by_version[address.version].items():
            if (what := said.get(number >> rest)) is not None:
                return what
        return None


_REACHABLE = Blocks({**_IPV4, **_IPV6})


def is_globally_reachable(address: Address) -> bool:
    """Whether an address is globally reachable; one that no registry names is."""
    return _REACHABLE.find(address) is not False
