"""Circuit breakers whose state all tasks share."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from enrichment.enrichers.user import UserSettings
from enrichment.enrichers.user.api import UserApi
from enrichment.errors import SourceUnavailable
from enrichment.store.breakers import PostgresBreakerStorage
from tests.fixtures.user_service import UserService

REPOSITORY = Path(__file__).parents[3]
SETTINGS = UserSettings(retries=0, breaker_failures=2, breaker_reset_sec=600)
OTHER_PROCESS = """
import sys
import psycopg
from enrichment.enrichers.user.api import UserApi
from enrichment.errors import SourceUnavailable
from enrichment.enrichers.user import UserSettings
from enrichment.store.breakers import PostgresBreakerStorage

dsn, url = sys.argv[1:]
api = UserApi(url, None, UserSettings(retries=0, breaker_failures=2, breaker_reset_sec=600),
              breaker_storage=PostgresBreakerStorage(lambda: psycopg.connect(dsn), "users"))
try:
    print(len(api.fetch_many(["user-1"])))
except SourceUnavailable as refused:
    print(refused.detail)
"""


@contextmanager
def opened(uri: str, name: str = "users") -> Iterator[PostgresBreakerStorage]:
    """A storage as a task has it."""
    storage = PostgresBreakerStorage(lambda: psycopg.connect(uri), name)
    try:
        yield storage
    finally:
        storage.close()


def test_breaker_is_shared_with_another_process(postgres_server: Callable[[], str], user_service: UserService) -> None:
    """One task's failures open the breaker for every other task: none of them asks the service meanwhile. Once the
    reset time is over, whoever asks first closes it for all."""
    uri = postgres_server()

    def other() -> str:
        ran = subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, uri, user_service.base_url],
            capture_output=True, text=True, check=True, cwd=REPOSITORY, env={"PYTHONPATH": "plugins"},
        )  # fmt: skip
        return ran.stdout.strip()

    user_service.set_fault(status=503)
    with (
        opened(uri) as storage,
        closing(UserApi(user_service.base_url, None, SETTINGS, breaker_storage=storage)) as api,
    ):
        with pytest.raises(SourceUnavailable, match="503"):
            api.fetch_many(["user-1"])
        assert "503" in other()  # the second failure in a row, in another process, opens it
        user_service.end_fault()
        before = user_service.stats()
        with pytest.raises(SourceUnavailable, match="circuit breaker is open"):
            api.fetch_many(["user-1"])
        assert "circuit breaker is open" in other()
        assert user_service.stats() == before
        with psycopg.connect(uri) as connection:
            connection.execute("UPDATE circuit_breakers SET opened_at = now() - interval '1 hour'")
        assert other() == "1"
        assert len(api.fetch_many(["user-1"])) == 1
        assert storage.state == "closed"


def test_counters_are_atomic(postgres_server: Callable[[], str]) -> None:
    """Failures that are counted at once are all counted."""
    uri = postgres_server()

    def fail() -> None:
        with opened(uri) as storage:
            for _ in range(50):
                storage.increment_counter()

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened(uri) as storage:
        assert storage.counter == 200


def test_dependencies_do_not_share_a_breaker(postgres_server: Callable[[], str]) -> None:
    """Each has a row of its own, which keeps what it was told."""
    uri, at = postgres_server(), datetime(2024, 1, 15, 10, tzinfo=UTC)
    with opened(uri, "one") as one, opened(uri, "two") as two:
        one.state = "open"
        one.opened_at = at
        one.increment_success_counter()
        two.reset_counter()
        assert (one.state, one.opened_at, one.success_counter, one.counter) == ("open", at, 1, 0)
        assert (two.state, two.opened_at, two.success_counter, two.counter) == ("closed", None, 0, 0)


def unreachable() -> psycopg.Connection[Any]:
    """A database that is not there."""
    raise psycopg.OperationalError("no route to host")


def test_breaker_works_alone_when_the_database_is_out_of_reach(user_service: UserService) -> None:
    """Without the table the process has a breaker of its own, and lookups go on."""
    alone = PostgresBreakerStorage(unreachable, "users")
    with closing(UserApi(user_service.base_url, None, SETTINGS, breaker_storage=alone)) as api:
        assert len(api.fetch_many(["user-1"])) == 1
        user_service.set_fault(status=503)
        for detail in ("503", "503", "circuit breaker is open"):
            with pytest.raises(SourceUnavailable, match=detail):
                api.fetch_many(["user-1"])


def test_breaker_keeps_what_it_knows_when_the_database_goes_away(postgres_server: Callable[[], str]) -> None:
    """A connection that breaks on the way loses nothing of what this process has seen."""
    with opened(postgres_server()) as storage:
        storage.state = "open"
        storage.increment_counter()
        storage.close()
        assert (storage.state, storage.counter) == ("open", 1)
