"""The task `claim`: what is not too large is enriched there and then, everything else is left to tasks of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import psycopg
import pytest
from airflow.sdk import Context
from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context

from enrichment.batch import Batch
from enrichment.batches import stages
from enrichment.enrichers import ENRICHERS
from enrichment.enrichers.base import OpenEnricher
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.wiring import Enrichers
from enrichment.orchestration import live
from enrichment.settings import load
from enrichment.store.connections import Connections
from enrichment.store.jobs import JobState
from tests.fixtures.pipeline import Pipeline, message
from tests.fixtures.tasks import events_of, run_tasks


def claim(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, run_id: str = "run", **params: Any
) -> tuple[list[Batch], OutletEventAccessors]:
    """What the task leaves to others, and its asset events."""
    monkeypatch.setattr(live, "resources", pipeline.resources)
    context = {"dag": SimpleNamespace(dag_id="dag"), "run_id": run_id, "params": params}
    outlet_events = OutletEventAccessors()
    with set_current_context(cast(Context, context)):
        left = live.claim.function(outlet_events=outlet_events)
    return [Batch.from_manifest(manifest) for manifest in left], outlet_events


def states(pipeline: Pipeline, run_id: str = "run") -> list[JobState]:
    """Those of a run's batches, by lane."""
    with pipeline.resources() as r:
        jobs = [r.ledger.get(batch.batch_id) for batch in r.ledger.find_run("dag", run_id)]
    return [job.state for job in jobs if job is not None]


def test_small_batch_is_published_by_the_claim(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tasks would have: outputs, ledger with all stages, asset events; nothing stays staged."""
    pipeline.produce([message(1), message(2), b"no JSON"])
    left, told = claim(pipeline, monkeypatch)
    assert left == []
    topics = load().kafka
    events = events_of(told)
    assert events.keys() == {topics.output_topic, topics.dlq_topic}
    assert events[topics.output_topic]["counts"]["dead"] == 1
    assert states(pipeline) == [JobState.PUBLISHED]
    with pipeline.resources() as r:
        job = r.ledger.get("dag/run/0")
        recorded = r.postgres.execute("SELECT stage FROM enrichment_metrics").fetchall()
    assert job is not None
    assert job.durations.keys() >= {"geo", "user", "business", "publish"}
    assert {stage for (stage,) in recorded} == {"drain", "geo", "user", "business", "publish"}
    assert list(pipeline.folder.iterdir()) == []
    assert pipeline.check().ok


def test_run_that_is_cleared_publishes_nothing_twice(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds its batch published, and tells of nothing."""
    pipeline.produce([message(1), message(2)])
    claim(pipeline, monkeypatch)
    left, told = claim(pipeline, monkeypatch)
    assert left == []
    assert events_of(told) == {}
    assert pipeline.check().ok


@pytest.mark.parametrize(("most", "left"), [("10", 0), ("9", 2), ("0", 2)])
def test_larger_batches_are_left_to_tasks(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, most: str, left: int
) -> None:
    """All of a run that together is larger than the setting says; 0 leaves everything."""
    monkeypatch.setenv("KAFKA_AT_ONCE_MESSAGES", most)
    monkeypatch.setenv("KAFKA_LANES", "2")
    pipeline.produce([message(n) for n in range(10)])
    batches_left, _ = claim(pipeline, monkeypatch)
    assert len(batches_left) == left
    assert states(pipeline) == [JobState.CLAIMED if left else JobState.PUBLISHED] * 2


def test_dry_run_is_left_to_tasks(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counts are in the XCom of `publish`."""
    pipeline.produce([message(1)])
    [dry], told = claim(pipeline, monkeypatch, dry_run=True)
    assert dry.dry_run
    assert events_of(told) == {}


@pytest.mark.parametrize("stage", ["drain_batch", "look_up", "publish_batch"])
def test_batch_that_fails_is_left_to_tasks(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stage: str
) -> None:
    """Wherever it fails; they do it again, and nothing is doubled. The other lane's batch is published meanwhile."""
    monkeypatch.setenv("KAFKA_LANES", "2")
    pipeline.produce([message(n) for n in range(8)])
    works = getattr(stages, stage)

    def fails_for_lane_0(*args: Any, **kwargs: Any) -> Any:
        batches_in = [a.batch if hasattr(a, "batch") else a for a in args if isinstance(getattr(a, "batch", a), Batch)]
        if batches_in[0].lane == 0:
            raise ConnectionError("out of order")
        return works(*args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(stages, stage, fails_for_lane_0)
        [left], _ = claim(pipeline, broken)
    assert left.lane == 0
    assert states(pipeline) != [JobState.PUBLISHED] * 2
    assert "out of order" in caplog.text
    run_tasks(pipeline, left, monkeypatch)
    assert states(pipeline) == [JobState.PUBLISHED] * 2
    assert pipeline.check().ok


def test_stages_share_their_connections(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lanes and enrichments there are: one to read caches, one to write them, and one for the risks, of
    which the rollup of minutes takes one. All are closed at the end."""
    lent: list[psycopg.Connection[Any]] = []
    lend = Connections.for_cache

    def noted(connections: Connections) -> psycopg.Connection[Any]:
        lent.append(lend(connections))
        return lent[-1]

    monkeypatch.setattr(Connections, "for_cache", noted)
    monkeypatch.setenv("KAFKA_LANES", "4")
    pipeline.produce([message(n) for n in range(16)])
    claim(pipeline, monkeypatch)
    assert states(pipeline) == [JobState.PUBLISHED] * 4
    assert len(lent) >= 4 * len(ENRICHERS)
    assert len(set(map(id, lent))) <= 3
    assert all(connection.closed for connection in lent)


def test_stage_gives_back_what_it_has_opened(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each enrichment is closed before the next one begins: a process has the memory of one of them."""
    told: list[str] = []
    open_enricher = Enrichers.open

    def noted(enrichers: Enrichers, declaration: LookupEnricher) -> OpenEnricher:
        told.append(f"{declaration.name} opened")
        enrichers._site.at_end(lambda: told.append(f"{declaration.name} closed"))
        return open_enricher(enrichers, declaration)

    monkeypatch.setattr(Enrichers, "open", noted)
    pipeline.produce([message(n) for n in range(16)])
    claim(pipeline, monkeypatch)
    assert states(pipeline) == [JobState.PUBLISHED]
    assert told == [f"{enricher.name} {what}" for enricher in ENRICHERS for what in ("opened", "closed")]
    assert pipeline.check().ok


def test_outage_is_held_by_the_tasks(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for the source, as the policy wants; the claim does not."""
    monkeypatch.setenv("ENRICHMENT_OUTAGE_POLICY", "hold")
    monkeypatch.setenv("BUSINESS_QUERY_TIMEOUT_SEC", "1")
    pipeline.produce([message(1)])
    with pipeline.business_down():
        [left], _ = claim(pipeline, monkeypatch)
    assert states(pipeline) == [JobState.DRAINED]
    run_tasks(pipeline, left, monkeypatch)
    assert pipeline.check().ok


def test_stop_is_obeyed(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is stopped from the UI goes on with nothing, and its next try finds the same ranges."""
    pipeline.produce([message(1)])

    def stopped(*_: Any) -> Any:
        raise SystemExit("stopped by SIGTERM")

    with monkeypatch.context() as stopping:
        stopping.setattr(stages, "look_up", stopped)
        with pytest.raises(SystemExit):
            claim(pipeline, stopping)
    [before] = pipeline.claim()
    assert claim(pipeline, monkeypatch)[0] == []
    with pipeline.resources() as r:
        job = r.ledger.get(before.batch_id)
    assert job is not None
    assert msgspec.structs.replace(job.batch, tails=()).ranges == before.ranges
    assert pipeline.check().ok
