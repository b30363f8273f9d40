"""Places from a MaxMind-format City database: public addresses in, `Place` out.

Reads nested records (GeoIP2 and GeoLite2 City, DB-IP City) through `geoip2`, and flat ones (DB-IP City as plain
columns). A key is the text of an address as it came: other spellings of the same address are keys of their own.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import maxminddb
import msgspec
from geoip2.models import City
from geoip2.records import PlaceRecord

from enrichment.caches.base import Entry, State
from enrichment.enrichers.known_addresses import PUBLIC
from enrichment.errors import SettingsError, SourceUnavailable
from enrichment.messages import Place, Reason

_EMPTY = Place(network_type=PUBLIC)


class FlatRecord(msgspec.Struct):
    """A DB-IP City record as plain columns, under the names that its editions use. `country` may be only the code."""

    country: str | None = None
    country_name: str | None = None
    country_code: str | None = None
    state1: str | None = None
    stateprov: str | None = None
    region: str | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    timezone: str | None = None
    time_zone: str | None = None
    timezone_name: str | None = None


class GeoDatabase:
    """A `Fetch` over a City database file, mapped into memory; names in `locale`, else in English.

    An empty path means GeoLite2 City of 2018 from the package maxminddb-geolite2. Raises `SettingsError` when there is
    no such file. A file that is no database costs lookups, not the batch: `fetch_many` raises `SourceUnavailable` then.
    `version` names type and build, so that another file's cached places give way. Replace a file by renaming a new one
    over it: who has the old one open goes on reading it to its end, so a task's lookups are all of one build. Writing
    into a file that is mapped changes or breaks what a running task reads.
    """

    def __init__(self, path: str = "", locale: str = "en") -> None:
        self.path = path or default_database_path()
        self.version = ""
        self._locales = (locale.replace("_", "-"), "en")
        self._reader: maxminddb.Reader | None = None
        self._broken = ""
        self._only_ipv4 = False
        try:
            self._reader = maxminddb.open_database(self.path, maxminddb.MODE_MMAP_EXT)
        except FileNotFoundError as missing:
            raise SettingsError(
                f"GEO_IP_DATABASE_PATH={self.path!r}: no such file; set it to a MaxMind-format City database (.mmdb)"
            ) from missing
        except (maxminddb.InvalidDatabaseError, OSError) as broken:
            self._broken = f"GEO_IP_DATABASE_PATH={self.path!r}: {broken}"
            return
        metadata = self._reader.metadata()
        self.version = f"{metadata.database_type}-{metadata.build_epoch}"
        self._only_ipv4 = metadata.ip_version == 4

    def fetch_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The places of public addresses. Raises `SourceUnavailable` when the file could not be opened."""
        if self._reader is None:
            raise SourceUnavailable(Reason.GEO_LOOKUP_FAILED, self._broken)
        return {address: self._entry(self._reader, address) for address in keys}

    def _entry(self, reader: maxminddb.Reader, address: str) -> Entry:
        try:
            record = self._record(reader, address)
            place = _EMPTY if record is None else self._place(record)
        except (maxminddb.InvalidDatabaseError, UnicodeDecodeError, msgspec.ValidationError):
            return Entry(State.FAILED, reason=Reason.GEO_LOOKUP_FAILED, version=self.version)
        except ValueError:
            return Entry(State.FAILED, reason=Reason.INVALID_IP, version=self.version)
        # A record that holds none of our columns is no answer: it must not be listed as one.
        if place == _EMPTY:
            return Entry(State.ABSENT, reason=Reason.GEO_NOT_FOUND, version=self.version)
        return Entry(State.FOUND, value=place, version=self.version)

    def _record(self, reader: maxminddb.Reader, address: str) -> object:
        """Not every database knows IPv4 addresses by their IPv6 form. Raises `ValueError` for what is no address."""
        if ":" not in address:
            return reader.get(address)
        parsed = ip_address(address)
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
            return reader.get(str(parsed.ipv4_mapped))
        return None if self._only_ipv4 else reader.get(address)

    def _place(self, record: object) -> Place:
        """Raises `msgspec.ValidationError` for a record that is neither nested nor flat."""
        fields = msgspec.convert(record, dict[str, Any])
        if any(isinstance(value, dict) for value in fields.values()):
            return self._nested(fields)
        filled = {name: value for name, value in fields.items() if value != ""}
        return self._flat(msgspec.convert(filled, FlatRecord, strict=False))

    def _nested(self, fields: dict[str, Any]) -> Place:
        """Only what is used is given to the model, so that oddities in the rest of a record cost nothing."""
        used = {name: fields[name] for name in ("country", "city", "subdivisions", "location") if name in fields}
        try:
            found = City(self._locales, **used)
        except TypeError as odd:
            raise msgspec.ValidationError(str(odd)) from odd
        # geoip2 believes the types that it finds, and so would the constructor of Place: converting checks them.
        return msgspec.convert(
            SimpleNamespace(
                country=_name(found.country),
                country_code=found.country.iso_code,
                region=_name(found.subdivisions[0]) if found.subdivisions else None,
                city=_name(found.city),
                latitude=_finite(found.location.latitude),
                longitude=_finite(found.location.longitude),
                timezone=found.location.time_zone,
                network_type=PUBLIC,
            ),
            Place,
            from_attributes=True,
        )

    def _flat(self, record: FlatRecord) -> Place:
        country, code = record.country_name or record.country, record.country_code
        if country is not None and len(country) == 2:
            country, code = None, code or country
        return Place(
            country=country or (self._countries.get(code.upper()) if code else None),
            country_code=code.upper() if code else None,
            region=record.state1 or record.stateprov or record.region,
            city=record.city,
            latitude=_finite(record.latitude),
            longitude=_finite(record.longitude),
            timezone=record.timezone or record.time_zone or record.timezone_name,
            network_type=PUBLIC,
        )

    @cached_property
    def _countries(self) -> dict[str, str]:
        return country_names(self._locales[0])


def present_database_path(database_path: str, install_path: str) -> str:
    """The database in use: the one that is set, else the one that was installed, else the package's. May be missing."""
    installed = Path(install_path).expanduser()
    return database_path or (str(installed) if installed.exists() else default_database_path())


def default_database_path() -> str:
    """GeoLite2 City of 2018, as the package maxminddb-geolite2 ships it; found without importing the package."""
    package = importlib.util.find_spec("_maxminddb_geolite2")
    if package is None or package.origin is None:
        raise SettingsError(
            "GEO_IP_DATABASE_PATH is not set and the package maxminddb-geolite2 is not installed;"
            " set it to a MaxMind-format City database (.mmdb) or install the package"
        )
    return str(Path(package.origin).with_name("GeoLite2-City.mmdb"))


def country_names(locale: str) -> dict[str, str]:
    """Names by ISO 3166 code, for databases that hold only the code; English where the locale is not known."""
    from babel import Locale, UnknownLocaleError  # 0.1 s with its data, for flat databases only

    try:
        return dict(Locale.parse(locale, sep="-").territories)
    except (UnknownLocaleError, ValueError):
        return dict(Locale("en").territories)


def _name(place: PlaceRecord) -> str | None:
    """The name in the first locale that has one. Raises `msgspec.ValidationError` when the names are not texts."""
    msgspec.convert(place.names, dict[str, str])
    return place.name


def _finite(degrees: float | None) -> float | None:
    return None if isinstance(degrees, float) and not math.isfinite(degrees) else degrees
