"""Where databases come from: a path, a server, MaxMind's account; and what each of them may answer instead."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import repeat
from pathlib import Path

import pytest

from enrichment.enrichers.geo import GeoSettings
from enrichment.enrichers.geo.refresh import sources
from enrichment.enrichers.geo.refresh.sources import (
    Account,
    FileSource,
    MaxMindSource,
    Source,
    UrlSource,
    named,
    without_login,
)
from enrichment.errors import DatabaseRefused, RefreshFailed, SettingsError
from tests.fixtures.geo import EDITION, maxmind, packed
from tests.fixtures.raw_server import Answer, RawServer, http

pytestmark = pytest.mark.processes

CONTENT = b"a database" * 1_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()

MakeServer = Callable[[Answer], RawServer]


def nobody() -> Account:
    """The account of a source that needs none."""
    raise AssertionError("asked for an account")


def chunked(*pieces: bytes) -> bytes:
    """An answer in chunks, the last one missing: the server went away."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def from_url(server: RawServer, query: str = "") -> Source:
    """A source at a server."""
    return named(f"{server.base_url}/City.mmdb{query}", GeoSettings(), nobody)


def test_file_is_copied(tmp_path: Path) -> None:
    """A path's file stays where it is."""
    (tmp_path / "mine.mmdb").write_bytes(CONTENT)
    (tmp_path / "work").mkdir()
    fetched = named(str(tmp_path / "mine.mmdb"), GeoSettings(), nobody).fetch(tmp_path / "work", None)
    assert fetched is not None
    assert fetched.parent == tmp_path / "work"
    assert fetched.read_bytes() == (tmp_path / "mine.mmdb").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["nothing.mmdb", ""])
def test_setting_is_wrong_when_there_is_no_such_file(tmp_path: Path, name: str) -> None:
    """A path that leads nowhere, or to a folder, is not tried again."""
    with pytest.raises(SettingsError, match=r"\*Source\* of the run, or GEO_IP_UPDATE_SOURCE"):
        FileSource(str(tmp_path / name)).fetch(tmp_path, None)


def test_url_is_downloaded(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """What the server gives, as it is: not compressed on the way."""
    server = make_raw_server(lambda _: http(200, CONTENT))
    fetched = from_url(server).fetch(tmp_path, None)
    assert fetched is not None
    assert fetched.read_bytes() == CONTENT
    assert b"GET /City.mmdb " in server.requests[0]
    assert b"accept-encoding: identity" in server.requests[0].lower()


@pytest.mark.parametrize(("status", "error"), [
    (401, SettingsError), (403, SettingsError), (404, SettingsError), (410, SettingsError),
    (429, RefreshFailed), (500, RefreshFailed), (503, RefreshFailed), (204, RefreshFailed),
])  # fmt: skip
def test_download_fails_when_the_server_refuses(
    tmp_path: Path, make_raw_server: MakeServer, status: int, error: type[Exception]
) -> None:
    """What another try may mend is told from what it cannot; either way the answer is no database."""
    server = make_raw_server(lambda _: http(status, b""))
    with pytest.raises(error, match=f"HTTP {status}"):
        from_url(server).fetch(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(http(200, CONTENT)[:-100], id="less-than-said"),
        pytest.param(chunked(CONTENT[:100]), id="a-chunk-missing"),
    ],
)
def test_download_fails_when_the_connection_ends(tmp_path: Path, make_raw_server: MakeServer, answer: bytes) -> None:
    """Half a file is never taken for a whole one."""
    server = make_raw_server(lambda _: answer)
    with pytest.raises(RefreshFailed):
        from_url(server).fetch(tmp_path, None)


def test_download_fails_when_nobody_listens(tmp_path: Path) -> None:
    """A server that is down may come back."""
    with pytest.raises(RefreshFailed, match="ConnectionError"):
        UrlSource("http://127.0.0.1:9/City.mmdb").fetch(tmp_path, None)


def test_download_fails_when_the_server_is_silent(
    tmp_path: Path, make_raw_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts and says nothing does not hold the task."""
    monkeypatch.setattr(sources, "SILENCE_SECONDS", 0.2)
    asked_enough = threading.Event()

    def answer(_: bytes) -> bytes:
        asked_enough.wait()
        return b""

    source = from_url(make_raw_server(answer))
    try:
        with pytest.raises(RefreshFailed, match="Timeout"):
            source.fetch(tmp_path, None)
    finally:
        asked_enough.set()


@contextmanager
def dripping(pieces: Iterable[bytes], pause_seconds: float = 0.05) -> Iterator[str]:
    """The address of a server that takes connections and sends these pieces on each, with pauses between them."""
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):  # whoever asked has gone
                    for piece in pieces:
                        connection.sendall(piece)
                        if done.wait(pause_seconds):
                            return

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/City.mmdb"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)


DRIPS: dict[str, Callable[[], Iterable[bytes]]] = {
    "headers": lambda: [b"HTTP/1.1 200 OK\r\n", *repeat(b"x", 10_000)],
    "more-headers": lambda: [b"HTTP/1.1 200 OK\r\n", *(b"X-%d: y\r\n" % n for n in range(10_000))],
    "announcements": lambda: repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 10_000),
    "early-hints": lambda: repeat(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 10_000),
    "body": lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", *repeat(b"x", 10_000)],
    "body-without-length": lambda: [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", *repeat(b"x", 10_000)],
    "chunks": lambda: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *repeat(b"1\r\nx\r\n", 10_000)],
    "chunk-extension": lambda: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", *repeat(b"x", 10_000)],
}


@pytest.mark.parametrize("what", DRIPS)
def test_download_ends_when_a_server_drips(tmp_path: Path, what: str) -> None:
    """Whatever it sends little by little: the time that is allowed is that of the whole download."""
    began = time.monotonic()
    with dripping(DRIPS[what]()) as address, pytest.raises(RefreshFailed):
        UrlSource(address, timeout_seconds=1).fetch(tmp_path, None)
    assert time.monotonic() - began < 5


def test_maxmind_ends_when_its_server_drips(tmp_path: Path) -> None:
    """The same holds for a server of MaxMind's kind."""
    began = time.monotonic()
    with dripping(DRIPS["headers"]()) as address:
        login = Account("42", "a-key", address.removesuffix("/City.mmdb"))
        with pytest.raises(RefreshFailed, match="Timeout"):
            MaxMindSource(login, EDITION, timeout_seconds=1).fetch(tmp_path, None)
    assert time.monotonic() - began < 5


def test_download_fails_when_it_is_sent_from_one_place_to_the_next(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """A circle of redirects ends; so does one that leads to something else than a server."""
    circle = make_raw_server(lambda _: http(302, b"", "Location: /City.mmdb"))
    with pytest.raises(RefreshFailed, match="TooManyRedirects"):
        from_url(circle).fetch(tmp_path, None)
    local = make_raw_server(lambda _: http(302, b"", "Location: file:///etc/passwd"))
    with pytest.raises((RefreshFailed, SettingsError)):
        from_url(local).fetch(tmp_path, None)


def test_redirect_is_followed(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """Many a download link leads to a store of files; the login stays with the server that it was given for."""
    store = make_raw_server(lambda _: http(200, CONTENT))
    link = make_raw_server(lambda _: http(302, b"", f"Location: {store.base_url}/store"))
    address = link.base_url.replace("://", "://me:secret@").replace("127.0.0.1", "localhost")
    fetched = UrlSource(f"{address}/City.mmdb").fetch(tmp_path, None)
    assert fetched.read_bytes() == CONTENT
    assert b"Basic" in link.requests[0]
    assert b"Basic" not in store.requests[0]


@pytest.mark.parametrize("how", ["said", "unsaid"])
def test_download_is_refused_when_it_is_too_large(tmp_path: Path, make_raw_server: MakeServer, how: str) -> None:
    """By its length, before anything is fetched, or when more comes than was said; the refusal names the setting."""
    endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(3 * 1024**2)
    server = make_raw_server(lambda _: http(200, bytes(3 * 1024**2)) if how == "said" else endless)
    source = named(f"{server.base_url}/City.mmdb", GeoSettings(max_database_mib=2), nobody)
    with pytest.raises(DatabaseRefused, match="GEO_IP_MAX_DATABASE_MIB=2 "):
        source.fetch(tmp_path, None)
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert written == 0 if how == "said" else written <= 2 * 1024**2


def test_file_is_refused_when_it_is_too_large(tmp_path: Path) -> None:
    """A file on this machine may be endless, too."""
    (tmp_path / "mine.mmdb").write_bytes(bytes(3 * 1024**2))
    with pytest.raises(DatabaseRefused, match="GEO_IP_MAX_DATABASE_MIB=2 "):
        named(str(tmp_path / "mine.mmdb"), GeoSettings(max_database_mib=2), nobody).fetch(tmp_path, None)


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_file_is_refused_when_it_is_none(tmp_path: Path, kind: str) -> None:
    """Opening a FIFO would wait for whoever writes into it, and a device never ends."""
    path = tmp_path / "City.mmdb"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        make: dict[str, Callable[[], object]] = {
            "fifo": lambda: os.mkfifo(path),
            "device": lambda: path.symlink_to("/dev/zero"),
            "socket": lambda: listener.bind(str(path)),
        }
        make[kind]()
        with pytest.raises(DatabaseRefused, match="not a file"):
            FileSource(str(path)).fetch(tmp_path, None)


@pytest.mark.parametrize("source", ["http://", "http://[::1", "https://host:port/x", "http://user@:1/x"])
def test_setting_is_wrong_when_the_url_is_none(tmp_path: Path, source: str) -> None:
    """What cannot be asked is not tried again."""
    with pytest.raises(SettingsError, match="GEO_IP_UPDATE_SOURCE"):
        named(source, GeoSettings(), nobody).fetch(tmp_path, None)


def test_download_fails_when_it_takes_too_long(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """A server that sends, but slowly, does not hold the task either."""
    server = make_raw_server(lambda _: http(200, CONTENT))
    with pytest.raises(RefreshFailed, match="GEO_IP_DOWNLOAD_TIMEOUT_SEC"):
        UrlSource(f"{server.base_url}/City.mmdb", timeout_seconds=0).fetch(tmp_path, None)


def test_login_of_a_url_is_used_and_not_told(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """Neither the name of the source nor an error, nor what caused it, tells a password or a key."""
    server = make_raw_server(lambda _: http(200, CONTENT)[:-1])
    address = server.base_url.replace("://", "://me:secret@") + "/City.mmdb?key=secret"
    source = named(address, GeoSettings(), nobody)
    with pytest.raises(RefreshFailed) as failure:
        source.fetch(tmp_path, None)
    assert b"Basic " + base64.b64encode(b"me:secret") in server.requests[0]
    assert b"key=secret" in server.requests[0]
    assert source.name == without_login(address) == f"{server.base_url}/City.mmdb"
    assert "secret" not in str(failure.value)
    assert failure.value.__suppress_context__


def test_checksum_is_checked_when_one_is_given(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """`#sha256=` behind a URL or a path: the file as it lies there has this sum, or is not taken."""
    server = make_raw_server(lambda _: http(200, CONTENT))
    (tmp_path / "mine.mmdb").write_bytes(CONTENT)
    for good in (from_url(server, f"#sha256={SHA256.upper()}"), FileSource(str(tmp_path / "mine.mmdb"), SHA256)):
        assert good.fetch(tmp_path, None) is not None
    wrong = "0" * 64
    for bad in (from_url(server, f"#sha256={wrong}"), FileSource(str(tmp_path / "mine.mmdb"), wrong)):
        with pytest.raises(RefreshFailed, match=f"sha256 is {SHA256}, not {wrong}"):
            bad.fetch(tmp_path, None)


def test_checksum_is_refused_when_it_is_none() -> None:
    """A sum that is too short protects from nothing."""
    with pytest.raises(SettingsError, match="64 hexadecimal"):
        named("/data/City.mmdb#sha256=abc", GeoSettings(), nobody)


def json_answer(body: bytes) -> bytes:
    """An answer that says that it is JSON."""
    return http(200, body, "Content-Type: application/json")


# MaxMind -------------------------------------------------------------------------------------------------------------


def account(server: RawServer, **changed: str) -> Account:
    """An account at a server."""
    return Account(**{"account_id": "42", "license_key": "a-key", "host": server.base_url, **changed})


def test_maxmind_is_asked_with_the_account(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """The source `maxmind` downloads the edition with account number and licence key."""
    server = make_raw_server(maxmind(CONTENT))
    source = named("maxmind", GeoSettings(), lambda: account(server))
    fetched = source.fetch(tmp_path, None)
    assert fetched is not None
    assert fetched.read_bytes() == CONTENT
    login = base64.b64encode(b"42:a-key")
    assert [b"Authorization: Basic " + login in request for request in server.requests] == [True, True]


def test_maxmind_is_not_asked_for_what_is_there(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """The same checksum: nothing is downloaded, since MaxMind counts downloads."""
    server = make_raw_server(maxmind(CONTENT))
    (tmp_path / "present.mmdb").write_bytes(CONTENT)
    assert MaxMindSource(account(server), EDITION).fetch(tmp_path, tmp_path / "present.mmdb") is None
    assert len(server.requests) == 1


def test_maxmind_gives_a_newer_one_when_there_is_one(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """Another checksum: it is downloaded, and the one in use is left as it is."""
    server = make_raw_server(maxmind(CONTENT))
    (tmp_path / "present.mmdb").write_bytes(b"older")
    fetched = MaxMindSource(account(server), EDITION).fetch(tmp_path, tmp_path / "present.mmdb")
    assert fetched is not None
    assert (fetched.read_bytes(), (tmp_path / "present.mmdb").read_bytes()) == (CONTENT, b"older")


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        pytest.param(lambda _: http(401), SettingsError, "GEO_IP_MAXMIND_CONN_ID", id="wrong-key"),
        pytest.param(lambda _: http(403), SettingsError, "HTTP 403; check GEO_IP_EDITION", id="not-yours"),
        pytest.param(lambda _: http(404), SettingsError, "HTTP 404; check GEO_IP_EDITION", id="no-such-edition"),
        pytest.param(lambda _: http(500), RefreshFailed, "HTTP 500", id="server-error"),
        pytest.param(lambda _: http(429), RefreshFailed, "HTTP 429", id="too-many-downloads"),
        pytest.param(lambda _: b"", RefreshFailed, "maxmind GeoLite2-City: ", id="gone"),
        pytest.param(maxmind(CONTENT, md5="1" * 32), RefreshFailed, "HashMismatch", id="checksum"),
        pytest.param(
            maxmind(CONTENT, download=http(200, packed(CONTENT)[:40])),
            RefreshFailed,
            "maxmind GeoLite2-City: ",
            id="cut-off-archive",
        ),
        pytest.param(
            maxmind(CONTENT, download=http(200, packed(CONTENT))[:-9]),
            RefreshFailed,
            "maxmind GeoLite2-City: ",
            id="cut-off-answer",
        ),
        pytest.param(lambda _: http(200, b"<html>"), RefreshFailed, "maxmind GeoLite2-City: ", id="no-json"),
        pytest.param(lambda _: json_answer(b"[1]"), RefreshFailed, "maxmind GeoLite2-City: ", id="another-json"),
        pytest.param(lambda _: json_answer(b"{"), RefreshFailed, "maxmind GeoLite2-City: ", id="half-a-json"),
        pytest.param(
            lambda _: json_answer(b'{"databases": [{"edition_id": 1, "date": 2, "md5": 3}]}'),
            RefreshFailed,
            "maxmind GeoLite2-City: ",
            id="numbers",
        ),
        pytest.param(
            maxmind(CONTENT, download=http(200, packed(bytes(100 * 1024**2)))),
            DatabaseRefused,
            "maxmind GeoLite2-City: .* 20 times",
            id="unpacks-to-100-mib",
        ),
    ],
)
def test_maxmind_fails_when_its_server_does(
    tmp_path: Path, make_raw_server: MakeServer, answer: Answer, error: type[Exception], message: str
) -> None:
    """Wrong accounts and editions are told from what another try may mend."""
    with pytest.raises(error, match=message):
        MaxMindSource(account(make_raw_server(answer)), EDITION).fetch(tmp_path, None)


@pytest.mark.parametrize("edition", ["", "../City", "Geo City"])
def test_setting_is_wrong_when_the_edition_is_none(tmp_path: Path, edition: str) -> None:
    """An edition's name becomes part of file names and addresses."""
    with pytest.raises(SettingsError, match="GEO_IP_EDITION"):
        MaxMindSource(Account("42", "a-key"), edition).fetch(tmp_path, None)


@pytest.mark.parametrize("changed", [{"account_id": "me"}, {"account_id": ""}, {"license_key": ""}])
def test_maxmind_is_not_asked_when_the_account_is_none(
    tmp_path: Path, make_raw_server: MakeServer, changed: dict[str, str]
) -> None:
    """A connection without number or key is told by its setting."""
    server = make_raw_server(maxmind(CONTENT))
    with pytest.raises(SettingsError, match="GEO_IP_MAXMIND_CONN_ID"):
        MaxMindSource(account(server, **changed), EDITION).fetch(tmp_path, None)
    assert server.requests == []


def test_maxmind_fails_when_its_server_is_silent(tmp_path: Path, make_raw_server: MakeServer) -> None:
    """A server that accepts and says nothing does not hold the task."""
    asked_enough = threading.Event()

    def answer(_: bytes) -> bytes:
        asked_enough.wait()
        return b""

    source = MaxMindSource(account(make_raw_server(answer)), EDITION, timeout_seconds=0.3)
    try:
        with pytest.raises(RefreshFailed, match="Timeout"):
            source.fetch(tmp_path, None)
    finally:
        asked_enough.set()


@pytest.mark.parametrize("host", ["xn--", "...", "a" * 70 + ".test"])
def test_host_that_no_name_can_be_is_refused(tmp_path: Path, make_raw_server: MakeServer, host: str) -> None:
    """In the address itself, and in that of a redirect."""
    server = make_raw_server(lambda _: http(302, b"", f"Location: http://{host}/"))
    for url in (f"http://{host}/City.mmdb", server.base_url):
        with pytest.raises(SettingsError, match="GEO_IP_UPDATE_SOURCE"):
            UrlSource(url).fetch(tmp_path, None)


@pytest.mark.parametrize("path", ["~nobody-here/City.mmdb", "a\0b"])
def test_path_that_cannot_be_is_refused(tmp_path: Path, path: str) -> None:
    """As a setting, or as a run's parameter."""
    with pytest.raises(SettingsError, match="GEO_IP_UPDATE_SOURCE"):
        FileSource(path).fetch(tmp_path, None)
