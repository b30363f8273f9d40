"""Who the client of the user service says that it is, to whom, and what it refuses to be told."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from enrichment.caches.base import State
from enrichment.errors import SettingsError
from enrichment.sources.connections import HttpOptions
from tests.fixtures.raw_server import http
from tests.fixtures.user_api import ACME, KNOWN, MakeApi, MakeServer, MakeService, failure_of


def test_token_is_sent(make_user_service: MakeService, make_api: MakeApi) -> None:
    """The connection's token opens a service that asks for one, line feed of a file or not."""
    service = make_user_service(token="s3cret")
    assert make_api(service.base_url, "s3cret\n").fetch_many(["user-123"])["user-123"].value == ACME


@pytest.mark.parametrize("token", [None, "wr0ng"])
def test_refused_token_is_a_service_error_that_does_not_show_it(
    make_user_service: MakeService, make_api: MakeApi, token: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong token is named as the trouble, and appears nowhere."""
    api = make_api(make_user_service(token="s3cret").base_url, token)
    with caplog.at_level(logging.DEBUG):
        failure = failure_of(api, *KNOWN)
    assert failure.reason == "user-service-error"
    assert "answered 401: the token" in failure.detail
    assert "wr0ng" not in failure.detail + caplog.text


def test_token_is_not_replaced_by_the_machines_own(
    make_user_service: MakeService, make_api: MakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry for the host in a `.netrc` file does not take the token's place."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    service = make_user_service(token="s3cret")
    assert make_api(service.base_url, "s3cret").fetch_many(["user-123"])["user-123"].value == ACME


def test_token_is_not_carried_to_another_address(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """A redirect is an error, not a road for the token."""
    other = make_raw_server(lambda _: http(200))
    server = make_raw_server(lambda _: http(307, b"{}", f"Location: {other.base_url}/api/users/batch"))
    assert "answered 307" in failure_of(make_api(server.base_url, "s3cret"), *KNOWN).detail
    assert other.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine, signed by itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(signed.public_bytes(Encoding.PEM) + private)
    return path


@pytest.mark.parametrize("trusted", ["by nobody", "by the connection", "by the environment", "unseen", "by both sides"])
def test_certificate_is_checked_as_the_connection_says(
    make_api: MakeApi, make_raw_server: MakeServer, certificate: Path, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that cannot prove who it is gets no token, unless the connection's `verify` says so."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    options = HttpOptions()
    if trusted == "by the environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    elif trusted == "unseen":
        options = HttpOptions(verify=False)
    elif trusted != "by nobody":
        options = HttpOptions(verify=str(certificate))
    if trusted == "by both sides":
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate)
        options = HttpOptions(verify=str(certificate), cert=(str(certificate),))
    server = make_raw_server(lambda _: http(200, b'{"user_id":"user-123"}'), context)
    api = make_api(server.base_url, "s3cret", options=options)
    if trusted == "by nobody":
        assert "certificate" in failure_of(api, "user-123").detail.lower()
        assert server.requests == []
    else:
        assert api.fetch_many(["user-123"])["user-123"].state is State.FOUND
        assert b"authorization: bearer s3cret" in server.requests[0].lower()


@pytest.mark.parametrize("trusted", [False, True])
def test_certificate_of_a_proxy_is_checked_as_that_of_the_service(
    make_api: MakeApi, make_raw_server: MakeServer, certificate: Path, *, trusted: bool
) -> None:
    """The connection's `verify` is meant for whoever is asked over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    proxy = make_raw_server(lambda _: http(200, b'{"user_id":"user-123"}'), context)
    options = HttpOptions(proxy=proxy.base_url, verify=str(certificate) if trusted else True)
    api = make_api("http://users.example", options=options)
    if trusted:
        assert api.fetch_many(["user-123"])["user-123"].state is State.FOUND
        assert b"http://users.example/" in proxy.requests[0]
    else:
        assert "certificate" in failure_of(api, "user-123").detail.lower()
        assert proxy.requests == []


@pytest.mark.parametrize(
    "options", [HttpOptions(verify="/no/such.pem"), HttpOptions(cert=("/no/such.pem",)), HttpOptions(proxy="nonsense")]
)
def test_settings_error_when_an_option_cannot_be_used(make_api: MakeApi, options: HttpOptions) -> None:
    """It can never work, whoever tries again."""
    with pytest.raises(SettingsError, match="verify, cert or proxy"):
        make_api("https://host", options=options)


def test_headers_of_the_connection_are_sent(make_api: MakeApi, make_raw_server: MakeServer) -> None:
    """A tenant, an API key: whatever the extra has; our own stay what they are, and they make another version."""
    server = make_raw_server(lambda _: http(200, b'{"user_id":"user-123"}'))
    api = make_api(server.base_url, "s3cret", options=HttpOptions({"X-Tenant": "blue", "accept": "text/html"}))
    api.fetch_many(["user-123"])
    [head] = server.requests
    assert b"x-tenant: blue" in head.lower()
    assert b"accept: application/json" in head.lower()
    assert b"text/html" not in head
    assert api.version != make_api(server.base_url).version
    assert (
        make_api(server.base_url, options=HttpOptions({"X-Api-Key": "k"})).version == make_api(server.base_url).version
    )


@pytest.mark.parametrize(
    ("base_url", "token"),
    [
        ("", None),
        ("localhost:8099", None),
        ("ftp://host", None),
        ("http://", None),
        ("http://host:many", None),
        ("http://user:s3cret@host", None),
        ("http://host?key=s3cret", None),
        ("http://host", "s3cret\r\nX-Other: 1"),
        ("http://host", "s3crét"),
    ],
)
def test_settings_error_when_address_or_token_cannot_be_used(
    make_api: MakeApi, base_url: str, token: str | None
) -> None:
    """What can never work fails when the client is built, without showing a secret."""
    with pytest.raises(SettingsError) as caught:
        make_api(base_url, token)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://[::1", "\0", "http://127.0.0.1:99999", "http://127.0.0.1:0"])
def test_proxy_that_is_no_address_is_refused(make_api: MakeApi, proxy: str) -> None:
    """When the task starts, by the name of its connection."""
    with pytest.raises(SettingsError, match="proxy is unusable"):
        make_api("http://127.0.0.1:1", options=HttpOptions(proxy=proxy))
