"""The schema: applied twice and at once, what it refuses, what views and functions say."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from enrichment.enrichers.tables import cache_tables
from enrichment.store.schema import apply_schema
from tests.fixtures.postgres import CACHES

Connection = psycopg.Connection[Any]

OBJECTS = """
    SELECT 'relation', relname, obj_description(oid, 'pg_class') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'function', proname, obj_description(oid, 'pg_proc') FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'trigger', tgname, NULL FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
    ORDER BY 1, 2
"""


def insert(connection: Connection, table: str, **values: Any) -> None:
    """Insert one row; a value that is an `sql:` text is an expression."""
    expressions = [
        v[4:] if isinstance(v, str) and v.startswith("sql:") else f"%({name})s" for name, v in values.items()
    ]
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(expressions)})".encode(), values)


def cached(connection: Connection, table: str, key: str, expires: str, state: str = "found", **values: Any) -> None:
    """Insert a cache row that expires in (or, negative, did before) an interval."""
    insert(
        connection, table, **{CACHES[table]: key}, state=state, reason="no-such" if state == "absent" else None,
        fetched_at="sql:now() - interval '30 days'", expires_at=f"sql:now() + interval '{expires}'", **values,
    )  # fmt: skip


def job(connection: Connection, batch_id: str, **values: Any) -> None:
    """Insert a row of the ledger."""
    defaults = {
        "dag_id": "dag", "run_id": "run", "lane": 0, "topic": "in", "group_id": "group", "settings_fingerprint": "0",
        "ranges": json.dumps([{"partition": 0, "start": 0, "end": 10}]),
    }  # fmt: skip
    insert(connection, "enrichment_jobs", batch_id=batch_id, **{**defaults, **values})


def published(connection: Connection, batch_id: str, messages: int = 10, **values: Any) -> None:
    """Insert a published row of the ledger, all of its messages enriched."""
    counts = {"messages_read": messages, "messages_enriched": messages, "messages_partial": 0, "messages_dead": 0}
    job(connection, batch_id, state="published", **{"published_at": "sql:now()", **counts, **values})


def test_schema_has_what_the_design_names_when_applied(postgres_connection: Connection) -> None:
    """Six tables, five views and three functions are there, each with a comment, and the trigger."""
    found = {(kind, name): comment for kind, name, comment in postgres_connection.execute(OBJECTS)}
    explained = [
        *(("relation", name) for name in (*CACHES, "enrichment_jobs", "enrichment_metrics", "enrichment_audit_log")),
        *(("relation", name) for name in (
            "v_active_geo_cache", "v_user_profile_summary", "v_enrichment_job_stats",
            "v_enrichment_performance_trend", "v_business_risk_distribution",
        )),
        *(("function", name) for name in (
            "clean_expired_geo_cache", "record_enrichment_metric", "get_cache_statistics",
        )),
    ]  # fmt: skip
    assert [each for each in explained if not found.get(each)] == []
    assert ("trigger", "enrichment_jobs_audit_trigger") in found


def test_schema_changes_nothing_when_applied_again(postgres_connection: Connection) -> None:
    """Applying it twice leaves the same objects, and the rows that are there."""
    before = postgres_connection.execute(OBJECTS).fetchall()
    job(postgres_connection, "b")
    apply_schema(postgres_connection, cache_tables())
    apply_schema(postgres_connection, cache_tables())
    assert postgres_connection.execute(OBJECTS).fetchall() == before
    assert postgres_connection.execute("SELECT batch_id FROM enrichment_jobs").fetchall() == [("b",)]


@pytest.mark.parametrize("table", CACHES)
@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"state": "failed"}, "state"),
        ({"state": "absent", "reason": None}, "absent_has_reason"),
        ({"expires_at": "2024-01-01Z"}, "expires_after_fetch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cache_row_is_refused_when_it_makes_no_sense(
    postgres_connection: Connection, table: str, values: dict[str, Any], constraint: str
) -> None:
    """A cache holds what is found or absent, says why it is absent, and expires after it was fetched."""
    row = {"state": "found", "fetched_at": "2024-01-02Z", "expires_at": "2024-01-03Z", **values}
    with pytest.raises(psycopg.errors.CheckViolation, match=f"{table}_{constraint}"):
        insert(postgres_connection, table, **{CACHES[table]: "key"}, **row)


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan")])
def test_risk_is_refused_when_outside_zero_to_one(postgres_connection: Connection, score: float) -> None:
    """A risk score is in [0, 1]."""
    with pytest.raises(psycopg.errors.CheckViolation, match="risk_score"):
        insert(postgres_connection, "business_risks", request_id="req", risk_score=score)


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"state": "lost"}, "state"),
        ({"lane": -1}, "lane"),
        ({"ranges": '[{"partition": 0, "start": 5, "end": 4}]'}, "ranges"),
        ({"ranges": "{}"}, "ranges"),
        ({"messages_read": -1}, "counts"),
        ({"state": "published", "published_at": "sql:now()"}, "balanced"),
        (
            {"state": "published", "published_at": "sql:now()", "messages_read": 2, "messages_enriched": 1,
             "messages_partial": 0, "messages_dead": 0},
            "balanced",
        ),
        ({"state": "dry-run", "messages_read": 0, "messages_enriched": 0, "messages_partial": 0, "messages_dead": 0},
         "dry_run"),
        ({"published_at": "sql:now()"}, "published_at"),
        ({"drained_at": "sql:now() - interval '1 day'"}, "times"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_job_is_refused_when_it_makes_no_sense(
    postgres_connection: Connection, values: dict[str, Any], constraint: str
) -> None:
    """The ledger refuses unknown states, ranges that end before they start, published batches that do not add up."""
    with pytest.raises(psycopg.errors.CheckViolation, match=f"enrichment_jobs_{constraint}"):
        job(postgres_connection, "b", **values)


def test_audit_leaves_no_trace_when_only_the_time_changed(postgres_connection: Connection) -> None:
    """A statement that is repeated is no change: one row for the insert, one for each real change."""
    job(postgres_connection, "b")
    postgres_connection.execute("UPDATE enrichment_jobs SET updated_at = now() + interval '1 second'")
    postgres_connection.execute("UPDATE enrichment_jobs SET state = 'failed', error = 'why'")
    rows = postgres_connection.execute(
        "SELECT action, old_state, new_state, changed_columns FROM enrichment_audit_log ORDER BY audit_id"
    ).fetchall()
    assert [row[:3] for row in rows] == [("INSERT", None, "claimed"), ("UPDATE", "claimed", "failed")]
    assert rows[1][3] == ["error", "state"]


def test_audit_is_undone_when_the_change_is(postgres_connection: Connection) -> None:
    """The audit tells what happened: a change that is rolled back did not."""
    with postgres_connection.transaction(force_rollback=True):
        job(postgres_connection, "b")
    assert postgres_connection.execute("SELECT count(*) FROM enrichment_audit_log").fetchall() == [(0,)]


def test_active_geo_cache_leaves_out_what_expired(postgres_connection: Connection) -> None:
    """Found and absent addresses that have not expired, and no others."""
    cached(postgres_connection, "geo_ip_cache", "8.8.8.8", "1 minute", country="United States")
    cached(postgres_connection, "geo_ip_cache", "192.0.2.1", "1 minute", state="absent")
    cached(postgres_connection, "geo_ip_cache", "1.1.1.1", "-1 second")
    rows = postgres_connection.execute(
        "SELECT ip_address, state, country FROM v_active_geo_cache ORDER BY 1"
    ).fetchall()
    assert rows == [("192.0.2.1", "absent", None), ("8.8.8.8", "found", "United States")]


def test_user_summary_counts_by_segment(postgres_connection: Connection) -> None:
    """Users by tier, age and company; absent ones are none, expired ones are not active."""
    for user, expires, tier, age in [
        ("a", "1 hour", "premium", 365), ("b", "-1 hour", "premium", 1000), ("c", "1 hour", "premium", 364),
        ("d", "1 hour", None, None),
    ]:  # fmt: skip
        cached(
            postgres_connection, "user_profile_cache", user, expires,
            subscription_tier=tier, account_age_days=age, company="Acme Corp" if tier else None,
        )  # fmt: skip
    cached(postgres_connection, "user_profile_cache", "nobody", "1 hour", state="absent")
    rows = postgres_connection.execute(
        "SELECT subscription_tier, account_age, company, users, users_active, average_account_age_days"
        " FROM v_user_profile_summary ORDER BY 1, 2"
    ).fetchall()
    assert rows == [
        ("premium", "30 to 364 days", "Acme Corp", 1, 1, 364.0),
        ("premium", "365 days and more", "Acme Corp", 2, 1, 682.5),
        ("unknown", "unknown", "unknown", 1, 1, None),
    ]


def test_job_stats_sum_up_by_state(postgres_connection: Connection) -> None:
    """How many batches of each state, how large, and how long from claim to publish."""
    for batch_id, messages, seconds in [("a", 10, 2), ("b", 30, 4), ("c", 20, 12)]:
        published(
            postgres_connection, batch_id, messages, value_bytes=100 * messages,
            claimed_at=f"sql:now() - interval '{seconds} seconds'",
        )  # fmt: skip
    job(postgres_connection, "d", attempts=3)
    rows = postgres_connection.execute(
        "SELECT state, batches, messages_read, value_bytes, largest_batch, average_batch, median_seconds_to_publish,"
        " longest_seconds_to_publish, most_attempts FROM v_enrichment_job_stats ORDER BY state"
    ).fetchall()
    assert rows == [
        ("claimed", 1, 0, 0, None, None, None, None, 3),
        ("published", 3, 60, 6_000, 30, 20.0, 4.0, 12.0, 0),
    ]


def test_performance_trend_covers_seven_days(postgres_connection: Connection) -> None:
    """By day and stage: messages, seconds, rate, peak memory; nothing older than seven days."""
    job(postgres_connection, "new")
    job(postgres_connection, "newer")
    job(postgres_connection, "old")
    for batch_id, stage, messages, seconds, rss, ago in [
        ("new", "geo", 100, 1.0, 300, "6 days"), ("newer", "geo", 300, 3.0, 200, "6 days"),
        ("new", "publish", 100, 0.0, None, "6 days"), ("old", "geo", 9, 9.0, 9, "8 days"),
    ]:  # fmt: skip
        insert(
            postgres_connection, "enrichment_metrics", batch_id=batch_id, stage=stage, messages=messages,
            seconds=seconds, peak_rss_bytes=rss, recorded_at=f"sql:now() - interval '{ago}'",
        )  # fmt: skip
    rows = postgres_connection.execute(
        "SELECT stage, batches, messages, seconds, messages_per_second, p95_seconds, peak_rss_bytes,"
        " day = date_trunc('day', now() - interval '6 days', 'UTC') FROM v_enrichment_performance_trend ORDER BY stage"
    ).fetchall()
    assert rows == [
        ("geo", 2, 400, 4.0, 100.0, pytest.approx(2.9), 300, True),
        ("publish", 1, 100, 0.0, None, 0.0, None, True),
    ]


def test_risk_distribution_counts_scored_requests(postgres_connection: Connection) -> None:
    """Requests by level and unit; those that were never scored are not in it, nor those whose context has gone."""
    for request, unit, score, level, indicators in [
        ("a", "payments", 0.25, "low", []), ("b", "payments", 0.75, "low", ["new-account"]),
        ("c", None, 1.0, "high", ["far-away"]), ("gone", None, 1.0, "high", []),
    ]:  # fmt: skip
        insert(
            postgres_connection, "business_risks",
            request_id=request, risk_score=score, risk_level=level, fraud_indicators=indicators,
        )  # fmt: skip
        if request != "gone":
            cached(postgres_connection, "business_context_cache", request, "1 hour", unit=unit)
    cached(postgres_connection, "business_context_cache", "never scored", "1 hour", unit="payments")
    rows = postgres_connection.execute(
        "SELECT risk_level, unit, requests, average_score, lowest_score, highest_score, requests_with_indicators"
        " FROM v_business_risk_distribution ORDER BY 1"
    ).fetchall()
    assert rows == [("high", "unknown", 1, 1.0, 1.0, 1.0, 1), ("low", "payments", 2, 0.5, 0.25, 0.75, 1)]


@pytest.mark.parametrize(
    ("arguments", "evicted", "left"),
    [
        ("", 3, ["d"]),
        ("grace => '90 minutes'", 2, ["c", "d"]),
        ("row_limit => 1", 1, ["b", "c", "d"]),
        ("grace => '1 year'", 0, ["a", "b", "c", "d"]),
        ("only_state => 'absent'", 1, ["a", "c", "d"]),
        ("only_state => 'found'", 2, ["b", "d"]),
    ],
    ids=["all", "grace", "limit", "none", "absent", "found"],
)
def test_clean_expired_geo_cache_evicts_the_oldest(
    postgres_connection: Connection, arguments: str, evicted: int, left: list[str]
) -> None:
    """Entries that expired longer than the grace ago go, oldest first, at most the limit, and the count is returned."""
    for key, expires in [("a", "-3 hours"), ("b", "-2 hours"), ("c", "-1 hour"), ("d", "1 hour")]:
        cached(postgres_connection, "geo_ip_cache", key, expires, state="absent" if key == "b" else "found")
    answer = postgres_connection.execute(f"SELECT clean_expired_geo_cache({arguments})".encode()).fetchall()
    assert answer == [(evicted,)]
    assert postgres_connection.execute("SELECT ip_address FROM geo_ip_cache ORDER BY 1").fetchall() == [
        (k,) for k in left
    ]


def test_clean_expired_geo_cache_skips_rows_that_are_being_written(
    postgres_connection: Connection, postgres_uri: str
) -> None:
    """Eviction never waits for a task that writes, and does not take the row from it."""
    cached(postgres_connection, "geo_ip_cache", "busy", "-1 hour")
    cached(postgres_connection, "geo_ip_cache", "idle", "-1 hour")
    with psycopg.connect(postgres_uri) as writer:
        writer.execute("UPDATE geo_ip_cache SET expires_at = now() + interval '1 hour' WHERE ip_address = 'busy'")
        postgres_connection.execute("SET lock_timeout = '5s'")
        assert postgres_connection.execute("SELECT clean_expired_geo_cache()").fetchall() == [(1,)]
    assert postgres_connection.execute("SELECT ip_address FROM geo_ip_cache").fetchall() == [("busy",)]


def test_cache_statistics_tell_sizes_and_hits(postgres_connection: Connection) -> None:
    """Entries by cache now, and hits by message of the batches published within the window."""
    cached(postgres_connection, "geo_ip_cache", "a", "1 hour")
    cached(postgres_connection, "geo_ip_cache", "b", "-1 hour")
    cached(postgres_connection, "geo_ip_cache", "c", "1 hour", state="absent")
    cached(postgres_connection, "user_profile_cache", "d", "1 hour")

    def counts(memory: int, postgres: int, misses: int, stale: int) -> str:
        messages = memory + postgres + misses
        figures = {"messages": messages, "memory": memory, "postgres": postgres, "misses": misses, "stale": stale}
        return json.dumps({"geo": figures})

    published(postgres_connection, "one", cache_counts=counts(70, 20, 10, 0))
    published(postgres_connection, "two", cache_counts=counts(40, 20, 40, 5))
    long_ago = "sql:now() - interval '2 days'"
    published(postgres_connection, "old", cache_counts=counts(9, 9, 9, 9), claimed_at=long_ago, published_at=long_ago)
    job(postgres_connection, "open", cache_counts=counts(9, 9, 9, 9))

    question = "SELECT cache, entries, expired, absent, messages, memory_hits, postgres_hits, misses, stale, hit_rate"
    rows = postgres_connection.execute(f"{question} FROM get_cache_statistics()".encode()).fetchall()
    assert [row for row in rows if row[0] in ("geo", "user", "business")] == [
        ("geo", 3, 1, 1, 200, 110, 40, 50, 5, 0.75),
        ("user", 1, 0, 0, 0, 0, 0, 0, 0, None),
        ("business", 0, 0, 0, 0, 0, 0, 0, 0, None),
    ]
    sizes = postgres_connection.execute("SELECT size_bytes FROM get_cache_statistics()").fetchall()
    assert all(size > 0 for (size,) in sizes)
    longer = postgres_connection.execute(
        "SELECT messages FROM get_cache_statistics('3 days') WHERE cache = 'geo'"
    ).fetchall()
    assert longer == [(227,)]
