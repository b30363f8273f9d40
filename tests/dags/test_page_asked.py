"""Who may post to the page and see what messages hold, and what is no question."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient

from enrichment.inspection.browsing import positions_text
from enrichment.page import reading
from enrichment.page.app import make_app
from enrichment.page.messages import read_positions, read_time
from enrichment.page.preview import MOST_BYTES, body_of, check_origin
from enrichment.page.search import read_origin


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "topics"),
        ("GET", "messages"),
        ("GET", "message"),
        ("GET", "search"),
        ("GET", "fates"),
        ("GET", "redriven"),
        ("POST", "preview"),
    ],
)
def test_what_messages_hold_needs_the_right_to_logs(method: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To see the page is not enough."""

    def requires_access_dag(access_entity: DagAccessEntity | None = None, **_: Any) -> Any:
        def refuse() -> None:
            if access_entity is DagAccessEntity.TASK_LOGS:
                raise HTTPException(403)

        return refuse

    monkeypatch.setattr(reading, "requires_access_dag", requires_access_dag)
    client = TestClient(make_app(lambda: None))  # type: ignore[arg-type, return-value]
    assert client.request(method, f"/api/{path}").status_code == 403
    assert client.get("/").status_code == 200


def posted(*parts: bytes, **headers: str) -> Request:
    """A request with this body."""

    async def stream() -> Any:
        for part in parts:
            yield part

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return cast(Request, SimpleNamespace(stream=stream, headers=named))


def test_body_is_bounded() -> None:
    """The rest is not read."""
    assert asyncio.run(body_of(posted(b"a" * MOST_BYTES))) == b"a" * MOST_BYTES
    with pytest.raises(HTTPException) as refused:
        asyncio.run(body_of(posted(b"a" * MOST_BYTES, b"b")))
    assert (refused.value.status_code, "1,000,000" in refused.value.detail) == (413, True)


@pytest.mark.parametrize(
    "headers",
    [{}, {"sec_fetch_site": "same-origin"}, {"origin": "https://air.flow", "host": "air.flow"},
     {"sec_fetch_site": "same-origin", "origin": "https://air.flow", "host": "internal:8080"}],
    ids=["a program", "the page", "an older browser", "behind a proxy"],
)  # fmt: skip
def test_page_itself_may_post(headers: dict[str, str]) -> None:
    """And programs with a token."""
    check_origin(posted(**headers))


@pytest.mark.parametrize(
    "headers",
    [{"sec_fetch_site": "cross-site"}, {"sec_fetch_site": "same-site"}, {"origin": "https://evil", "host": "air.flow"},
     {"origin": "null", "host": "air.flow"}],
    ids=["another site", "another host of the site", "an older browser", "a hidden page"],
)  # fmt: skip
def test_pages_of_other_sites_may_not_post(headers: dict[str, str]) -> None:
    """Although the browser sends the cookie along."""
    with pytest.raises(HTTPException) as refused:
        check_origin(posted(**headers))
    assert refused.value.status_code == 403


def test_positions_are_read_as_they_are_written() -> None:
    """None from nothing, and no guess from anything else."""
    assert read_positions(positions_text({1: 5, 0: 7})) == {0: 7, 1: 5}
    assert read_positions("") is None
    for odd in ("x", "1:", "1:2:3", "1:2;3:4"):
        with pytest.raises(HTTPException):
            read_positions(odd)


def test_times_include_their_millisecond() -> None:
    """In UTC where they name no zone."""
    assert read_time("2023-11-14T22:13:20Z") == read_time("2023-11-14T22:13:20") == 1_700_000_000_001
    assert read_time("") is None
    with pytest.raises(HTTPException):
        read_time("yesterday")


def test_origin_is_a_position() -> None:
    """Its partition and time tell where outputs are."""
    assert read_origin("origin", "a/b/3/17") == ("a/b", 3, 17)
    assert read_origin("trace_id", "a/b") is None
    for odd in ("17", "topic/x/1", "topic/1/-1", "/1/2"):
        with pytest.raises(HTTPException):
            read_origin("origin", odd)
