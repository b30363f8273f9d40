"""The routes of batches, dead letters and partials, without services: who may ask, how often, and what is no
question."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Self

import psycopg
import pytest
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from fastapi import HTTPException
from fastapi.testclient import TestClient

from enrichment.batch import Batch, OffsetRange
from enrichment.inspection.asked import Conservation, RecentDead, Work
from enrichment.page import app, batches, reading
from enrichment.page.app import make_app
from enrichment.settings import load
from enrichment.store.jobs import JobState

AT = datetime(2026, 1, 15, 10, tzinfo=UTC)
CONTENTS = ["/api/dead-letters", "/api/batch/check?id=b"]
UNREACHABLE = HTTPException(503, "Kafka: no route")
MakeClient = Callable[..., TestClient]


class Reading:
    """Stands for the process that reads topics: what it was asked, and what happens then, or the JSON that it gives."""

    def __init__(self) -> None:
        self.asked: list[Work] = []
        self.happens: list[Exception | Callable[[], object]] = []

    async def run(self, work: Work, _request: object = None) -> bytes:
        """See `Scans`."""
        self.asked.append(work)
        happens = self.happens.pop(0) if self.happens else None
        if isinstance(happens, Exception):
            raise happens
        if happens is not None:
            await asyncio.to_thread(happens)
        return b"[%d]" % len(self.asked)


@pytest.fixture
def reading_process(monkeypatch: pytest.MonkeyPatch) -> Reading:
    """Of the pages that the test makes."""
    made = Reading()
    monkeypatch.setattr(app, "Scans", lambda _: made)
    return made


class Opened:
    """Resources without services."""

    settings = load()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    @contextmanager
    def query_connection(self, _: float) -> Iterator[SimpleNamespace]:
        """A connection that nobody asks anything."""
        yield SimpleNamespace(transaction=self.__class__)


@pytest.fixture
def make_client(monkeypatch: pytest.MonkeyPatch, reading_process: Reading) -> MakeClient:
    """The browser of somebody who may read everything, or all but task logs."""

    def make(*, reads_logs: bool = True) -> TestClient:
        def requires_access_dag(**how: Any) -> Any:
            def refuse() -> None:
                if how.get("access_entity") is DagAccessEntity.TASK_LOGS and not reads_logs:
                    raise HTTPException(403)

            return refuse

        monkeypatch.setattr(reading, "requires_access_dag", requires_access_dag)
        return TestClient(make_app(Opened))  # type: ignore[arg-type]

    return make


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The row of a published batch, which the ledger gives for every id but `none`."""
    batch = Batch("b", "in", "group", 0, (OffsetRange(0, 0, 10),))
    found = SimpleNamespace(batch=batch, state=JobState.PUBLISHED, is_published=True, claimed_at=AT, messages_dead=0)
    ledger = SimpleNamespace(get=lambda batch_id: None if batch_id == "none" else found)
    monkeypatch.setattr(batches, "Ledger", lambda _: ledger)
    return found


def test_contents_need_the_right_to_read_task_logs(make_client: MakeClient, job: SimpleNamespace) -> None:
    """Who may read the DAG alone sees the page, and nothing that messages hold."""
    answers = {
        reads_logs: {route: make_client(reads_logs=reads_logs).get(route).status_code for route in ["/", *CONTENTS]}
        for reads_logs in (True, False)
    }
    assert answers[True] == dict.fromkeys(["/", *CONTENTS], 200)
    assert answers[False] == {"/": 200, **dict.fromkeys(CONTENTS, 403)}


def test_all_who_look_share_a_look_at_dead_letters(make_client: MakeClient, reading_process: Reading) -> None:
    """Kafka is asked every ten seconds at most; a look that failed is not kept."""
    reading_process.happens = [UNREACHABLE]
    client = make_client()
    failed = client.get("/api/dead-letters")
    assert (failed.status_code, failed.json()) == (503, {"detail": "Kafka: no route"})
    assert [client.get("/api/dead-letters").json() for _ in range(2)] == [[2], [2]]
    assert reading_process.asked == [RecentDead()] * 2


@pytest.mark.parametrize(
    ("route", "status", "said"),
    [
        ("/api/batches?offset=7", 422, "without its partition"),
        ("/api/batches?state=odd", 422, "'claimed', 'drained', 'published', 'failed' or 'dry-run'"),
        ("/api/batches?lane=-1", 422, "greater than or equal to 0"),
        ("/api/batch?id=none", 404, "the ledger has no batch none"),
        ("/api/batch/check?id=none", 404, "the ledger has no batch none"),
        ("/api/partials?state=odd", 422, "'given-up'"),
    ],
)
def test_wrong_questions_are_answered_in_words(
    make_client: MakeClient, job: SimpleNamespace, route: str, status: int, said: str
) -> None:
    """What is wrong with them."""
    answer = make_client().get(route)
    assert answer.status_code == status
    assert said in answer.text


def test_text_that_no_database_holds_is_the_askers_mistake(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL itself is well; an error of another kind says that it is not."""

    def refuse(error: psycopg.Error) -> Any:
        def get(_batch_id: str) -> None:
            raise error

        return lambda _: SimpleNamespace(get=get)

    for error, status, said in [
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), 422, "NUL"),
        (psycopg.OperationalError("too many connections"), 503, "PostgreSQL: too many connections"),
    ]:
        monkeypatch.setattr(batches, "Ledger", refuse(error))
        answer = make_client().get("/api/batch?id=%00")
        assert (answer.status_code, said in answer.json()["detail"]) == (status, True)


def test_one_batch_is_checked_at_a_time(
    make_client: MakeClient, job: SimpleNamespace, reading_process: Reading
) -> None:
    """It may take long: a second one is told to wait; the next may ask, also after a check that failed."""
    route, within = "/api/batch/check?id=b", []
    with make_client() as client:
        reading_process.happens = [lambda: within.append(client.get(route)), UNREACHABLE]
        assert client.get(route).json() == [1]
        assert (within[0].status_code, within[0].json()["detail"]) == (429, batches.ANOTHER_CHECK)
        assert client.get(route).status_code == 503
        assert client.get(route).json() == [3]
    assert reading_process.asked == [Conservation(job.batch, AT, has_dead_letters=False)] * 3


def test_batch_that_cannot_be_checked_is_not(make_client: MakeClient, job: SimpleNamespace) -> None:
    """It says why."""
    job.is_published = False
    answer = make_client().get("/api/batch/check?id=b")
    assert (answer.status_code, answer.json()["detail"]) == (
        409, "this batch cannot be checked by itself: it is not published",
    )  # fmt: skip
