"""A source's file in, whether it is a usable database out: it is read to its end by a process of its own, and known
addresses are looked up in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import maxminddb
import msgspec

from enrichment.enrichers.geo.database import is_from_package, lacks_places
from enrichment.enrichers.geo.inspection import Findings, build_name
from enrichment.enrichers.geo.inspector import findings_of, inspect
from enrichment.errors import DatabaseRefused


class Build(msgspec.Struct, frozen=True):
    """One build of a database: `version` is its type and time, `built_at` seconds since the epoch."""

    path: str
    version: str
    built_at: int

    @classmethod
    def of(cls, path: str | Path, findings: Findings) -> Build:
        """The build that was found at a path."""
        return cls(str(path), findings.build, findings.build_epoch)

    def age_days(self, now: float) -> float:
        """Days since it was built; negative for a build time in the future."""
        return (now - self.built_at) / 86_400


def build_of(path: str | Path) -> Build:
    """The build of a database, by its metadata. Raises `DatabaseRefused` for a file that is not one, is damaged or has
    no places, and `OSError`."""
    file = Path(path)
    if is_from_package(file):
        with maxminddb.open_database(file, maxminddb.MODE_MMAP_EXT) as reader:
            about = reader.metadata()
        return Build(str(path), build_name(about.database_type, about.build_epoch), about.build_epoch)
    findings = findings_of(file)
    if lack := lacks_places(findings):
        raise DatabaseRefused(f"{path} {lack}")
    return Build.of(path, findings)


def verify(candidate: Path, known: Mapping[str, str]) -> Findings:
    """Read it, look up addresses whose country is known, and see whether a sample of its records has cities.

    Raises `DatabaseRefused` with everything that is wrong, and how to install it nevertheless.
    """
    findings = inspect(candidate, list(known))
    wrong = [
        f"{address} is in {found or 'no country'} there, not in {known[address]} (GEO_IP_KNOWN_ADDRESSES says so)"
        for address, found in findings.countries.items()
        if found != known[address]
    ]
    if findings.unreadable:
        wrong.append(f"{findings.unreadable:,} of {findings.sampled:,} records cannot be read")
    if not findings.cities:
        has = f" (they have {', '.join(findings.columns)})" if findings.columns else ""
        wrong.append(
            f"none of {findings.sampled:,} records has a city{has}: is it a database of countries or networks?"
        )
    if wrong:
        raise DatabaseRefused(f"{findings.build}: {'; '.join(wrong)}")
    return findings


def known_addresses(text: str) -> dict[str, str]:
    """Country codes by address, parsed from GEO_IP_KNOWN_ADDRESSES: `8.8.8.8=US,128.101.101.101=US`."""
    pairs = (pair.strip().partition("=") for pair in text.split(","))
    return {address: country for address, _, country in pairs}
