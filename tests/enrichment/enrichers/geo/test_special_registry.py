"""Which addresses are public: the same ones on every Python, whatever its own tables say."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.enrichers.geo import special_registry
from enrichment.enrichers.geo.special_addresses import network_type
from enrichment.enrichers.geo.special_registry import is_globally_reachable

SHARED = Path(__file__).parents[5] / "shared" / "cases" / "14-addresses.txt"
KINDS = {
    # 6to4, Teredo, and other tunnels and translations.
    "2002:808:808::1": "reserved",
    "2002:0a00:0001::1": "reserved",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "reserved",
    "64:ff9b::808:808": "public",
    "64:ff9b::8.8.8.8": "public",
    "64:ff9b:1::808:808": "reserved",
    "192.88.99.1": "public",
    # Blocks within 2001::/23 that are reachable, and their neighbours.
    "2001:1::1": "public",
    "2001:1::3": "public",
    "2001:1::4": "reserved",
    "2001:2::1": "reserved",
    "2001:3::1": "public",
    "2001:4:112::1": "public",
    "2001:4:113::1": "reserved",
    "2001:10::1": "reserved",
    "2001:20::1": "public",
    "2001:3f:ffff:ffff:ffff:ffff:ffff:ffff": "public",
    "2001:40::1": "reserved",
    "2001:200::1": "public",
    # Registered since some of the Pythons were released.
    "100::1": "reserved",
    "100:0:0:1::1": "reserved",
    "100:0:0:2::1": "public",
    "3fff::1": "documentation",
    "3fff:1000::1": "public",
    "5f00::1": "reserved",
    "2620:4f:8000::1": "public",
    # IPv4.
    "0.0.0.1": "reserved",
    "192.0.0.8": "reserved",
    "192.0.0.9": "public",
    "192.0.0.10": "public",
    "192.0.0.11": "reserved",
    "192.0.0.170": "reserved",
    "192.31.196.1": "public",
    "192.52.193.1": "public",
    "192.175.48.1": "public",
    "198.18.0.1": "reserved",
    "198.20.0.0": "public",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    # Mapped, with zones, and other spellings.
    "::ffff:8.8.8.8": "public",
    "::ffff:808:808": "public",
    "::ffff:10.0.0.1": "private",
    "::ffff:192.0.0.8": "reserved",
    "::8.8.8.8": "public",
    "2001:4860:4860::8888%eth0": "invalid",  # a zone is one machine's: no public address has one
    "2001:4860:4860::8888%1": "invalid",
    "2002:808:808::1%1": "reserved",
    "fe80::1%eth0": "link-local",
    "2001:4860:4860::8888%": "invalid",
    "2001:4860:4860:0:0:0:0:8888": "public",
    "2001:4860:4860:00000::8888": "invalid",
    "008.8.8.8": "invalid",
    "8.8.8.8:443": "invalid",
    "[2001:4860:4860::8888]": "invalid",
    "8.8.8.8, 10.0.0.1": "invalid",
    "8.8.8.8%1": "invalid",
    " 8.8.8.8": "invalid",
    "٨.8.8.8": "invalid",
    "134744072": "invalid",
}


@pytest.mark.parametrize(("address", "kind"), KINDS.items(), ids=KINDS.keys())
def test_kind_of_an_address(address: str, kind: str) -> None:
    """Decided by the registries, and by nothing that differs between releases of Python."""
    assert network_type(address) == kind


def test_shared_addresses_are_decided() -> None:
    """Those that differed, and other odd ones, are in the table above."""
    if not SHARED.exists():
        pytest.skip(f"no {SHARED}")
    for address in SHARED.read_text().splitlines():
        assert address in KINDS, address


def test_python_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tables could say anything."""
    for kind in ("IPv4Address", "IPv6Address"):
        monkeypatch.setattr(f"ipaddress.{kind}.is_global", property(lambda _: 1 / 0))
        monkeypatch.setattr(f"ipaddress.{kind}.is_private", property(lambda _: 1 / 0))
    network_type.__globals__["_network_type"].cache_clear()
    assert network_type("2002:808:808::1") == "reserved"
    assert network_type("9.9.9.9") == "public"


@given(st.ip_addresses())
def test_smallest_block_decides(address: object) -> None:
    """An address is what the narrowest of the blocks says that hold it."""
    parsed = ip_address(str(address))
    table = {**special_registry._IPV4, **special_registry._IPV6}
    holding = [(ip_network(block).prefixlen, said) for block, said in table.items() if parsed in ip_network(block)]
    assert is_globally_reachable(parsed) == (max(holding)[1] if holding else True)
