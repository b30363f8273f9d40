"""Warnings in the note of a run, by Airflow's own API."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest

from enrichment.orchestration.notes import MORE, NOTE_LENGTH, add_note, joined
from tests.fixtures.raw_server import Answer, RawServer, http

RUN_ID = "scheduled__2024-01-15T10:00:00+00:00"


def connect(monkeypatch: pytest.MonkeyPatch, base_url: str, **login: str) -> None:
    """The connection, as the environment gives it."""
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", json.dumps({"conn_type": "http", "host": base_url, **login}))


def parts(request: bytes) -> tuple[str, str, dict[str, str]]:
    """First line, authorisation and content of a request."""
    first, *lines, body = request.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return first.removesuffix(" HTTP/1.1"), headers.get("authorization", ""), json.loads(body or "{}")


def test_note_is_added_to_what_stands_there(
    make_raw_server: Callable[[Answer], RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the login's token: what somebody wrote stays, a warning is said once."""

    def answer(request: bytes) -> bytes:
        return http(201, b'{"access_token": "secret"}') if b"/auth/token" in request else http(200, b'{"note": "mine"}')

    server = make_raw_server(answer)
    connect(monkeypatch, server.base_url, login="admin", password="pw")
    add_note("airflow_api", "dag", RUN_ID, ["gone soon", "gone soon", "mine"])
    path = "/api/v2/dags/dag/dagRuns/scheduled__2024-01-15T10%3A00%3A00%2B00%3A00"
    assert [parts(request) for request in server.requests] == [
        ("POST /auth/token", "", {"username": "admin", "password": "pw"}),
        (f"GET {path}", "Bearer secret", {}),
        (f"PATCH {path}?update_mask=note", "Bearer secret", {"note": "mine\n\ngone soon"}),
    ]


def test_note_by_token_is_not_repeated(
    make_raw_server: Callable[[Answer], RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a login the password is the token; a task that runs again changes nothing."""
    server = make_raw_server(lambda _: http(200, b'{"note": "gone soon"}'))
    connect(monkeypatch, server.base_url, password="token")
    add_note("airflow_api", "dag", RUN_ID, ["gone soon"])
    assert [parts(request)[1] for request in server.requests] == ["Bearer token"]


@pytest.mark.parametrize(
    "answer",
    [http(401), http(500), http(200, b"<html>"), http(200, b"[]"), http(200, b"{}"), b""],
    ids=["401", "500", "html", "list", "no-note", "silence"],
)
def test_note_is_worth_no_failed_task(
    make_raw_server: Callable[[Answer], RawServer], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, answer: bytes,
) -> None:  # fmt: skip
    """An API that does not do as it should is told of in the log."""
    connect(monkeypatch, make_raw_server(lambda _: answer).base_url, password="token")
    add_note("airflow_api", "dag", RUN_ID, ["gone soon"])
    assert "note.failed" in caplog.text


def test_no_connection_no_note(caplog: pytest.LogCaptureFixture) -> None:
    """Who gives no connection is told at most that there is none."""
    with caplog.at_level(logging.INFO):
        add_note("airflow_api", "dag", RUN_ID, ["gone soon"])
    assert "there is no connection airflow_api" in caplog.text


def test_long_note_is_cut_and_says_where_the_rest_is() -> None:
    """The API takes no more than so many characters."""
    note = joined("", ["a" * 600, "b" * 600])
    assert len(note) == NOTE_LENGTH
    assert note.endswith(f"b{MORE}")
    assert joined(note, ["c"]) == note
