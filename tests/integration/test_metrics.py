"""The metrics of a real batch and a real look, as a StatsD server receives them."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from airflow.sdk import Context
from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context
from psycopg.conninfo import make_conninfo

from enrichment.batch import Batch
from enrichment.batches import stages
from enrichment.batches.publish import record
from enrichment.metrics.batch import find_figures
from enrichment.metrics.names import METRICS, SentWith
from enrichment.orchestration import live
from tests.fixtures.pipeline import MakePipeline, Pipeline, message
from tests.fixtures.scheduler import eventually
from tests.fixtures.statsd import StatsdServer
from tests.fixtures.tasks import run_tasks

MESSAGES = [message(1), message(2), b"no JSON", message(3, source_ip="nonsense")]


def claim(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, run_type: str = "manual", **params: Any) -> list[Batch]:
    """Run the task `claim`; what it leaves to others."""
    monkeypatch.setattr(live, "resources", pipeline.resources)
    run = {"dag": SimpleNamespace(dag_id="dag"), "run_id": "run", "dag_run": SimpleNamespace(run_type=run_type)}
    with set_current_context(cast(Context, {**run, "params": params})):
        left = live.claim.function(outlet_events=OutletEventAccessors())
    return [Batch.from_manifest(manifest) for manifest in left]


def received(statsd: StatsdServer, begin: str = "stacklens.messages.") -> dict[str, float]:
    """What the values of these names add up to; packets on this machine are there once they are sent."""
    found: dict[str, float] = defaultdict(float)
    for name, _, value in statsd.values(begin):
        found[name] += value
    return dict(found)


def names_of(statsd: StatsdServer) -> set[str]:
    """The metrics that were sent, without the values of tags."""
    return {".".join(name.split(".")[:2]) for name, _, _ in statsd.values()}


def test_every_metric_is_sent_by_a_batch_and_a_minute(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, statsd: StatsdServer
) -> None:
    """The whole list but what the hourly rollup sends; and nothing that is not on it."""
    pipeline.produce(MESSAGES)
    claim(pipeline, monkeypatch, "scheduled")
    wanted = {metric.name for metric in METRICS if metric.sent_with is not SentWith.HOUR}
    eventually(lambda: names_of(statsd) == wanted or None, f"all of {wanted}", 10)
    kinds = {name.split(".")[1]: kind for name, kind, _ in statsd.values()}
    abbreviations = {"counter": "c", "gauge": "g", "timing": "ms"}
    assert kinds == {m.name.split(".")[1]: abbreviations[m.kind] for m in METRICS if m.name in wanted}


def test_batch_is_counted_as_the_ledger_has_it(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, statsd: StatsdServer
) -> None:
    """Messages by what became of them, errors by reason, look-ups by tier, lag and health afterwards."""
    pipeline.produce(MESSAGES)
    claim(pipeline, monkeypatch, "scheduled")
    counted = eventually(lambda: received(statsd) or None, "counts", 10)
    assert counted == {"stacklens.messages.enriched": 2, "stacklens.messages.partial": 1, "stacklens.messages.dead": 1}
    eventually(lambda: received(statsd, "stacklens.since_published") or None, "the moment", 10)
    assert received(statsd, "stacklens.errors.") == {
        "stacklens.errors.invalid-ip": 1, "stacklens.errors.invalid-json": 1,
    }  # fmt: skip
    answers = received(statsd, "stacklens.answers.")
    with pipeline.resources() as r:
        figures = find_figures(r.postgres, "dag/run/0")
    assert figures is not None
    for cache, counts in figures.cache_counts.items():
        sent = [answers[f"stacklens.answers.{cache}.{tier}"] for tier in ("memory", "postgres", "source")]
        assert sent == [counts.memory, counts.postgres, counts.misses]
        assert sum(sent) == counts.messages > 0
    assert received(statsd, "stacklens.lag.") == {f"stacklens.lag.{partition}": 0 for partition in range(4)}
    assert received(statsd, "stacklens.freshness.inf") == {"stacklens.freshness.inf": 3}
    stages = {name.rpartition(".")[2] for name in received(statsd, "stacklens.stage.")}
    assert stages == figures.stages.keys() >= {"drain", "publish"}


def test_batch_is_counted_once(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, statsd: StatsdServer) -> None:
    """Not again by a cleared run, nor by tasks of a batch that is published."""
    pipeline.produce([message(n) for n in range(8)])
    monkeypatch.setenv("KAFKA_AT_ONCE_MESSAGES", "0")
    [batch] = claim(pipeline, monkeypatch)
    assert received(statsd) == {}
    for _ in range(2):
        run_tasks(pipeline, batch, monkeypatch)
    claim(pipeline, monkeypatch)
    eventually(lambda: sum(received(statsd).values()) == 8, "the counts", 10)
    assert received(statsd, "stacklens.batches.") == {"stacklens.batches.0": 1}


def test_batch_that_two_tries_record_is_counted_by_the_first(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, statsd: StatsdServer
) -> None:
    """A try that was taken for dead may end after its successor."""
    pipeline.produce([message(n) for n in range(8)])
    monkeypatch.setenv("KAFKA_AT_ONCE_MESSAGES", "0")
    [batch] = claim(pipeline, monkeypatch)

    def record_late(*arguments: Any, **details: Any) -> bool:
        assert record(*arguments, **details)
        return record(*arguments, **details)

    monkeypatch.setattr(stages, "record", record_late)
    run_tasks(pipeline, batch, monkeypatch)
    assert statsd.values() == []


def test_publication_that_is_only_recorded_is_counted(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, statsd: StatsdServer
) -> None:
    """A try died between its commit and the ledger, and so before it could send anything: the next one does."""
    pipeline.produce([message(n) for n in range(8)])
    monkeypatch.setenv("KAFKA_AT_ONCE_MESSAGES", "0")
    [batch] = claim(pipeline, monkeypatch)
    pipeline.publish(pipeline.stage(batch))
    assert received(statsd) == {}
    run_tasks(pipeline, batch, monkeypatch)
    eventually(lambda: sum(received(statsd).values()) == 8, "the counts", 10)


def test_dry_run_is_not_counted(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, statsd: StatsdServer) -> None:
    """Nothing became of its messages."""
    pipeline.produce([message(1)])
    [batch] = claim(pipeline, monkeypatch, dry_run=True)
    run_tasks(pipeline, batch, monkeypatch)
    assert statsd.values() == []


def test_minute_says_down_when_the_database_is_gone(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, statsd: StatsdServer
) -> None:
    """When things go wrong is when they are watched; the task's own error goes on."""
    pipeline = make_pipeline()
    pipeline.dsn = make_conninfo(pipeline.dsn, dbname="no_such_database")
    with pytest.raises(psycopg.OperationalError):
        claim(pipeline, monkeypatch, "scheduled")
    eventually(lambda: statsd.values() or None, "the verdict", 10)
    assert statsd.values() == [("stacklens.health", "g", 2)]
