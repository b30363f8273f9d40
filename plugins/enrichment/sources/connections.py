"""Airflow connections in, addresses and options out: the one reading of what a connection's fields mean.

Nothing here imports Airflow: any object with a connection's fields will do, whether it was given as a URI, as JSON, or
in the UI. Of a URI Airflow makes the scheme its type and the path its schema, without brackets around an IPv6 address.

Raises `SettingsError`, which names the connection and shows neither its password nor its extra.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, urlsplit

import msgspec

from enrichment.errors import SettingsError

log = logging.getLogger(__name__)

SCHEMES = ("http", "https")
DEFAULT_PORTS = {"http": 80, "https": 443}
# Options that the HTTP provider takes from an extra, and that our clients set themselves.
_OWN_OPTIONS = ("allow_redirects", "check_response", "max_redirects", "stream", "timeout", "trust_env")
_YES, _NO = ("1", "on", "true", "yes"), ("0", "false", "no", "off")


class ConnectionFields(Protocol):
    """The fields of an Airflow connection. `extra_dejson` is its extra, parsed."""

    conn_id: str
    conn_type: str | None
    host: str | None
    schema: str | None
    login: str | None
    password: str | None
    port: int | None
    extra: str | None

    @property
    def extra_dejson(self) -> Any:
        """The extra, parsed."""
        ...


class HttpOptions(msgspec.Struct, frozen=True):
    """The options in the extra of an HTTP connection: headers to send, TLS and proxies.

    `verify` may be the path of a CA bundle; `cert` is a client certificate, alone or with its key.
    """

    headers: dict[str, str] = {}
    verify: bool | str = True
    cert: tuple[str, ...] = ()
    proxy: str = ""


class HttpEndpoint(NamedTuple):
    """An HTTP service: its base URL, its bearer token, and the options of its connection."""

    base_url: str
    token: str | None = None
    options: HttpOptions = HttpOptions()


def http_endpoint(connection: ConnectionFields) -> HttpEndpoint:
    """The service that a connection of type `http` names; its password is the token."""
    base_url = http_base_url(connection)
    options = http_options(connection, urlsplit(base_url).scheme)
    warn_of_clear_text(connection, base_url, secret=bool(connection.password or options.headers))
    return HttpEndpoint(base_url, connection.password, options)


def http_base_url(connection: ConnectionFields, default_scheme: str = "http") -> str:
    """Scheme, host, port and base path of a connection, without a slash at the end.

    The scheme is that of a host which is a URL, else the schema, as in the HTTP provider, else the type, if it is
    `https`, as for a URI that begins with `https://`, which the provider would send in clear text. A schema that is not
    a scheme is a base path: that is where Airflow puts the path of a URI.
    """
    if any("\ud800" <= character <= "\udfff" for character in f"{connection.host}{connection.schema}"):
        raise _refused(connection, "its host or schema is no text")
    scheme_in_host, separator, rest = (connection.host or "").strip().rpartition("://")
    first, _, path = (connection.schema or "").strip().strip("/").partition("/")
    scheme_in_schema = first.rstrip(":").lower()
    if scheme_in_schema not in SCHEMES:
        scheme_in_schema, path = "", f"{first}/{path}"
    scheme_in_type = "https" if (connection.conn_type or "").lower() == "https" else ""
    said = [s.lower() for s in (scheme_in_host, scheme_in_schema, scheme_in_type) if s]
    if not set(said) <= set(SCHEMES):
        raise _refused(connection, "its host begins with another scheme than http and https")
    if len(set(said)) > 1:
        raise _refused(connection, "it says both http and https, in its host, schema or type")
    if separator and not scheme_in_host:
        raise _refused(connection, "its host begins with :// and names no scheme")
    netloc, _, host_path = rest.partition("/")
    if any(mark in rest for mark in "?#@"):
        raise _refused(connection, "its host holds more than scheme, host, port and path")
    name, port = _host_and_port(connection, netloc)
    address = f"{said[0] if said else default_scheme}://{name}" + (f":{port}" if port else "")
    return "/".join(
        [address, *(quote(part, safe="%:@!$&'()*+,;=~") for part in f"{host_path}/{path}".split("/") if part)]
    )


def normalized(base_url: str) -> str:
    """The same text for the same service: lower case where case is ignored, no default port, no slash at the end."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    port = "" if parts.port in (None, DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path.rstrip('/')}"


def http_options(connection: ConnectionFields, scheme: str) -> HttpOptions:
    """The options in a connection's extra, named as in the HTTP provider; any other entry is a header."""
    extra = dict(extra_of(connection))
    if _as_flag(extra.pop("srv_lookup", False)):
        raise _refused(connection, "srv_lookup in its extra is not supported: name the host itself")
    proxy = extra.pop("proxies", None) or extra.pop("proxy", None) or ""
    extra.pop("proxy", None)
    if isinstance(proxy, Mapping):
        proxy = proxy.get(scheme, "")
    verify = _as_flag(extra.pop("verify", extra.get("verify_ssl", True)))
    extra.pop("verify_ssl", None)
    cert = extra.pop("cert", None) or ()
    ignored = [name for name in _OWN_OPTIONS if extra.pop(name, None) is not None]
    if ignored:
        log.info("connection.options_ignored conn_id=%s options=%s", connection.conn_id, ",".join(ignored))
    try:
        return HttpOptions(
            {name: _header(connection, name, value) for name, value in extra.items()},
            msgspec.convert(verify, bool | str),
            msgspec.convert((cert,) if isinstance(cert, str) else cert, tuple[str, ...]),
            msgspec.convert(proxy, str),
        )
    except msgspec.ValidationError as invalid:
        raise _refused(
            connection, "verify, cert or proxies in its extra are not what the HTTP provider takes"
        ) from invalid


def extra_of(connection: ConnectionFields) -> Mapping[str, Any]:
    """The extra, which must be a JSON object: Airflow itself treats an unreadable one as empty."""
    text = (connection.extra or "").strip()
    if not text:
        return {}
    try:
        extra = json.loads(text)
    except (ValueError, RecursionError) as odd:
        raise _refused(connection, "its extra is no JSON") from odd
    if not isinstance(extra, dict):
        raise _refused(connection, "its extra is no JSON object")
    return connection.extra_dejson or {}  # the same once more: Airflow keeps its secrets out of the logs from now on


def check_kafka(connection: ConnectionFields) -> None:
    """Refuse a connection of which the Kafka provider, which reads only the extra, cannot make a client."""
    extra = extra_of(connection)
    servers = extra.get("bootstrap.servers")
    if not isinstance(servers, str) or not servers.strip():
        unread = "; its host is not read" if connection.host else ""
        raise _refused(connection, f'its extra needs {{"bootstrap.servers": "host:9092"}}{unread}')
    for name, value in extra.items():
        if not isinstance(value, str | int | float):
            raise _refused(connection, f"{name} in its extra is neither text nor number, as librdkafka takes them")


def check_postgres(connection: ConnectionFields) -> None:
    """Refuse a connection that libpq would misread: it takes a host's name or address, and the database as schema."""
    extra_of(connection)
    host = connection.host or ""
    if "://" in host or "[" in host:
        raise _refused(connection, "its host is a name or an address, without scheme and without brackets")
    if "/" in (connection.schema or ""):
        raise _refused(connection, "its schema is the name of a database, without a slash")


def warn_of_clear_text(connection: ConnectionFields, base_url: str, *, secret: bool) -> None:
    """Warn where a secret would be sent in clear text."""
    parts = urlsplit(base_url)
    if secret and parts.scheme == "http" and not is_this_machine(parts.hostname or ""):
        log.warning(
            "connection.token_in_clear_text conn_id=%s host=%s: its token is sent over plain HTTP; say https in the "
            "connection's schema or host", connection.conn_id, parts.hostname,
        )  # fmt: skip


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address means this machine."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name == socket.gethostname().lower():
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _host_and_port(connection: ConnectionFields, netloc: str) -> tuple[str, int | None]:
    """The host as in a URL, and the port, which may be part of the host."""
    name, text = netloc, ""
    if netloc.startswith("["):
        name, bracket, text = netloc[1:].partition("]")
        name, text = name if bracket else "", text.removeprefix(":")
    elif netloc.count(":") == 1:
        name, text = netloc.split(":")
    if not name or any(c.isspace() or c in "[]\\" for c in name):
        raise _refused(connection, "it names no host; give it as https://host:port")
    if ":" in name:
        try:
            IPv6Address(name)
        except ValueError as odd:
            raise _refused(connection, "its host is neither a name nor an address") from odd
        name = f"[{name}]"
    if text and not (text.isascii() and text.isdecimal()):
        raise _refused(connection, "the port in its host is no number")
    ports = {int(port) for port in (text, connection.port) if port}
    if len(ports) > 1 or not all(0 < port < 2**16 for port in ports):
        raise _refused(connection, "its port is none, or another one than that in its host")
    return name, ports.pop() if ports else None


def _as_flag(value: Any) -> Any:
    """A flag for a text that means true or false: all values in the query of a URI are text."""
    text = str(value).strip().lower()
    return True if text in _YES else False if text in _NO else value


def _header(connection: ConnectionFields, name: str, value: Any) -> str:
    if not isinstance(value, str | int | float) or not (f"{name}{value}".isascii() and f"{name}{value}".isprintable()):
        raise _refused(connection, f"{name!r} in its extra can be no header")
    return str(value)


def _refused(connection: ConnectionFields, why: str) -> SettingsError:
    return SettingsError(f"the connection {connection.conn_id!r} cannot be used: {why}")
