"""What messages hold, from the enrichments to the page: counted once for each message that was published."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from airflow.sdk import Context
from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context

from enrichment.conservation.committed import log_ranges, read
from enrichment.orchestration import live
from enrichment.rollup.held import read_held
from enrichment.settings import load
from enrichment.store.contents import DEAD_LETTERS
from tests.fixtures.pipeline import Pipeline, message


def enrich(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of the task that claims, and does all the rest."""
    monkeypatch.setattr(live, "resources", pipeline.resources)
    context = {"dag": SimpleNamespace(dag_id="dag"), "run_id": "run", "params": {}}
    with set_current_context(cast(Context, context)):
        assert live.claim.function(outlet_events=OutletEventAccessors()) == []


def outputs(pipeline: Pipeline) -> list[dict[str, Any]]:
    """All that was published."""
    topic, servers = load().kafka.output_topic, pipeline.bootstrap_servers
    with closing(read(servers, topic, log_ranges(servers, topic))) as found:
        return [json.loads(output.value() or b"") for output in found]


def test_messages_are_counted_by_what_was_added_to_them(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As somebody who reads the output topic would count; dead letters by their fingerprints. They are
    several chunks."""
    addresses = ["8.8.8.8", "128.101.101.101", "81.2.69.160", None]
    pipeline.produce([message(n, source_ip=addresses[n % 4]) for n in range(130)] + [b"no json", b"nor this", b"[1]"])
    enrich(pipeline, monkeypatch)
    published = outputs(pipeline)
    with psycopg.connect(pipeline.dsn) as connection:
        held = read_held(connection, "1h", datetime.now(UTC))
    counted = {found.name: {tuple(c.values): c.messages for c in found.counts} for found in held.counted}
    countries = Counter((m["geo_country_code"],) for m in published if m["geo_country_code"])
    risks = Counter((m["business_unit"], m["business_risk_level"]) for m in published if m["business_risk_level"])
    indicators = Counter((i,) for m in published for i in m["business_fraud_indicators"] or ())
    assert len(countries) > 1
    assert risks
    assert counted["geo_country_code"] == countries
    assert counted["business_unit business_risk_level"] == risks
    assert counted["business_fraud_indicators"] == indicators
    assert {reason: n for (reason, _), n in counted[DEAD_LETTERS].items()} == {"invalid-json": 2, "not-an-object": 1}
    assert (held.messages, held.batches) == (133, 1)


def test_run_rolls_up_the_minutes_before_it(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that finds nothing to do, so that a quiet time is known to have been one."""
    enrich(pipeline, monkeypatch)
    with psycopg.connect(pipeline.dsn) as connection:
        [(minutes,)] = connection.execute(
            "SELECT count(*) FROM enrichment_rollups"
            " WHERE period = 'minute' AND starts_at > now() - interval '10 minutes'"
        ).fetchall()
    assert minutes >= 4
