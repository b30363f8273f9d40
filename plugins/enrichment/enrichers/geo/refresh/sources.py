"""Where a newer database comes from: a path or URL, or MaxMind's account. A folder in, a file in it out.

The file is as the source has it: a database (`.mmdb`), one in gzip, or a tar archive with one in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit, urlunsplit

from enrichment.enrichers.geo import GeoSettings
from enrichment.enrichers.geo.inspector import require_file
from enrichment.enrichers.geo.refresh.unpacking import MIB, unpack
from enrichment.errors import DatabaseRefused, RefreshFailed, SettingsError
from enrichment.sources.tls import trusting

if TYPE_CHECKING:
    from pygeoipupdate.client import DownloadResponse, UpdateAvailable

MAXMIND = "maxmind"
CHUNK_BYTES = MIB
CONNECT_SECONDS = 10
# How long a server may be silent; the whole download has GEO_IP_DOWNLOAD_TIMEOUT_SEC.
SILENCE_SECONDS = 60
MAX_BYTES = 2048 * MIB
# Not to be had, and not by trying again either. 408, 425 and 429 are.
REFUSALS = (400, 401, 403, 404, 405, 406, 410, 451)
CHECK = "check *Source* of the run, or GEO_IP_UPDATE_SOURCE where it has none"


@dataclass(frozen=True, slots=True)
class Account:
    """An account at MaxMind. `host` is another server with its update protocol; empty: MaxMind's own."""

    account_id: str
    license_key: str
    host: str = ""
    proxy: str | None = None


class Source(Protocol):
    """A source of databases."""

    name: str

    def fetch(self, folder: Path, present: Path | None) -> Path | None:
        """Put its file into the folder and return it; None when the source says that `present` is the same.

        Raises `RefreshFailed` where another try may help, `SettingsError` or `DatabaseRefused` where it cannot.
        """
        ...


def named(source: str, geo: GeoSettings, account: Callable[[], Account]) -> Source:
    """The source of a name: `maxmind`, an http(s) URL, or a path; a `#sha256=<hex>` after the last two is checked."""
    max_bytes = geo.max_database_mib * MIB
    if source == MAXMIND:
        return MaxMindSource(account(), geo.edition, geo.download_timeout_sec, max_bytes)
    place, _, digest = source.partition("#sha256=")
    if digest and not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise SettingsError(f"GEO_IP_UPDATE_SOURCE={without_login(source)!r}: #sha256= takes 64 hexadecimal digits")
    if place.startswith(("http://", "https://")):
        return UrlSource(place, digest.lower(), geo.download_timeout_sec, max_bytes)
    return FileSource(place, digest.lower(), max_bytes)


class FileSource:
    """A local file; it is copied, never moved."""

    def __init__(self, path: str, sha256: str = "", max_bytes: int = MAX_BYTES) -> None:
        self.name = path
        try:
            self._path = Path(path).expanduser()
        except RuntimeError as nobody:
            raise SettingsError(f"{path}: {nobody}; {CHECK}") from nobody
        self._sha256 = sha256
        self._max_bytes = max_bytes

    def fetch(self, folder: Path, present: Path | None) -> Path:  # noqa: ARG002 - the protocol's
        """See `Source`."""
        try:
            if not self._path.is_dir():  # which says by itself, when it is opened, that it is no file
                require_file(self._path)
            file = self._path.open("rb")
        except OSError as unreadable:
            raise SettingsError(f"{self.name}: {unreadable.strerror}; {CHECK}") from unreadable
        except ValueError as odd:  # a NUL
            raise SettingsError(f"{self.name!r}: {odd}; {CHECK}") from odd
        with file, closing(_Offered(folder, self.name, self._sha256, self._max_bytes)) as offered:
            while piece := file.read(CHUNK_BYTES):
                offered.write(piece)
            return offered.checked()


class UrlSource:
    """A file on a server. A login in the URL is used and never logged."""

    def __init__(self, url: str, sha256: str = "", timeout_seconds: float = 600, max_bytes: int = MAX_BYTES) -> None:
        self.name = without_login(url)
        self._url = url
        self._sha256 = sha256
        self._timeout = timeout_seconds
        self._max_bytes = max_bytes

    def fetch(self, folder: Path, present: Path | None) -> Path:  # noqa: ARG002 - the protocol's
        """See `Source`. Errors leave out the text of their cause, which has the whole URL in it."""
        import aiohttp

        try:
            return asyncio.run(self._download(folder))
        except (aiohttp.InvalidURL, UnicodeError):  # the latter: of a host that no name can be
            raise SettingsError(f"{self.name}: no URL that can be asked; {CHECK}") from None
        except aiohttp.ClientConnectorError as failed:
            raise RefreshFailed(f"{self.name}: ConnectionError: {failed.strerror}") from None
        except aiohttp.ClientError as failed:
            raise RefreshFailed(f"{self.name}: {type(failed).__name__}") from None
        except TimeoutError:
            raise RefreshFailed(
                f"{self.name}: not downloaded within GEO_IP_DOWNLOAD_TIMEOUT_SEC={self._timeout:g}"
            ) from None

    async def _download(self, folder: Path) -> Path:
        """Download within the time limit, even from a server that sends a byte a second or endless interim answers."""
        import aiohttp

        silence = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        # As it is, not compressed on the way: what is checked is what lies on the server.
        as_is = {"Accept-Encoding": "identity"}
        async with (
            asyncio.timeout(self._timeout),
            aiohttp.ClientSession(timeout=silence, headers=as_is, auto_decompress=False, trust_env=True) as session,
            session.get(self._url, ssl=trusting()) as answer,
        ):
            if answer.status in REFUSALS:
                raise SettingsError(f"{self.name}: HTTP {answer.status}; {CHECK}")
            if answer.status != 200:
                raise RefreshFailed(f"{self.name}: HTTP {answer.status}")
            with closing(_Offered(folder, self.name, self._sha256, self._max_bytes)) as offered:
                offered.expect(answer.content_length or 0)
                async for piece in answer.content.iter_any():
                    offered.write(piece)
                return offered.checked()


class MaxMindSource:
    """An edition from MaxMind, by its own client, which asks for the checksum first and checks the download."""

    def __init__(
        self, account: Account, edition: str, timeout_seconds: float = 600, max_bytes: int = MAX_BYTES
    ) -> None:
        self.name = f"{MAXMIND} {edition}"
        self._account = account
        self._edition = edition
        self._timeout = timeout_seconds
        self._max_bytes = max_bytes

    def fetch(self, folder: Path, present: Path | None) -> Path | None:
        """See `Source`. A `present` of the same edition and checksum is not downloaded again: downloads are counted."""
        import aiohttp
        import pygeoipupdate
        from pygeoipupdate.client import NoUpdateAvailable

        if not re.fullmatch("[A-Za-z0-9-]+", self._edition):
            raise SettingsError(f"GEO_IP_EDITION={self._edition!r}: an edition has a name like GeoLite2-City")
        try:
            update = asyncio.run(self._download(folder, _md5(present) if present else ""))
        except (pygeoipupdate.ConfigError, pygeoipupdate.AuthenticationError) as refused:
            raise SettingsError(f"{self.name}: {refused}; check the connection GEO_IP_MAXMIND_CONN_ID") from refused
        except pygeoipupdate.HTTPError as answered:
            if answered.status_code in REFUSALS:
                raise SettingsError(
                    f"{self.name}: HTTP {answered.status_code}; check GEO_IP_EDITION and what the account may download"
                ) from answered
            raise RefreshFailed(f"{self.name}: HTTP {answered.status_code}") from answered
        # Its client raises the last four for an answer of another form than MaxMind's.
        except (
            pygeoipupdate.GeoIPUpdateError, aiohttp.ClientError, TimeoutError,
            AttributeError, LookupError, TypeError, ValueError,
        ) as failed:  # fmt: skip
            raise RefreshFailed(f"{self.name}: {type(failed).__name__}: {failed}") from failed
        return None if isinstance(update, NoUpdateAvailable) else self._unpacked(update, folder)

    async def _download(self, folder: Path, md5: str) -> DownloadResponse:
        from pygeoipupdate import Config, ConfigError
        from pygeoipupdate.client import Client

        if not self._account.account_id.isdecimal():
            raise ConfigError("the login must be the account's number")
        config = Config(
            account_id=int(self._account.account_id),
            license_key=self._account.license_key,
            edition_ids=(self._edition,),
            database_directory=folder,
            proxy=self._account.proxy,
            host=self._account.host or Config.host,
        )
        client = Client(config.account_id, config.license_key, host=config.host, proxy=config.proxy)
        async with asyncio.timeout(self._timeout), client:
            return await client.download(self._edition, md5, folder)

    def _unpacked(self, update: UpdateAvailable, folder: Path) -> Path:
        """The unpacked database: MaxMind's checksum is of it, not of the archive."""
        try:
            database = unpack(update.compressed_path, folder, self._max_bytes)
        except (RefreshFailed, DatabaseRefused) as damaged:
            raise type(damaged)(f"{self.name}: {damaged}") from damaged
        if (md5 := _md5(database)) != update.md5.lower():
            raise RefreshFailed(f"{self.name}: HashMismatch: its md5 is {md5}, not {update.md5}")
        return database


class _Offered:
    """The file that a source writes. It accepts no more bytes than a database may have."""

    def __init__(self, folder: Path, name: str, sha256: str, max_bytes: int) -> None:
        self._path = folder / "offered"
        self._file = self._path.open("wb")
        self._digest = hashlib.sha256()
        self._size = 0
        self._name = name
        self._sha256 = sha256
        self._max_bytes = max_bytes

    def expect(self, size: int) -> None:
        """Announce a size. Raises `DatabaseRefused` when it is too large."""
        if size > self._max_bytes:
            raise DatabaseRefused(f"{self._name}: larger than GEO_IP_MAX_DATABASE_MIB={self._max_bytes / MIB:g} allows")

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._size += len(piece)
        self.expect(self._size)
        self._digest.update(piece)
        self._file.write(piece)

    def checked(self) -> Path:
        """The complete file. Raises `RefreshFailed` when its checksum is wrong."""
        self._file.close()
        if self._sha256 and self._digest.hexdigest() != self._sha256:
            raise RefreshFailed(f"{self._name}: its sha256 is {self._digest.hexdigest()}, not {self._sha256}")
        return self._path

    def close(self) -> None:
        """End writing."""
        self._file.close()


def without_login(source: str) -> str:
    """A source in loggable form: a URL without user and password, and without the key that its query may hold."""
    try:
        parts = urlsplit(source)
    except ValueError as odd:
        raise SettingsError(f"GEO_IP_UPDATE_SOURCE is no URL: {odd}") from None
    if not parts.netloc:
        return source
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _md5(database: Path) -> str:
    """The checksum by which MaxMind tells builds apart."""
    with database.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
