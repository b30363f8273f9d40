"""A newer geo database through the real scheduler: a bad file, a good one, the same once more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from enrichment.conservation.committed import log_ranges, read
from enrichment.settings import load
from include.local.stack import Stack
from tests.fixtures.geo import BUILT_AT, city, maxmind, write_geo_database
from tests.fixtures.pipeline import message
from tests.fixtures.raw_server import Answer, RawServer
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)
DAG_ID = "stacklens_geoip_refresh"
KNOWN = ("8.8.8.0/24", "128.101.0.0/16")


@pytest.fixture
def installed(stack: Stack) -> Iterator[Path]:
    """Where the stack installs databases; the package's is in use again afterwards."""
    path = stack.directory / "geoip" / "City.mmdb"
    yield path
    path.unlink(missing_ok=True)


def published_city(stream: Stream, text: str) -> str:
    """Where the message with this text was placed."""
    servers, topic = stream.stack.bootstrap_servers, load().kafka.output_topic
    with closing(read(servers, topic, log_ranges(servers, topic))) as outputs:
        [found] = [m for m in (json.loads(o.value() or b"") for o in outputs) if m["message"] == text]
    return str(found["geo_city"])


def enrich(airflow: Airflow, stream: Stream, text: str) -> str:
    """Have a message of a known address enriched; returns its city."""
    stream.produce([message(1, source_ip="128.101.101.101", message=text)])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    return published_city(stream, text)


def test_newer_database_is_installed_and_the_next_batch_uses_it(
    airflow: Airflow, stream: Stream, installed: Path, tmp_path: Path,
    make_raw_server: Callable[[Answer], RawServer],
) -> None:  # fmt: skip
    """A bad file is red at once and changes nothing; MaxMind's newer one is in the next batch and has an event; once
    more it is skipped, and not downloaded."""
    refresh = airflow.of(DAG_ID)

    def states(run_id: str) -> dict[str, tuple[str, int]]:
        return {name: (task["state"], task["try_number"]) for name, task in refresh.tasks(run_id).items()}

    def age(run_id: str) -> dict[str, Any]:
        path = f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/report_age/xcomEntries/return_value"
        value = refresh.call("GET", path)["value"]
        told: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
        return told

    countries = {network: {"country": {"iso_code": "US"}} for network in KNOWN}
    run_id = refresh.trigger(source=str(write_geo_database(tmp_path / "countries.mmdb", countries)))
    assert refresh.finish(run_id) == "failed"
    eventually(lambda: states(run_id)["report_age"][0] == "success" or None, "the report")
    assert states(run_id) == {"refresh": ("failed", 1), "report_age": ("success", 1)}
    assert not installed.exists()
    assert (age(run_id)["version"], age(run_id)["too_old"]) == ("GeoLite2-City-1530653216", True)

    good = write_geo_database(tmp_path / "good.mmdb", {network: city("Newtown") for network in KNOWN})
    server = make_raw_server(maxmind(good.read_bytes()))
    account = {"connection_id": "maxmind", "conn_type": "http", "host": server.base_url}
    airflow.call("POST", "/api/v2/connections", {**account, "login": "42", "password": "a-key"})
    run_id = refresh.run(source="maxmind")
    eventually(lambda: states(run_id)["report_age"][0] == "success" or None, "the report")
    assert age(run_id)["version"] == f"Test-City-{BUILT_AT}"
    [event] = refresh.call("GET", "/api/v2/assets/events", source_dag_id=DAG_ID)["asset_events"]
    assert (event["source_run_id"], event["extra"]["outcome"]) == (run_id, "installed")
    assert enrich(airflow, stream, "placed by a newer database") == "Newtown"
    with psycopg.connect(stream.stack.stacklens_dsn) as connection:
        last = connection.execute(
            "SELECT source_builds ->> 'geo' FROM enrichment_jobs"
            " WHERE state = 'published' ORDER BY published_at DESC LIMIT 1"
        ).fetchall()
    assert last == [(f"Test-City-{BUILT_AT}",)]

    assert len(server.requests) == 2
    run_id = refresh.run(source="maxmind")
    assert len(server.requests) == 3
    assert states(run_id)["refresh"] == ("skipped", 1)
    assert installed.read_bytes() == good.read_bytes()
