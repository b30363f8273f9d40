"""A topic has an asset event when messages have become visible in it, and no other time."""

from __future__ import annotations

import pytest
from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context
from msgspec import to_builtins

from enrichment.batch import Batch
from enrichment.orchestration import repair
from enrichment.settings import load
from tests.fixtures.partials import planned
from tests.fixtures.pipeline import Pipeline, message
from tests.fixtures.replayer import START, Replayer
from tests.fixtures.tasks import RUN, events_of, run_tasks


def test_topics_that_took_messages_have_an_event_each(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the counts; a batch without dead letters has none of their topic, one that is all dead no other, and a
    cleared task, which publishes nothing, has none at all."""
    topics = load().kafka
    for run_id, values, told in (
        ("both", [message(1), message(2), b"no JSON"], {topics.output_topic, topics.dlq_topic}),
        ("good", [message(3)], {topics.output_topic}),
        ("bad", [b"no JSON"], {topics.dlq_topic}),
    ):
        pipeline.produce(values, partition=0)
        [batch] = pipeline.claim(run_id)
        events = events_of(run_tasks(pipeline, batch, monkeypatch))
        assert events.keys() == told
        assert {extra["batch_id"] for extra in events.values()} == {batch.batch_id}
        assert all(extra["counts"]["dead"] == values.count(b"no JSON") for extra in events.values())
        assert events_of(run_tasks(pipeline, batch, monkeypatch)) == {}


def test_dry_run_has_no_event(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has become visible."""
    pipeline.produce([message(1), b"no JSON"])
    for batch in pipeline.claim("dry", dry_run=True):
        assert events_of(run_tasks(pipeline, batch, monkeypatch)) == {}


def test_publication_whose_task_died_has_its_event_once_it_is_recorded(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The try that published could not say so."""
    pipeline.produce([message(1)])
    [batch] = pipeline.claim("dies")
    assert pipeline.publish(pipeline.stage(batch)).produced
    assert events_of(run_tasks(pipeline, batch, monkeypatch)).keys() == {load().kafka.output_topic}


def test_replay_has_events_of_its_own_topics(replayer: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the live ones got nothing."""
    replayer.produce([START, START + 1], lambda n: b"no JSON" if n else message(n), partition=0)
    [batch] = replayer.plan()[1]
    replay = load().replay
    assert events_of(run_tasks(replayer.pipeline, batch, monkeypatch)).keys() == {replay.output_topic, replay.dlq_topic}


@pytest.mark.parametrize("dry_run", [True, False], ids=["dry", "real"])
def test_repair_has_an_event_for_its_corrections(
    quick: Pipeline, partial: Batch, dry_run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run counts them, and publishes none."""
    monkeypatch.setattr(repair, "resources", quick.resources)
    manifest = to_builtins(planned(quick, partial, dry_run=dry_run))
    outlet_events = OutletEventAccessors()
    with set_current_context(RUN):
        done = repair.correct.function(manifest, outlet_events=outlet_events)
    assert done["tally"]["messages"] > 0
    topics = set() if dry_run else {load().kafka.output_topic}
    assert events_of(outlet_events).keys() == topics
    if not dry_run:
        repeated = OutletEventAccessors()
        with set_current_context(RUN):
            repair.correct.function(manifest, outlet_events=repeated)
        assert events_of(repeated) == {}
