"""Who the client of the user service says that it is, to whom, and what it refuses to be told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from enrichment.errors import SettingsError
from enrichment.messages import Reason
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
    assert failure.reason == Reason.USER_SERVICE_ERROR
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
