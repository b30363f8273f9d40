"""What Airflow's connections mean, however they are given; Airflow itself takes URI and JSON apart."""

from __future__ import annotations

import json
import logging
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection

from enrichment.errors import SettingsError
from enrichment.sources.connections import (
    HttpEndpoint,
    HttpOptions,
    check_kafka,
    check_postgres,
    extra_of,
    http_base_url,
    http_endpoint,
    is_this_machine,
    normalized,
)

CONFIGURE = Path(__file__).parents[3] / "docs" / "configure.md"


def connection(given: str | dict[str, Any]) -> Connection:
    """A connection as Airflow reads it from a variable."""
    text = given if isinstance(given, str) else json.dumps(given)
    read = Connection.from_json if text.startswith("{") else Connection.from_uri
    return read(text, conn_id="user_service")


URLS = [
    # URIs
    ("http://host:8099", "http://host:8099"),
    ("https://:token@host:443", "https://host:443"),
    ("HTTPS://:token@host", "https://host"),
    ("https://host", "https://host"),
    ("http://:token@host:443/https", "https://host:443"),
    ("http://host:8099/http", "http://host:8099"),
    ("https://host/https/", "https://host"),
    ("https://host/api/v2/", "https://host/api/v2"),
    ("http://host/https/api", "https://host/api"),
    ("https://host:8443/a%20b", "https://host:8443/a%20b"),
    ("http://https://:token@host:8443", "https://host:8443"),
    ("http://:token@https%3A%2F%2Fhost%3A8443%2Fbase%2F", "https://host:8443/base"),
    ("http://:token@https%3A%2F%2Fhost", "https://host"),
    ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ("http://[::1]:8099/https", "https://[::1]:8099"),
    ("http://[::1]", "http://[::1]"),
    ("https://user:p%40ss%2F@host", "https://host"),
    ("https://host?verify=false", "https://host"),
    # JSON, and the fields of the UI
    ({"conn_type": "http", "host": "host"}, "http://host"),
    ({"host": " host "}, "http://host"),
    ({"conn_type": "http", "host": "host", "schema": "https"}, "https://host"),
    ({"conn_type": "http", "host": "host", "schema": "HTTPS://", "port": "8443"}, "https://host:8443"),
    ({"conn_type": "https", "host": "host", "port": 443}, "https://host:443"),
    ({"conn_type": "http", "host": "https://host"}, "https://host"),
    ({"conn_type": "http", "host": "https://host/"}, "https://host"),
    ({"conn_type": "http", "host": "HTTPS://host/base/", "port": 8443}, "https://host:8443/base"),
    ({"conn_type": "http", "host": "https://host:8443/base", "port": 8443}, "https://host:8443/base"),
    ({"conn_type": "http", "host": "https://host", "schema": "https"}, "https://host"),
    ({"conn_type": "http", "host": "host:8099"}, "http://host:8099"),
    ({"conn_type": "http", "host": "host/base", "port": 80, "schema": "https"}, "https://host:80/base"),
    ({"conn_type": "http", "host": "::1", "port": 8099}, "http://[::1]:8099"),
    ({"conn_type": "http", "host": "[::1]", "port": 8099}, "http://[::1]:8099"),
    ({"conn_type": "http", "host": "[::1]:8099"}, "http://[::1]:8099"),
    ({"conn_type": "http", "host": "https://[2001:db8::1]:8443/base"}, "https://[2001:db8::1]:8443/base"),
]


@pytest.mark.parametrize(("given", "base_url"), URLS, ids=[str(given) for given, _ in URLS])
def test_address_is_read(given: str | dict[str, Any], base_url: str) -> None:
    """Scheme, host, port and path are found wherever they may stand, and no secure address becomes another."""
    assert http_base_url(connection(given)) == base_url
    assert normalized(base_url)


REFUSED: list[str | dict[str, Any]] = [
    "http://",
    "https://:s3cret@:443",
    "ftp://ftp%3A%2F%2Fhost",
    {"conn_type": "http"},
    {"host": "://host"},
    {"host": "http://"},
    {"host": "http://host", "schema": "https"},
    {"conn_type": "https", "host": "host", "schema": "http"},
    {"conn_type": "https", "host": "http://host"},
    {"host": "https://user:s3cret@host"},
    {"host": "https://s3cret://host"},
    {"host": "host?key=s3cret"},
    {"host": "host#s3cret"},
    {"host": "host:many"},
    {"host": "host:70000"},
    {"host": "host:0"},
    {"host": "host:8099", "port": 8100},
    {"host": "a:b:c"},
    {"host": "[::1"},
    {"host": "two hosts"},
]


@pytest.mark.parametrize("given", REFUSED, ids=str)
def test_address_is_refused_when_it_is_none_or_two(given: str | dict[str, Any]) -> None:
    """What cannot be one address is said at once, by the connection's name, without what may be secret."""
    with pytest.raises(SettingsError, match="'user_service' cannot be used") as caught:
        http_base_url(connection(given))
    assert "s3cret" not in str(caught.value)


def test_scheme_that_nobody_says_is_the_default() -> None:
    """For MaxMind's protocol that is https, whatever the type; a host that says http is taken at its word."""
    assert http_base_url(connection({"conn_type": "http", "host": "mirror"}), "https") == "https://mirror"
    assert http_base_url(connection({"conn_type": "http", "host": "http://mirror"}), "https") == "http://mirror"


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        pytest.param("https://:a%2Fb%40c%25@host", HttpEndpoint("https://host", "a/b@c%"), id="odd password"),
        pytest.param("https://login:token@host", HttpEndpoint("https://host", "token"), id="login"),
        pytest.param(
            "https://:t@host?X-Tenant=blue&verify=no",
            HttpEndpoint("https://host", "t", HttpOptions({"X-Tenant": "blue"}, verify=False)),
            id="query",
        ),
        pytest.param(
            {
                "host": "https://host",
                "extra": {
                    "X-Tenant": "blue", "X-Level": 3, "verify": "/ca.pem", "cert": ["/crt.pem", "/key.pem"],
                    "proxies": {"https": "http://proxy:3128", "http": "http://other"}, "timeout": 9, "stream": True,
                },
            },
            HttpEndpoint(
                "https://host",
                None,
                HttpOptions(
                    {"X-Tenant": "blue", "X-Level": "3"}, "/ca.pem", ("/crt.pem", "/key.pem"), "http://proxy:3128"
                ),
            ),
            id="all of an extra",
        ),
        pytest.param(
            {"host": "host", "extra": json.dumps({"verify_ssl": "False", "cert": "/both.pem", "proxy": "http://p"})},
            HttpEndpoint("http://host", None, HttpOptions({}, False, ("/both.pem",), "http://p")),
            id="extra as text",
        ),
    ],
)  # fmt: skip
def test_endpoint_has_token_and_options(given: str | dict[str, Any], endpoint: HttpEndpoint) -> None:
    """The password is the token, percent-encoded or not; the extra has the HTTP provider's options, and headers."""
    assert http_endpoint(connection(given)) == endpoint


@pytest.mark.parametrize(
    "extra",
    ["no JSON", "[1]", '"text"', {"X": {"a": 1}}, {"X": "a\nb"}, {"verify": 3}, {"cert": [1]}, {"srv_lookup": "true"}],
    ids=str,
)
def test_extra_is_refused_when_it_makes_no_sense(extra: Any) -> None:
    """Airflow takes an extra that it cannot read for an empty one, which would lose a certificate without a word."""
    odd = Connection(conn_id="user_service", host="host", extra=extra if isinstance(extra, str) else json.dumps(extra))
    with pytest.raises(SettingsError, match=r"in its extra|its extra is"):
        http_endpoint(odd)


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ("http://:s3cret@api.example.com", True),
        ("http://:s3cret@10.0.0.7:443", True),
        ("http://api.example.com?X-Api-Key=s3cret", True),
        ("https://:s3cret@api.example.com", False),
        ("http://api.example.com", False),
        ("http://:s3cret@localhost:8099", False),
        ("http://:s3cret@127.8.9.10", False),
        ("http://:s3cret@[::1]:8099", False),
    ],
)
def test_token_over_plain_http_is_warned_of(given: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A token that everybody on the way can read is used, with a warning that does not show it; not on this machine."""
    with caplog.at_level(logging.INFO):
        http_endpoint(connection(given))
    assert ("token_in_clear_text conn_id=user_service" in caplog.text) == warned
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "db.localhost", "127.0.0.1", "::1", socket.gethostname()])
def test_this_machine_is_known(host: str) -> None:
    """Its names and loopback addresses."""
    assert is_this_machine(host)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTP://Host:80/", "http://host"),
        ("https://host:443/base/", "https://host/base"),
        ("http://[2001:DB8::1]:80", "http://[2001:db8::1]"),
    ],
)
def test_same_service_has_the_same_address(one: str, other: str) -> None:
    """Case, default port and last slash make no other service; a path does."""
    assert normalized(one) == normalized(other)
    assert normalized(one) != normalized(f"{other}/More")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"conn_type": "kafka"}, "bootstrap.servers"),
        ("kafka://broker:9092", "its host is not read"),
        ({"extra": {"bootstrap.servers": ""}}, "bootstrap.servers"),
        ({"extra": {"bootstrap.servers": ["a:1"]}}, "bootstrap.servers"),
        ({"extra": {"bootstrap.servers": "a:1", "ssl": {"ca": "x"}}}, "ssl in its extra"),
        ({"extra": {"bootstrap.servers": "a:1", "group.id": None}}, "group.id in its extra"),
        ({"extra": "bootstrap.servers=a:1"}, "no JSON"),
    ],
    ids=str,
)
def test_kafka_connection_is_refused_when_it_has_no_configuration(given: str | dict[str, Any], why: str) -> None:
    """What the provider would fail with, try after try, is a setting that is wrong."""
    with pytest.raises(SettingsError, match=why):
        check_kafka(connection(given))


@pytest.mark.parametrize(
    "given",
    [
        {"extra": {"bootstrap.servers": "a:1", "enable.auto.commit": False, "retries": 3}},
        {"extra": '{"bootstrap.servers": "[::1]:9092"}'},
        "kafka://?bootstrap.servers=a%3A9092%2Cb%3A9092&security.protocol=SSL",
        "kafka://?__extra__=%7B%22bootstrap.servers%22%3A%22a%3A1%22%7D",
    ],
    ids=str,
)
def test_kafka_connection_is_taken(given: str | dict[str, Any]) -> None:
    """An object, a text that holds one, or the query of a URI."""
    check_kafka(connection(given))
    assert extra_of(connection(given))["bootstrap.servers"]


@pytest.mark.parametrize(
    ("given", "good"),
    [
        ("postgres://u:p%40@[::1]:5432/db", True),
        ("postgresql://u:p@one,two/db?sslmode=require", True),
        ({"host": "postgresql://host", "schema": "db"}, False),
        ({"host": "[::1]", "schema": "db"}, False),
        ("postgres://u:p@host/db/", False),
        ({"host": "host", "extra": "sslmode=require"}, False),
    ],
    ids=str,
)
def test_postgres_connection_is_one_that_libpq_understands(given: str | dict[str, Any], good: bool) -> None:
    """What libpq would take for a name that does not exist is said as what it is."""
    if good:
        check_postgres(connection(given))
    else:
        with pytest.raises(SettingsError, match="'user_service'"):
            check_postgres(connection(given))


def test_examples_of_the_guide_are_read() -> None:
    """Every example of docs/configure.md means what stands beside it."""
    table = CONFIGURE.read_text().split("`AIRFLOW_CONN_USER_SERVICE` |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `([^|]+)` \| `(https?://[^|]+)` \|$", table, re.MULTILINE)
    assert len(rows) >= 6
    for given, base_url in rows:
        assert http_base_url(connection(given)) == base_url, given
