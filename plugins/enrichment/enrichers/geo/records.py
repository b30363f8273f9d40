"""Records of MaxMind-format databases in, `Place` out.

Nested records (GeoIP2 and GeoLite2 City, DB-IP City) are read through `geoip2`, flat ones (DB-IP City as plain columns,
IPinfo) by the names that their makers use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import SimpleNamespace
from typing import Any, TypeVar

import maxminddb
import msgspec
from geoip2.models import City
from geoip2.records import PlaceRecord

from enrichment.enrichers.geo import Place

T = TypeVar("T")

# Raised in versions of this module that read another place from the same record: cached places are then replaced.
READING = 2
# What a damaged record, or one of unknown form, raises.
UNREADABLE = (maxminddb.InvalidDatabaseError, UnicodeDecodeError, msgspec.ValidationError)
# Longer than any name of a place or time zone. A text of megabytes would be in every message of its addresses.
MAX_TEXT_LENGTH = 500


class FlatRecord(msgspec.Struct):
    """A record as plain columns, under the names that DB-IP and IPinfo use. `country` may be only the code."""

    country: str | None = None
    country_name: str | None = None
    country_code: str | None = None
    state1: str | None = None
    stateprov: str | None = None
    region: str | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    lat: float | None = None
    lng: float | None = None
    lon: float | None = None
    timezone: str | None = None
    time_zone: str | None = None
    timezone_name: str | None = None


class PlaceReader:
    """Reads places, with names in `locale`, else in English; `network_type` goes into each of them."""

    def __init__(self, locale: str = "en", network_type: str | None = None) -> None:
        self.locale = locale.replace("_", "-")
        self._locales = (self.locale, "en")
        self._network_type = network_type
        self._nothing = Place(network_type=network_type)

    def read(self, record: object) -> Place | None:
        """The place of a record; None where it has none of our columns. Raises one of `UNREADABLE`."""
        if record is None:
            return None
        place = self._place(record)
        if any(isinstance(part, str) and len(part) > MAX_TEXT_LENGTH for part in msgspec.structs.astuple(place)):
            raise msgspec.ValidationError(f"a text of more than {MAX_TEXT_LENGTH} characters")
        return None if place == self._nothing else place

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
                network_type=self._network_type,
            ),
            Place,
            from_attributes=True,
        )

    def _flat(self, record: FlatRecord) -> Place:
        given = [text for text in (record.country_name, record.country) if text]
        code = record.country_code or _first(text for text in given if _is_code(text))
        code = code.upper() if code else None
        name = _first(text for text in given if not _is_code(text))
        return Place(
            country=name or (self._countries.get(code) if code else None),
            country_code=code,
            region=record.state1 or record.stateprov or record.region,
            city=record.city,
            latitude=_finite(_first(each for each in (record.latitude, record.lat) if each is not None)),
            longitude=_finite(_first(each for each in (record.longitude, record.lng, record.lon) if each is not None)),
            timezone=record.timezone or record.time_zone or record.timezone_name,
            network_type=self._network_type,
        )

    @cached_property
    def _countries(self) -> dict[str, str]:
        return country_names(self.locale)


def look_up(reader: maxminddb.Reader, address: str, *, only_ipv4: bool) -> object:
    """The record of an address, or None. Raises `ValueError` for a text that is not an address, and
    `maxminddb.InvalidDatabaseError` or `UnicodeDecodeError` for a damaged record.

    The text is never given to the database's own parser, which asks the machine's network about zones and does not
    accept NUL. Not every database knows IPv4 addresses by their IPv6 form.
    """
    parsed: IPv4Address | IPv6Address = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif only_ipv4:
            return None
    return reader.get(parsed)


def country_names(locale: str) -> dict[str, str]:
    """Names by ISO 3166 code, for databases that hold only the code; English for an unknown locale."""
    from babel import Locale, UnknownLocaleError  # 0.1 s with its data, for flat databases only

    try:
        return dict(Locale.parse(locale, sep="-").territories)
    except (UnknownLocaleError, ValueError):
        return dict(Locale("en").territories)


def _first(values: Iterable[T]) -> T | None:
    return next(iter(values), None)


def _is_code(country: str) -> bool:
    return len(country) == 2 and country.isascii()


def _name(place: PlaceRecord) -> str | None:
    """The name in the first locale that has one. Raises `msgspec.ValidationError` when the names are not texts."""
    msgspec.convert(place.names, dict[str, str])
    return place.name


def _finite(degrees: float | None) -> float | None:
    return None if isinstance(degrees, float) and not math.isfinite(degrees) else degrees
