"""A week later, Kafka has forgotten a group: whoever asks for its progress then, nothing is published twice."""

from __future__ import annotations

import signal
from typing import Any, cast

import pytest
from airflow.sdk import Context
from airflow.sdk.execution_time.context import OutletEventAccessors, set_current_context
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from enrichment.batch import Batch
from enrichment.batches.staged import Drained
from enrichment.conservation.committed import log_ranges
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import OffsetsMoved, ReplayRefused
from enrichment.orchestration.batches import publish
from enrichment.replay import turns
from enrichment.settings import load
from tests.fixtures.partials import (
    corrected_once,
    in_process,
    planned,
    run,
    states,
)
from tests.fixtures.pipeline import MakePipeline, Pipeline, message
from tests.fixtures.replayer import START, Replayer


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline."""
    return make_pipeline()


def test_live_stream_publishes_nothing_again(pipeline: Pipeline) -> None:
    """A partition without a message for a week has no committed offset any more: the claim says so by name and how far
    the group was, instead of taking the log from its start; once it is set there, the next run goes on."""
    pipeline.produce([message(n) for n in range(100)])
    [batch] = pipeline.claim("first")
    pipeline.finish(pipeline.stage(batch))
    pipeline.forget_group(batch.group_id)
    pipeline.produce([message(n) for n in range(100, 140)])
    with pytest.raises(
        OffsetsMoved,
        match=r"not where it has published to .*partition 0: at None, published to 25(?s:.*)--to-offset 25 ",
    ):
        pipeline.claim("second")
    with pipeline.resources() as r, r.clients.offsets_reader() as reader:
        ends = [TopicPartition(batch.topic, each.partition, each.end) for each in batch.ranges]
        reader.commit(offsets=ends, asynchronous=False)
    pipeline.run("third")
    report = pipeline.check()
    assert report.ok, report.summary()
    assert report.read == 140


def test_repair_that_is_done_publishes_nothing(quick: Pipeline, partial: Batch) -> None:
    """A cleared task of a pass that is done leaves everything as it is: `enrichment_publications` knows it."""
    one = planned(quick, partial)
    assert one is not None
    run(quick, one)
    before = states(quick)
    quick.forget_group(one.batch.group_id)
    assert run(quick, one)[0] is False
    assert states(quick) == before
    corrected_once(quick, partial)


def test_killed_repair_is_found_by_its_corrections(quick: Pipeline, partial: Batch) -> None:
    """`kill -9` between the commit and its record, and nobody looks for a week: the retry, of the same pass or of a
    later run, reads what got through, and corrects nothing twice."""
    one = planned(quick, partial)
    assert one is not None
    assert in_process(quick, one, "after-commit") == -signal.SIGKILL
    quick.forget_group(one.batch.group_id)
    again = planned(quick, partial)
    assert again is not None
    assert again.number == one.number
    assert [run(quick, each)[0] for each in (one, again)] == [False, False]
    corrected_once(quick, partial)
    assert states(quick)[0][1] == "repaired"


def test_window_is_gone_on_with_by_its_plan(replayer: Replayer) -> None:
    """Kafka forgets a group after a week: nobody waits for it, and a plan goes on where the ledger says."""
    replayer.produce([START + n for n in range(200)], partition=0)
    _, batches = replayer.plan()
    replayer.run(batches[0])
    replayer.pipeline.forget_group(batches[0].group_id)
    with replayer.pipeline.resources() as r:
        assert turns.is_next(r.clients, r.ledger, batches[0])
        with pytest.raises(ReplayRefused, match="has expired: clear the run's `plan`"):
            turns.is_next(r.clients, r.ledger, batches[1])
    for batch in replayer.plan()[1][1:]:
        assert replayer.run(batch).produced
    report = replayer.check()
    assert report.ok, report.summary()


def test_finished_window_is_not_published_again(replayer: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the run, one of its tasks or another run: `enrichment_replays` and the ledger know that it is done."""
    replayer.produce([START + n for n in range(200)])
    _, planned = replayer.plan()
    replayer.replay(0)
    replayer.pipeline.forget_group(planned[0].group_id)
    assert replayer.plan(run_id="another")[1] == []
    assert publish_task(replayer, replayer.pipeline.stage(planned[0]), monkeypatch)["produced"] is False
    assert replayer.replay(0)["state"] == "finished"
    assert len(replayer.replayed()) == 200


def publish_task(replayer: Replayer, drained: Drained, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A cleared `publish`, as Airflow runs it."""
    monkeypatch.setattr("enrichment.orchestration.batches.resources", replayer.pipeline.resources)
    looked_up: dict[str, Any] = {"outage": None, "counts": {}, "seconds": 0.0}
    with set_current_context(cast(Context, {})):
        done: dict[str, Any] = publish.function(
            drained.to_manifest(), dict.fromkeys(REGISTRY.by_name, looked_up), outlet_events=OutletEventAccessors()
        )
    return done


def test_batch_of_a_window_that_died_before_its_record_is_found(
    replayer: Replayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published, never recorded, and a week later the group is gone: a cleared `publish` refuses, and the plan finds
    the batch in the output. Nothing is published twice."""
    replayer.produce([START + n for n in range(200)], partition=0)
    _, planned = replayer.plan()
    replayer.run(planned[0])
    replayer.run(planned[1], dies=True)
    replayer.pipeline.forget_group(planned[0].group_id)
    drained = replayer.pipeline.stage(planned[1])
    with pytest.raises(ReplayRefused, match="has expired: clear the run's `plan`"):
        publish_task(replayer, drained, monkeypatch)
    assert [replayer.run(batch).produced for batch in replayer.plan()[1]] == [False, False, True, True]
    report = replayer.check()
    assert report.ok, report.summary()
    with replayer.pipeline.resources() as r:
        assert all((job := r.ledger.get(batch.batch_id)) and job.is_published for batch in planned)


def test_plan_refuses_when_nobody_can_tell_what_was_published(replayer: Replayer) -> None:
    """The group has expired, the ledger never heard of the publication, and the output has left the log: the replay
    names the batch, and publishes nothing."""
    replayer.produce([START + n for n in range(200)], partition=0)
    _, planned = replayer.plan()
    replayer.run(planned[0], dies=True)
    replayer.pipeline.forget_group(planned[0].group_id)
    delete_output(replayer)
    with pytest.raises(ReplayRefused, match=f"nobody can tell any more whether {planned[0].batch_id} was published"):
        replayer.plan()
    assert replayer.replayed() == []


def delete_output(replayer: Replayer) -> None:
    """Let all of a replay's output leave the log."""
    topic, servers = load().replay.output_topic, replayer.pipeline.bootstrap_servers
    ends = [TopicPartition(topic, r.partition, r.end) for r in log_ranges(servers, topic)]
    admin = AdminClient({"bootstrap.servers": servers})
    for deleted in admin.delete_records(ends).values():
        deleted.result()
