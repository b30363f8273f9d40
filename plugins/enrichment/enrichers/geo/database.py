"""Places from a MaxMind-format City database: public addresses in, `Place` out.

A key is the text of an address as it came: other spellings of the same address are keys of their own.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

import maxminddb

from enrichment.caches.base import Entry, State
from enrichment.enrichers.geo import INVALID_IP, LOOKUP_FAILED, NOT_FOUND, GeoSettings
from enrichment.enrichers.geo.inspection import Findings, build_name
from enrichment.enrichers.geo.inspector import open_inspected
from enrichment.enrichers.geo.records import READING, UNREADABLE, PlaceReader, look_up
from enrichment.enrichers.geo.special_addresses import PUBLIC, SpecialAddresses
from enrichment.enrichers.wiring import OpenedSource, Site
from enrichment.errors import DatabaseRefused, SettingsError, SourceUnavailable

log = logging.getLogger(__name__)

SETTING = "GEO_IP_DATABASE_PATH"
# The version of a database that cannot be read. No place is ever kept under it, so none is served either.
BROKEN = "unreadable"


class GeoDatabase:
    """A `LookupSource` over a City database file, mapped into memory; names in `locale`, else in English.

    An empty path means GeoLite2 City of 2018 from the package maxminddb-geolite2. Raises `SettingsError` when there is
    no such file, and for a database that has no places, such as one of networks or companies; `setting` is the variable
    that has the path. An unreadable file costs lookups, not the batch: the log says so, and `fetch_many` raises
    `SourceUnavailable`.

    `build` names type and time of the build, for the ledger. `version` covers everything that a place depends on: the
    file's contents, the locale, and how records are read. Cached places of another version are replaced.

    Replace a file by renaming a new one over it: tasks that have the old one open go on reading it, so a task's lookups
    are all of one build. Writing into a mapped file changes or breaks what a running task reads.
    """

    def __init__(self, path: str = "", locale: str = "en", setting: str = SETTING) -> None:
        self.path = path or default_database_path()
        self.build = ""
        self.version = BROKEN
        self._places = PlaceReader(locale, PUBLIC)
        self._reader: maxminddb.Reader | None = None
        self._broken = ""
        self._only_ipv4 = False
        try:
            self._reader, content = _open(Path(self.path), setting)
        except FileNotFoundError as missing:
            raise SettingsError(
                f"{setting}={self.path!r}: no such file; set it to a MaxMind-format City database (.mmdb)"
            ) from missing
        except (DatabaseRefused, maxminddb.InvalidDatabaseError, OSError) as broken:
            self._broken = f"{setting}={self.path!r}: {broken}"
            log.error("geo_database.unreadable %s", self._broken)  # noqa: TRY400 - its stack says nothing
            return
        metadata = self._reader.metadata()
        self.build = build_name(metadata.database_type, metadata.build_epoch)
        self.version = f"{self.build} {content} {self._places.locale} {READING}"
        self._only_ipv4 = metadata.ip_version == 4

    def fetch_many(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The places of public addresses. Raises `SourceUnavailable` when the file could not be opened."""
        if self._reader is None:
            raise SourceUnavailable(LOOKUP_FAILED, self._broken)
        return {address: self._entry(self._reader, address) for address in keys}

    def _entry(self, reader: maxminddb.Reader, address: str) -> Entry:
        try:
            place = self._places.read(look_up(reader, address, only_ipv4=self._only_ipv4))
        except UNREADABLE:
            return Entry(State.FAILED, reason=LOOKUP_FAILED, version=self.version)
        except ValueError:
            return Entry(State.FAILED, reason=INVALID_IP, version=self.version)
        # A record without any of our columns is not an answer: it must not be listed as one.
        if place is None:
            return Entry(State.ABSENT, reason=NOT_FOUND, version=self.version)
        return Entry(State.FOUND, value=place, version=self.version)


def open_source(_site: Site, settings: GeoSettings) -> OpenedSource:
    """The database in use, behind the lookup of special addresses; a later refresh does not affect an open one. Raises
    `SettingsError` as `GeoDatabase`."""
    setting = SETTING if settings.database_path else "GEO_IP_INSTALL_PATH"
    path = present_database_path(settings.database_path, settings.install_path)
    database = GeoDatabase(path, settings.locale, setting)
    return OpenedSource(database, front=SpecialAddresses, build=database.build)


def lacks_places(findings: Findings) -> str:
    """A description of a database without places, in which every address would be unknown and cached as such. Empty for
    one that has places, or whose records cannot be read."""
    if findings.places or findings.unreadable:
        return ""
    has = f"its records have {', '.join(findings.columns)}" if findings.columns else "it has no records"
    return f"is a database of type {findings.database_type}, which knows no places ({has})"


def present_database_path(database_path: str, install_path: str) -> str:
    """The database in use: the configured one, else the installed one, else the package's. May be missing.

    Raises `SettingsError` where it is unknown whether one was installed."""
    if database_path:
        return str(Path(database_path).expanduser())
    installed = Path(install_path).expanduser()
    try:
        is_installed = bool(install_path) and installed.exists()
    except OSError as unreadable:  # a folder that this user may not enter, a name that is too long
        raise SettingsError(f"GEO_IP_INSTALL_PATH={install_path!r}: {unreadable}") from unreadable
    return str(installed) if is_installed else default_database_path()


def default_database_path() -> str:
    """GeoLite2 City of 2018, as the package maxminddb-geolite2 ships it; found without importing the package."""
    path = _package_path()
    if path is None:
        raise SettingsError(
            "GEO_IP_DATABASE_PATH is not set and the package maxminddb-geolite2 is not installed;"
            " set it to a MaxMind-format City database (.mmdb) or install the package"
        )
    return str(path)


def is_from_package(path: Path) -> bool:
    """Whether it is the package's, which was checked when it was installed."""
    return path == _package_path()


def _package_path() -> Path | None:
    package = importlib.util.find_spec("_maxminddb_geolite2")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).with_name("GeoLite2-City.mmdb")


def _open(path: Path, setting: str) -> tuple[maxminddb.Reader, str]:
    """A reader, and an identifier of the file's contents."""
    if is_from_package(path):
        return maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT), "package"
    reader, findings = open_inspected(path)
    if lack := lacks_places(findings):
        reader.close()
        raise SettingsError(
            f"{setting}={str(path)!r} {lack}; set it to a City database, such as GeoLite2-City, GeoIP2-City"
            " or DBIP-City-Lite"
        )
    if not findings.cities:
        log.warning("geo_database.no_cities path=%s type=%s: its places have no city", path, findings.database_type)
    return reader, findings.sha256[:12]
