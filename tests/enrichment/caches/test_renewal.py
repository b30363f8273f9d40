"""Renewal: which keys it takes, what it writes of them, and that a source that is down costs only that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from enrichment import sql
from enrichment.caches.renewal import Renewed
from enrichment.enrichers.business import BUSINESS
from enrichment.enrichers.geo import GEO
from enrichment.enrichers.user import USER
from enrichment.enrichers.user.tries import version_of
from enrichment.housekeeping.caches import renew_cache
from enrichment.resources import Resources
from enrichment.settings import load
from enrichment.sources.connections import HttpEndpoint, HttpOptions
from tests.fixtures.user_service import UserService

Connection = psycopg.Connection[Any]
Row = tuple[str, str | None, int, bool]


@pytest.fixture
def resources(
    postgres_connection: Connection, postgres_uri: str, user_service: UserService, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[], Resources]]:  # fmt: skip
    """What tasks work with, over the real database, query, geo database and user-profile service; no broker."""
    monkeypatch.setenv("USER_SERVICE_RETRIES", "0")
    monkeypatch.setenv("USER_SERVICE_BACKOFF_SEC", "0")
    postgres_connection.execute("SELECT set_config('demo.requests', '10', false)")
    postgres_connection.execute(sql.load("demo/business"))
    # What this module puts into the table is of this service: profiles of another one are not renewed from it.
    version = version_of(user_service.base_url, HttpOptions())
    postgres_connection.execute(f"ALTER TABLE user_profile_cache ALTER COLUMN version SET DEFAULT '{version}'".encode())
    opened = []

    def make() -> Resources:
        opened.append(
            Resources(
                load(), kafka_config=dict, postgres_parameters=lambda: conninfo_to_dict(postgres_uri),
                http_endpoint=lambda _conn_id, _setting: HttpEndpoint(user_service.base_url),
                staging_root=lambda: tmp_path,
            )
        )  # fmt: skip
        return opened[-1]

    yield make
    for each in opened:
        each.__exit__(None)


def cache(
    admin: Connection, user: str, *, fetched: str = "50 minutes", used: str = "10 minutes", expires: str = "10 minutes",
    company: str = "Old Corp", state: str = "found",
) -> None:  # fmt: skip
    """A cached user, fetched and last used an interval ago, that expires in an interval."""
    admin.execute(
        "INSERT INTO user_profile_cache (user_id, state, reason, company, fetched_at, last_used_at, expires_at)"
        " VALUES (%s, %s, 'why', %s, now() - %s::interval, now() - %s::interval, now() + %s::interval)",
        [user, state, company, fetched, used, expires],
    )


def users(admin: Connection) -> dict[str, Row]:
    """State, company, minutes to live, and whether it was used within the last minute, by user."""
    return {
        user: (state, company, round(minutes), used)
        for user, state, company, minutes, used in admin.execute(
            "SELECT user_id, state, company, extract(EPOCH FROM expires_at - now())::double precision / 60,"
            " last_used_at > now() - interval '1 minute' FROM user_profile_cache"
        )
    }


def test_keys_in_use_are_renewed_before_they_expire(
    resources: Callable[[], Resources], postgres_connection: Connection, user_service: UserService
) -> None:
    """A key used again since it was fetched is asked for anew and lives its whole time again, its last use unchanged;
    the source is asked for all of them at once, and for no other."""
    cache(postgres_connection, "user-123")
    cache(postgres_connection, "user-456")
    cache(postgres_connection, "used once", used="50 minutes")
    cache(postgres_connection, "far from expiry", expires="40 minutes")
    cache(postgres_connection, "expired", expires="-1 minute")
    assert renew_cache(resources(), USER) == Renewed(keys=2, found=2)
    found = users(postgres_connection)
    assert found["user-123"] == ("found", "Acme Corp", 60, False)
    assert found["user-456"] == ("found", "Globex", 60, False)
    assert found["used once"] == ("found", "Old Corp", 10, False)
    assert found["far from expiry"] == ("found", "Old Corp", 40, False)
    assert found["expired"] == ("found", "Old Corp", -1, False)
    assert user_service.stats()["requests"] == 1


def test_a_renewed_key_is_not_renewed_again_when_nobody_used_it(
    resources: Callable[[], Resources], postgres_connection: Connection
) -> None:
    """Renewal is no use: a key that went out of use expires, one that is used again is renewed again."""
    cache(postgres_connection, "user-123")
    renew_cache(resources(), USER)
    postgres_connection.execute("UPDATE user_profile_cache SET expires_at = now() + interval '5 minutes'")
    assert renew_cache(resources(), USER) == Renewed()
    postgres_connection.execute("UPDATE user_profile_cache SET last_used_at = now() + interval '1 second'")
    assert renew_cache(resources(), USER) == Renewed(keys=1, found=1)


def test_a_key_that_is_gone_at_the_source_becomes_absent_for_its_shorter_time(
    resources: Callable[[], Resources], postgres_connection: Connection
) -> None:
    """Negative answers are kept as negative answers, as long as these are."""
    cache(postgres_connection, "no such user")
    assert renew_cache(resources(), USER) == Renewed(keys=1, absent=1)
    assert users(postgres_connection)["no such user"] == ("absent", None, 10, False)


def test_rows_stay_as_they_are_when_the_source_is_down(
    resources: Callable[[], Resources], postgres_connection: Connection, user_service: UserService
) -> None:
    """A source that fails costs only the renewal: the entries live out their time, and the failure is counted."""
    cache(postgres_connection, "user-123")
    user_service.set_fault(status=500)
    assert renew_cache(resources(), USER) == Renewed(keys=1, failed=1)
    assert users(postgres_connection)["user-123"] == ("found", "Old Corp", 10, False)


def test_at_most_so_many_are_renewed_those_used_last_first(
    resources: Callable[[], Resources], postgres_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound holds, and goes to the keys that were used last."""
    monkeypatch.setenv("CACHE_REFRESH_KEYS", "2")
    for user, used in [("user-1", "3 minutes"), ("user-2", "1 minute"), ("user-3", "2 minutes")]:
        cache(postgres_connection, user, used=used)
    assert renew_cache(resources(), USER).keys == 2
    assert users(postgres_connection)["user-1"][2] == 10


def test_nothing_is_renewed_when_it_is_off_or_dry(
    resources: Callable[[], Resources], postgres_connection: Connection, user_service: UserService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A dry run counts; the setting 0 does nothing at all. The source is not asked."""
    cache(postgres_connection, "user-123")
    assert renew_cache(resources(), USER, dry_run=True) == Renewed(keys=1)
    monkeypatch.setenv("CACHE_REFRESH_KEYS", "0")
    assert renew_cache(resources(), USER) == Renewed()
    assert user_service.stats()["requests"] == 0
    assert users(postgres_connection)["user-123"][2] == 10


def test_places_and_contexts_are_renewed_from_their_own_sources(
    resources: Callable[[], Resources], postgres_connection: Connection
) -> None:
    """Rows of the present geo database and query are renewed from these; those of another version give way."""
    opened = resources().enrichers
    geo_version, query_version = opened.source(GEO).source.version, opened.source(BUSINESS).source.version
    for table, key, name, version in [
        ("geo_ip_cache", "ip_address", "8.8.8.8", geo_version), ("geo_ip_cache", "ip_address", "1.1.1.1", "old build"),
        ("business_context_cache", "request_id", "req-000001", query_version),
        ("business_context_cache", "request_id", "req-000002", "old query"),
    ]:  # fmt: skip
        postgres_connection.execute(
            f"INSERT INTO {table} ({key}, state, version, fetched_at, last_used_at, expires_at) VALUES"
            " (%s, 'found', %s, now() - interval '50 minutes', now() - interval '9 minutes',"
            " now() + interval '9 minutes')".encode(),
            [name, version],
        )
    assert renew_cache(resources(), GEO) == Renewed(keys=1, found=1)
    assert renew_cache(resources(), BUSINESS) == Renewed(keys=1, found=1)
    places = postgres_connection.execute(
        "SELECT ip_address, country, expires_at > now() + interval '59 minutes' FROM geo_ip_cache ORDER BY 1"
    ).fetchall()
    assert places == [("1.1.1.1", None, False), ("8.8.8.8", "United States", True)]
    contexts = postgres_connection.execute(
        "SELECT request_id, unit IS NOT NULL, expires_at > now() + interval '29 minutes'"
        " FROM business_context_cache ORDER BY 1"
    ).fetchall()
    assert contexts == [("req-000001", True, True), ("req-000002", False, False)]
