"""The HTTP session of the user service: a checked address, a bearer token, as many connections as requests at once."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urlsplit

from requests import PreparedRequest, Session
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from enrichment.errors import SettingsError


class _Bearer(AuthBase):
    """Sets the header itself. (A header of the session would give way to an entry in the machine's `.netrc`.)"""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def open_session(base_url: str, token: str | None, connections: int) -> Session:
    """A session that several threads may use. Raises `SettingsError` for an address or a token that cannot be used."""
    _check_address(base_url)
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise SettingsError("the password of the user service's connection is no token: it has unprintable characters")
    session = Session()
    session.auth = _Bearer(token)
    session.headers.update({"Accept": "application/json", "Content-Type": "application/json"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=connections, max_retries=0)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _check_address(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError("the user service's connection gives no address like http://host:port")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise SettingsError("the user service's address holds more than scheme, host, port and path")
