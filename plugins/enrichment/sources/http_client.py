"""One HTTP exchange with a service: a request in, status and body out, within a time limit for the whole.

`httpx` on an event loop, because only a wait that can be cancelled can be limited: the timeouts of `requests` and
urllib3 apply to one read from the socket, so a service that sends a byte a second, or endless interim answers
(`100 Continue`, `103 Early Hints`), keeps them waiting for ever.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import zlib
from collections.abc import Callable, Collection
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from enrichment.errors import SettingsError
from enrichment.sources.connections import HttpOptions
from enrichment.sources.tls import trusting

# zlib's numbers for "gzip or zlib, as its head says", and for deflate without a head, as some servers write it.
GZIP_OR_ZLIB, HEADLESS = 47, -15


class Reply(NamedTuple):
    """An answer. The body is read only for a wanted status."""

    status: int
    content_type: str
    retry_after: str | None
    body: bytes


class TooLong(Exception):
    """The body has more bytes than allowed."""


class Garbled(Exception):
    """The body is not compressed as its headers say."""


class HttpClient:
    """Connections to a service, kept between requests; `service` is what errors call it.

    Raises `SettingsError` for unusable options.

    Redirects are not followed: a POST would become a GET, and the token belongs to this service alone. Cookies are not
    kept, and the machine's `.netrc` is ignored. Proxies of the environment count, as they do for `requests`.
    """

    def __init__(self, base_url: str, token: str | None, options: HttpOptions, connections: int, service: str) -> None:
        _check_address(base_url, service)
        self._base_url = base_url
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        headers = httpx.Headers(options.headers)
        headers.update(_own_headers(token, service))
        try:
            tls = _tls(base_url, options)
            self._client = httpx.AsyncClient(
                headers=headers,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                verify=tls or False,
                proxy=_proxy(options, tls),
                limits=limits,
                timeout=None,  # noqa: S113 - `ask` has one for the whole exchange
            )
        except (OSError, ValueError, ImportError, httpx.InvalidURL) as unusable:  # a SOCKS proxy needs a package
            raise SettingsError(f"{service}'s connection: verify, cert or proxy is unusable: {unusable}") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ask(
        self, method: str, path: str, *, content: bytes | None, wanted: Collection[int], max_bytes: int, seconds: float
    ) -> Reply:
        """The answer to one request. Raises `TimeoutError`, `TooLong`, `Garbled`, or an `httpx.HTTPError`."""
        async with (
            asyncio.timeout(seconds),
            self._client.stream(method, self._base_url + path, content=content) as response,
        ):
            headers = response.headers
            body = await _read(response, max_bytes) if response.status_code in wanted else b""
        return Reply(response.status_code, headers.get("Content-Type", ""), headers.get("Retry-After"), body)


def reason_of(error: Exception) -> str:
    """The system's error of a failed exchange, if there is one: httpx itself names only the step."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return f"{error}: {os.strerror(cause.errno)}" if cause.errno > 0 else f"{error}: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


async def _read(response: httpx.Response, max_bytes: int) -> bytes:
    unpack = _unpacker(response.headers.get("Content-Encoding", "").strip().lower(), max_bytes)
    body = bytearray()
    async for piece in response.aiter_raw():
        body += unpack(piece)
        if len(body) > max_bytes:
            raise TooLong(f"more than {max_bytes} bytes")
    body += unpack(b"")
    return bytes(body)


def _unpacker(encoding: str, max_bytes: int) -> Callable[[bytes], bytes]:
    """Takes the pieces of a body, and an empty one at its end. Never unpacks more than the limit: a few bytes may be
    the compressed form of gigabytes."""
    if encoding in ("", "identity"):
        return lambda piece: piece
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Garbled(f"an encoding that was not asked for: {encoding[:40]}")
    return _Unpacker(encoding, max_bytes)


class _Unpacker:
    """Reads all gzip members that follow one another: some servers compress each part of an answer by itself."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._encoding = encoding
        self._most = max_bytes + 1
        self._packed: Any = None

    def __call__(self, piece: bytes) -> bytes:
        try:
            return self._unpack(piece) if piece else self._ended()
        except zlib.error as odd:
            raise Garbled(f"{self._encoding}: {odd}") from odd

    def _unpack(self, piece: bytes) -> bytes:
        body = b""
        while piece and len(body) < self._most:
            if self._packed is None:
                has_head = self._encoding != "deflate" or piece[0] & 15 == zlib.DEFLATED
                self._packed = zlib.decompressobj(GZIP_OR_ZLIB if has_head else HEADLESS)
            elif self._packed.eof:
                if self._encoding == "deflate":
                    break
                self._packed = zlib.decompressobj(GZIP_OR_ZLIB)
            body += self._packed.decompress(piece, self._most)
            piece = self._packed.unused_data
        return body

    def _ended(self) -> bytes:
        if self._packed is None or not self._packed.eof:
            raise Garbled("the compressed body breaks off")
        return b""


def _own_headers(token: str | None, service: str) -> dict[str, str]:
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise SettingsError(f"the password of {service}'s connection is no token: it has unprintable characters")
    headers = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate", "Content-Type": "application/json"}
    return {**headers, "Authorization": f"Bearer {token}"} if token else headers


def _proxy(options: HttpOptions, tls: ssl.SSLContext | None) -> httpx.Proxy | None:
    """Raises `ValueError` for an invalid port, which would otherwise show only on connecting."""
    if not options.proxy:
        return None
    if urlsplit(options.proxy).port == 0:
        raise ValueError("the proxy's port is 0")
    return httpx.Proxy(options.proxy, ssl_context=tls if _is_https(options.proxy) else None)


def _is_https(url: str) -> bool:
    return urlsplit(url).scheme == "https"


def _tls(base_url: str, options: HttpOptions) -> ssl.SSLContext | None:
    """The TLS context for the service and its proxy; made only when needed: reading a CA bundle takes a while."""
    if not (_is_https(base_url) or _is_https(options.proxy)):
        return None
    context = trusting(options.verify if isinstance(options.verify, str) else None)
    if options.verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert:
        context.load_cert_chain(*options.cert)
    return context


def _check_address(base_url: str, service: str) -> None:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{service}'s connection gives no address like http://host:port")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsError(f"{service}'s address holds more than scheme, host, port and path")
