"""Where a newer database comes from: a path or URL, or MaxMind's account. A folder in, a file in it out.

The file is what the source gives: a database (`.mmdb`), one in gzip, or a tar archive with one in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

from enrichment.errors import RefreshFailed, SettingsError
from enrichment.settings import GeoSettings

if TYPE_CHECKING:
    import urllib3

MAXMIND = "maxmind"
CHUNK_BYTES = 1024**2
CONNECT_SECONDS = 10
# How long a server may say nothing; the whole download has GEO_IP_DOWNLOAD_TIMEOUT_SEC.
SILENCE_SECONDS = 60
# Not to be had, and not by trying again either. 408, 425 and 429 are.
REFUSALS = (400, 401, 403, 404, 405, 406, 410, 451)


@dataclass(frozen=True, slots=True)
class Account:
    """An account at MaxMind. `host` is another server that speaks its update protocol; empty: MaxMind's own."""

    account_id: str
    license_key: str
    host: str = ""
    proxy: str | None = None


class Source(Protocol):
    """Something that has a database."""

    name: str

    def fetch(self, folder: Path, present: Path | None) -> Path | None:
        """Put what it has into the folder; None when it says that this is what `present` is.

        Raises `RefreshFailed` where another try may help, `SettingsError` where it cannot.
        """
        ...


def named(source: str, geo: GeoSettings, account: Callable[[], Account]) -> Source:
    """The source of a name: `maxmind`, an http(s) URL, or a path; `#sha256=<hex>` behind either of these is checked."""
    if source == MAXMIND:
        return MaxMindSource(account(), geo.edition, geo.download_timeout_sec)
    place, _, digest = source.partition("#sha256=")
    if digest and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise SettingsError(f"GEO_IP_UPDATE_SOURCE={without_login(source)!r}: #sha256= takes 64 hexadecimal digits")
    if place.startswith(("http://", "https://")):
        return UrlSource(place, digest.lower(), geo.download_timeout_sec)
    return FileSource(place, digest.lower())


class FileSource:
    """A file that somebody has put there; it is copied, never moved."""

    def __init__(self, path: str, sha256: str = "") -> None:
        self.name = path
        self._path = Path(path).expanduser()
        self._sha256 = sha256

    def fetch(self, folder: Path, present: Path | None) -> Path:  # noqa: ARG002 - the protocol's
        """See `Source`."""
        try:
            file = self._path.open("rb")
        except OSError as unreadable:
            raise SettingsError(f"{self.name}: {unreadable.strerror}; check GEO_IP_UPDATE_SOURCE") from unreadable
        with file:
            return _write(iter(lambda: file.read(CHUNK_BYTES), b""), folder / "offered", self._sha256, self.name)


class UrlSource:
    """A file on a server. A login in the URL is used and never told."""

    def __init__(self, url: str, sha256: str = "", timeout_seconds: float = 600) -> None:
        self.name = without_login(url)
        self._url = url
        self._sha256 = sha256
        self._timeout = timeout_seconds

    def fetch(self, folder: Path, present: Path | None) -> Path:  # noqa: ARG002 - the protocol's
        """See `Source`."""
        import requests
        import urllib3

        # As it is, not compressed on the way: what is checked is what lies on the server.
        as_is = {"Accept-Encoding": "identity"}
        patience = (CONNECT_SECONDS, SILENCE_SECONDS)
        try:
            with requests.get(self._url, stream=True, timeout=patience, headers=as_is) as answer:
                if answer.status_code in REFUSALS:
                    raise SettingsError(f"{self.name}: HTTP {answer.status_code}; check GEO_IP_UPDATE_SOURCE")
                if answer.status_code != 200:
                    raise RefreshFailed(f"{self.name}: HTTP {answer.status_code}")
                return _write(self._pieces(answer.raw), folder / "offered", self._sha256, self.name)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as failed:
            # Without its text, which has the whole URL in it.
            raise RefreshFailed(f"{self.name}: {type(failed).__name__}") from None

    def _pieces(self, body: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """What arrives, as it arrives, and in time: a server that sends a byte a minute is never silent."""
        deadline = time.monotonic() + self._timeout
        while piece := body.read1(CHUNK_BYTES):
            yield piece
            if time.monotonic() > deadline:
                raise RefreshFailed(f"{self.name}: not downloaded within GEO_IP_DOWNLOAD_TIMEOUT_SEC={self._timeout:g}")


class MaxMindSource:
    """An edition from MaxMind, by its own updater: it asks for the checksum first, and checks what it downloads."""

    def __init__(self, account: Account, edition: str, timeout_seconds: float = 600) -> None:
        self.name = f"{MAXMIND} {edition}"
        self._account = account
        self._edition = edition
        self._timeout = timeout_seconds

    def fetch(self, folder: Path, present: Path | None) -> Path | None:
        """See `Source`. A `present` of the same edition and checksum is not downloaded again: downloads are counted."""
        import aiohttp
        import pygeoipupdate

        if present is not None:
            shutil.copyfile(present, folder / f"{self._edition}.mmdb")
        try:
            updated = asyncio.run(self._update(folder))
        except (pygeoipupdate.ConfigError, pygeoipupdate.AuthenticationError) as refused:
            raise SettingsError(f"{self.name}: {refused}; check the connection GEO_IP_MAXMIND_CONN_ID") from refused
        except pygeoipupdate.HTTPError as answered:
            if answered.status_code in REFUSALS:
                raise SettingsError(
                    f"{self.name}: HTTP {answered.status_code}; check GEO_IP_EDITION and what the account may download"
                ) from answered
            raise RefreshFailed(f"{self.name}: HTTP {answered.status_code}") from answered
        except (pygeoipupdate.GeoIPUpdateError, aiohttp.ClientError, TimeoutError, EOFError, zlib.error) as failed:
            raise RefreshFailed(f"{self.name}: {type(failed).__name__}: {failed}") from failed
        return folder / f"{self._edition}.mmdb" if updated else None

    async def _update(self, folder: Path) -> bool:
        from pygeoipupdate import Config, ConfigError, Updater

        if not self._account.account_id.isdecimal():
            raise ConfigError("the login must be the account's number")
        config = Config(
            account_id=int(self._account.account_id),
            license_key=self._account.license_key,
            edition_ids=(self._edition,),
            database_directory=folder,
            retry_for=timedelta(0),  # Airflow tries again
            proxy=self._account.proxy,
            host=self._account.host or Config.host,
        )
        async with asyncio.timeout(self._timeout), Updater(config) as updater:
            [result] = await updater.run()
        return result.was_updated


def without_login(source: str) -> str:
    """A source as it may be logged: a URL without user and password, and without the key that its query may hold."""
    parts = urlsplit(source)
    if not parts.netloc:
        return source
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _write(pieces: Iterable[bytes], file: Path, sha256: str, name: str) -> Path:
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for piece in pieces:
            out.write(piece)
            digest.update(piece)
    if sha256 and digest.hexdigest() != sha256:
        raise RefreshFailed(f"{name}: its sha256 is {digest.hexdigest()}, not {sha256}")
    return file
