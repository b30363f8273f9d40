"""Databases as people run them: behind PgBouncer, locked, swallowed by a network, of other encodings and settings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from enrichment.batches.staged import Drained
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import SettingsError
from enrichment.housekeeping.caches import evict_cache
from tests.fixtures.pgbouncer import Pooled
from tests.fixtures.pipeline import MakePipeline, Pipeline, message
from tests.fixtures.postgres import Server
from tests.fixtures.proxy import Network

MESSAGES = 250
CHUNKS = {"KAFKA_CHUNK_SIZE": "50"}
QUICK = {
    **CHUNKS, "POSTGRES_CACHE_TIMEOUT_SEC": "2", "POSTGRES_CACHE_LOCK_TIMEOUT_SEC": "0.6",
    "POSTGRES_LEDGER_TIMEOUT_SEC": "3", "POSTGRES_CONNECT_TIMEOUT_SEC": "2", "BUSINESS_QUERY_TIMEOUT_SEC": "1.5",
}  # fmt: skip


def drained(pipeline: Pipeline, run_id: str = "run", **fields: Any) -> Drained:
    """A batch that is read and to be enriched."""
    known = {"user_id": "user-1", "request_id": "req-000001"} | fields
    pipeline.produce([message(n, **known) for n in range(MESSAGES)])
    [batch] = pipeline.claim(run_id)
    return pipeline.drain(batch)


def test_behind_pgbouncer_nothing_is_missing(make_pipeline: MakePipeline, pgbouncer: Pooled) -> None:
    """In transaction mode: claim to ledger, twice, and the second time the tables answer."""
    direct = make_pipeline(**CHUNKS)
    pipeline = dataclasses.replace(direct, dsn=pgbouncer(direct.dsn))
    for run in ("first", "second"):
        batch = drained(pipeline, run)
        counts = pipeline.enrich(batch.batch)
        pipeline.finish(batch)
        if run == "second":
            assert {name: each.misses for name, each in counts.items()} == dict.fromkeys(REGISTRY.by_name, 0)
            assert {name: each.postgres for name, each in counts.items()} == {
                "geo": MESSAGES, "user": 1, "business": 1,
            }  # fmt: skip
    report = pipeline.check()
    assert report.ok, report.summary()
    assert (report.analytics, report.partial, report.dead) == (2 * MESSAGES, 0, 0)
    with pipeline.resources() as r:
        assert {evict_cache(r, REGISTRY.by_name[cache]).entries for cache in REGISTRY.by_name} == {
            MESSAGES,
            1,
        }


def test_locked_business_table_is_an_outage_in_its_time(make_pipeline: MakePipeline) -> None:
    """`LOCK TABLE` on the users' table: the batch does not wait for it chunk by chunk, and is repaired later."""
    pipeline = make_pipeline(**QUICK)
    batch = drained(pipeline)
    with pipeline.business_down():
        started = time.monotonic()
        pipeline.enrich(batch.batch)
        assert time.monotonic() - started < 6
    published = pipeline.finish(batch)
    assert published.counts.by_reason == {"database-connection-error": MESSAGES}
    with pipeline.resources() as r:
        assert [(m.source, m.messages) for m in r.pending.due()] == [("business-context", MESSAGES)]


def test_locked_cache_tables_cost_little_and_nothing_is_missing(make_pipeline: MakePipeline) -> None:
    """All three tables are passed by, however many chunks there are; the sources answer."""
    pipeline = make_pipeline(**QUICK)
    batch = drained(pipeline)
    with psycopg.connect(pipeline.dsn) as holder:
        holder.execute("LOCK TABLE geo_ip_cache, user_profile_cache, business_context_cache")
        started = time.monotonic()
        pipeline.enrich(batch.batch)
        assert time.monotonic() - started < 8
    assert pipeline.finish(batch).counts.enriched == MESSAGES


def test_locked_ledger_is_waited_for_and_not_for_ever(make_pipeline: MakePipeline) -> None:
    """What must be written down waits; then its task fails, to be tried again, and nothing is published by halves."""
    pipeline = make_pipeline(**QUICK)
    pipeline.produce([message(n, user_id="user-1") for n in range(10)])
    with psycopg.connect(pipeline.dsn) as holder:
        holder.execute("LOCK TABLE enrichment_jobs")
        started = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            pipeline.claim()
        assert 2.5 < time.monotonic() - started < 6
    assert pipeline.run()[0].counts.enriched == 10


def test_ledger_connection_that_was_closed_meanwhile_is_replaced(pipeline: Pipeline) -> None:
    """A pooler or a firewall ends what is idle for the minutes that a stage takes: the task goes on."""
    batch = drained(pipeline).batch
    with pipeline.resources() as r, psycopg.connect(pipeline.dsn, autocommit=True) as admin:
        assert r.ledger.get(batch.batch_id) is not None
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [r.postgres.info.backend_pid])
        assert r.ledger.get(batch.batch_id) is not None


@pytest.mark.parametrize("stage", ["claim", "enrich"])
def test_network_that_swallows_ends_a_task_in_time(
    make_pipeline: MakePipeline, make_network: Callable[[str], Network], stage: str
) -> None:
    """The database answers nothing any more, and no server says that a time is over."""
    direct = make_pipeline(**QUICK)
    network = make_network(direct.dsn)
    pipeline = dataclasses.replace(direct, dsn=network.uri)
    pipeline.produce([message(n) for n in range(MESSAGES)])
    batch = None if stage == "claim" else pipeline.drain(pipeline.claim()[0]).batch
    network.swallow()
    started = time.monotonic()
    if batch is None:
        with pytest.raises(psycopg.OperationalError):
            pipeline.claim()
    else:
        pipeline.enrich(batch)  # all that a task may do without
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_claim_refuses_a_database_of_another_encoding(
    make_pipeline: MakePipeline, embedded_postgres: Server, encoding: str
) -> None:
    """Before anything is read: a message that it cannot hold would fail later, and again."""
    pipeline = dataclasses.replace(make_pipeline(), dsn=embedded_postgres.make_encoded_database(encoding))
    pipeline.produce([message(1)])
    with pytest.raises(SettingsError, match=f"has the encoding {encoding}.*ENCODING 'UTF8'"):
        pipeline.claim()


def test_settings_of_the_database_do_not_matter(
    make_pipeline: MakePipeline, embedded_postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages of any language, whatever encoding, dates and limits were set for role, database or environment."""
    pipeline = make_pipeline(**CHUNKS)
    name = conninfo_to_dict(pipeline.dsn)["dbname"]
    for setting in (
        "client_encoding = 'LATIN1'", "DateStyle = 'SQL, DMY'", "TimeZone = 'America/New_York'",
        "default_transaction_read_only = on", "default_transaction_isolation = 'serializable'",
        "extra_float_digits = -10", "statement_timeout = '200ms'", "IntervalStyle = 'sql_standard'",
    ):  # fmt: skip
        embedded_postgres.execute(f"ALTER DATABASE {name} SET {setting}")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    for run in ("first", "second"):
        batch = drained(pipeline, run, user_id="Timișoara", request_id="東京-1")
        pipeline.enrich(batch.batch)
        pipeline.finish(batch)
    report = pipeline.check()
    assert report.ok, report.summary()
    assert (report.partial, report.dead) == (2 * MESSAGES, 0)  # nobody knows that user and request
    assert set(report.partial_errors) == {"user-not-found", "business-context-not-found"}
    with pipeline.resources() as r:
        assert {m.source for m in r.pending.due()} == set()
        assert evict_cache(r, REGISTRY.by_name["user"]).absent == 0
