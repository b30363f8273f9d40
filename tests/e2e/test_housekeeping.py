"""Eviction and clean-up through the real scheduler: what a person sees who triggers them, and what is gone then."""

from __future__ import annotations

import os
from typing import Any

import psycopg
import pytest

from enrichment.enrichers.geo.database import GeoDatabase
from enrichment.enrichers.user.tries import version_of
from enrichment.sources.connections import HttpOptions
from tests.fixtures.scheduler import Airflow

pytestmark = pytest.mark.timeout(600)

EVICTION, CLEANUP = "stacklens_cache_eviction", "stacklens_metadata_cleanup"


def xcom(airflow: Airflow, run_id: str, task_id: str) -> Any:
    """What a task of a run returned."""
    path = f"/api/v2/dags/{airflow.dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
    return airflow.call("GET", path)["value"]


def test_eviction_counts_then_evicts_renews_and_reports(airflow: Airflow) -> None:
    """A dry run only counts; the real one deletes what has passed its hard expiry from the three caches, renews the
    keys in use through the real sources, forgets an old batch, and says what it freed."""
    eviction = airflow.of(EVICTION)
    version = GeoDatabase().version
    eviction.run()  # behind it, the scheduled run of the start is over
    with psycopg.connect(airflow.stack.stacklens_dsn, autocommit=True) as database:
        for table, key in [("geo_ip_cache", "ip_address"), ("user_profile_cache", "user_id"),
                           ("business_context_cache", "request_id")]:  # fmt: skip
            database.execute(
                f"INSERT INTO {table} ({key}, state, reason, fetched_at, expires_at) SELECT 'gone-' || n,"
                " CASE WHEN n > 2 THEN 'absent' ELSE 'found' END, 'why', now() - interval '9 days',"
                " now() - interval '8 days' FROM generate_series(1, 5) AS n".encode()
            )
        hot = "now() - interval '50 minutes', now() - interval '10 minutes', now() + interval '10 minutes'"
        database.execute(
            "INSERT INTO user_profile_cache (user_id, state, company, version, fetched_at, last_used_at, expires_at)"
            f" VALUES ('user-456', 'found', 'Old Corp', %s, {hot})"
            " ON CONFLICT (user_id) DO UPDATE SET company = 'Old Corp', fetched_at = EXCLUDED.fetched_at,"
            " last_used_at = EXCLUDED.last_used_at, expires_at = EXCLUDED.expires_at".encode(),
            [version_of(airflow.stack.user_service_url, HttpOptions())],
        )
        database.execute(
            f"INSERT INTO geo_ip_cache (ip_address, state, version, fetched_at, last_used_at, expires_at)"
            f" VALUES ('9.9.9.9', 'found', %s, {hot}) ON CONFLICT (ip_address) DO NOTHING".encode(),
            [version],
        )
        database.execute(
            "INSERT INTO enrichment_jobs (batch_id, dag_id, run_id, lane, topic, group_id, ranges, dry_run, state,"
            " messages_read, messages_enriched, messages_partial, messages_dead, settings_fingerprint, claimed_at)"
            " VALUES ('old', 'dag', 'run', 0, 'in', 'g', '[]', true, 'dry-run', 0, 0, 0, 0, '0',"
            " now() - interval '91 days')"
        )
        gone = "SELECT count(*) FROM user_profile_cache WHERE user_id LIKE 'gone-%'"

        dry = eviction.run(dry_run=True)
        counted = {cache: xcom(eviction, dry, f"evict_{cache}") for cache in ("geo", "user", "business")}
        assert {name: (found["found"], found["absent"]) for name, found in counted.items()} == {
            "geo": (2, 3), "user": (2, 3), "business": (2, 3),
        }  # fmt: skip
        assert database.execute(gone).fetchall() == [(5,)]

        real = eviction.run()
        assert database.execute(gone).fetchall() == [(0,)]
        assert database.execute("SELECT 1 FROM enrichment_jobs WHERE batch_id = 'old'").fetchall() == []
        renewed = database.execute(
            "SELECT company, expires_at > now() + interval '50 minutes' FROM user_profile_cache"
            " WHERE user_id = 'user-456'"
        ).fetchall()
        assert renewed == [("Globex", True)]
        assert database.execute("SELECT country FROM v_active_geo_cache WHERE ip_address = '9.9.9.9'").fetchall() != [
            (None,)
        ]
    report = xcom(eviction, real, "report")
    assert report["freed"]["rows"] == 15
    assert report["freed"]["row_bytes"] > 0
    assert report["forgotten"]["enrichment_jobs"] == 1
    assert {cache["cache"] for cache in report["caches"]} == {"geo", "user", "business"}


def test_cleanup_deletes_old_runs_and_their_logs_from_a_task(airflow: Airflow) -> None:
    """From a real task, with Airflow's database hidden from tasks: an old run goes with its tasks and logs, younger
    ones and the last one of each DAG stay; a dry run before it only counts."""
    eviction, cleanup = airflow.of(EVICTION), airflow.of(CLEANUP)
    old, young = eviction.run(dry_run=True), eviction.run(dry_run=True)
    logs = airflow.stack.directory / "airflow" / "logs" / f"dag_id={EVICTION}"
    for file in (logs / f"run_id={old}").rglob("*.log"):
        os.utime(file, (0, 0))
    assert (logs / f"run_id={old}").exists()
    with psycopg.connect(airflow.metadata_database, autocommit=True) as metadata:
        for table in ("dag_run", "task_instance"):
            metadata.execute(
                f"UPDATE {table} SET start_date = now() - interval '9 days' WHERE run_id = %s".encode(), [old]
            )
        runs = "SELECT run_id FROM dag_run WHERE run_id = ANY (%s) ORDER BY id"

        dry = cleanup.run(dry_run=True)
        assert xcom(cleanup, dry, "clean_runs")["runs"] == {EVICTION: 1}
        assert xcom(cleanup, dry, "clean_logs")["runs"] == 1
        assert len(metadata.execute(runs, [[old, young]]).fetchall()) == 2

        real = cleanup.run()
        assert metadata.execute(runs, [[old, young, dry, real]]).fetchall() == [(r,) for r in (young, dry, real)]
        assert metadata.execute("SELECT 1 FROM task_instance WHERE run_id = %s", [old]).fetchall() == []
    assert xcom(cleanup, real, "clean_runs")["rows"]["dag_run"] == 1
    assert xcom(cleanup, real, "clean_logs")["runs"] == 1
    assert not (logs / f"run_id={old}").exists()
    assert (logs / f"run_id={young}").exists()
