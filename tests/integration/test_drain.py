"""What a batch reads: bounded, exact, whatever the log looks like."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from enrichment.batch import OffsetRange
from enrichment.batches.claim import settle
from enrichment.batches.drain import drain
from enrichment.batches.kinds import LIVE_KIND
from enrichment.batches.stage_clock import timed_stage
from enrichment.batches.staged import EVENTS
from enrichment.enrichers.base import Enrichment, join
from enrichment.errors import OffsetsLost
from enrichment.kafka.offsets import read_settled_backlog
from enrichment.messages import Reason
from enrichment.store.jobs import JobState
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message


def produce_in_transactions(pipeline: Pipeline, count: int) -> None:
    """Messages of which every second one is aborted: each transaction leaves a marker, which takes an offset."""
    producer = Producer(
        {"bootstrap.servers": pipeline.bootstrap_servers, "transactional.id": f"sender-{pipeline.input_topic}"}
    )
    producer.init_transactions(20)
    for number in range(count):
        producer.begin_transaction()
        producer.produce(pipeline.input_topic, message(number), b"k", 0)
        producer.flush(20)  # what is aborted before it was sent leaves nothing in the log
        (producer.abort_transaction if number % 2 else producer.commit_transaction)(20)
    producer.close()


def test_gaps_in_the_offsets_are_normal(pipeline: Pipeline) -> None:
    """A range ends when the position reaches its end: aborted messages and markers are no messages, also at the very
    end."""
    produce_in_transactions(pipeline, 20)
    [batch] = pipeline.claim()
    assert batch.ranges == (OffsetRange(0, 0, 40),)
    drained = pipeline.drain(batch)
    assert (drained.messages, drained.batch.ranges) == (10, batch.ranges)
    pipeline.enrich(drained.batch)
    pipeline.publish(drained)
    report = pipeline.check()
    assert report.ok, report.summary()
    assert report.read == 10
    assert pipeline.claim("next") == []


def test_range_of_nothing_but_gaps_is_published(pipeline: Pipeline) -> None:
    """A batch without a single message still moves the group past the gap."""
    produce_in_transactions(pipeline, 2)
    [first] = pipeline.claim("first", max_messages=2)
    pipeline.publish(pipeline.stage(first))
    [rest] = pipeline.claim("rest")
    drained = pipeline.stage(rest)
    assert (drained.messages, pipeline.publish(drained).counts.total) == (0, 0)
    assert pipeline.claim("next") == []


def test_batch_is_bounded_in_messages(pipeline: Pipeline) -> None:
    """A backlog of any size is taken in batches of at most the size, and nothing is left out between them."""
    pipeline.produce([message(n) for n in range(250)])
    totals = [published.counts.total for run in range(4) for published in pipeline.run(f"run-{run}", max_messages=100)]
    assert totals == [100, 100, 50]
    report = pipeline.check()
    assert report.ok, report.summary()


def test_batch_is_bounded_in_bytes(make_pipeline: MakePipeline) -> None:
    """A batch that has its bytes ends early; the rest is the next one's."""
    pipeline = make_pipeline(KAFKA_BATCH_BYTES="20000", KAFKA_CHUNK_SIZE="10")
    pipeline.produce([message(n, message="m" * 1000) for n in range(60)])
    sizes = []
    for run in range(9):
        for batch in pipeline.claim(f"run-{run}"):
            drained = pipeline.stage(batch)
            with pipeline.resources() as r:
                r.ledger.drained(drained.batch, drained.messages, drained.value_bytes)
                assert r.ledger.find_run("dag", f"run-{run}")[0].ranges == drained.batch.ranges
                settled = settle(batch, r.ledger.get(batch.batch_id))
                again = drain(r.clients, r.staging, settled, LIVE_KIND)
            assert (again.batch.ranges, again.messages) == (drained.batch.ranges, drained.messages)
            sizes.append(drained.messages)
            pipeline.enrich(again.batch)
            pipeline.publish(again)
    assert sum(sizes) == 60
    assert max(sizes) <= 30
    report = pipeline.check()
    assert report.ok, report.summary()


def test_chunks_are_bounded_in_messages_and_bytes(make_pipeline: MakePipeline) -> None:
    """No chunk that a task holds is larger than the settings say, whatever the messages' size."""
    pipeline = make_pipeline(KAFKA_CHUNK_SIZE="40", KAFKA_CHUNK_BYTES="100000")
    pipeline.produce([message(n) for n in range(100)], partition=0)
    pipeline.produce([message(n, message="m" * 60_000) for n in range(10)], partition=1)
    [batch] = pipeline.claim()
    pipeline.drain(batch)
    with pipeline.resources() as r:
        chunks = list(r.staging.read(batch.batch_id, EVENTS))
    assert sum(c.num_rows for c in chunks) == 110
    assert max(c.num_rows for c in chunks) <= 40


def test_only_named_partitions_are_read(pipeline: Pipeline) -> None:
    """A manual run may be limited to some partitions; one that the topic does not have is named."""
    pipeline.produce([message(n) for n in range(40)])
    [batch] = pipeline.claim("some", partitions=[1, 3])
    assert [r.partition for r in batch.ranges] == [1, 3]
    with pytest.raises(ValueError, match=r"no partitions \[9\]"):
        pipeline.claim("none", partitions=[9])


def lose(pipeline: Pipeline, before: int) -> None:
    """Let the log of partition 0 start at an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers})
    for deleted in admin.delete_records([TopicPartition(pipeline.input_topic, 0, before)]).values():
        deleted.result()


def test_lost_offsets_fail_loudly(pipeline: Pipeline) -> None:
    """Unread messages that have left the log are reported with their number and place, never skipped in silence."""
    pipeline.produce([message(n) for n in range(40)])
    pipeline.run("first", max_messages=8)
    lose(pipeline, 7)
    with pytest.raises(OffsetsLost, match=r"5 unread offsets .*partition 0: committed 2, log starts at 7"):
        pipeline.claim("second")


def test_lost_offsets_are_passed_when_the_policy_says_so(make_pipeline: MakePipeline) -> None:
    """With the policy `earliest` the group is moved to the log's start, reported, and the rest is published."""
    pipeline = make_pipeline(KAFKA_OFFSETS_LOST_POLICY="earliest")
    pipeline.produce([message(n) for n in range(40)])
    pipeline.run("first", max_messages=8)
    lose(pipeline, 7)
    assert pipeline.run("second")[0].produced
    report = pipeline.check([OffsetRange(0, 7, 10), *(OffsetRange(p, 0, 10) for p in range(1, PARTITIONS))])
    assert report.ok, report.summary()


def test_range_that_leaves_the_log_while_it_waits_is_named(pipeline: Pipeline) -> None:
    """A batch whose offsets are gone before it is drained says which, instead of reading something else."""
    pipeline.produce([message(n) for n in range(40)])
    [batch] = pipeline.claim()
    lose(pipeline, 7)
    with pytest.raises(OffsetsLost, match=r"partition 0 .*claimed 0 to 10"):
        pipeline.drain(batch)


def test_message_that_breaks_the_pipeline_is_cornered(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad batch never stops the topic: what fails alone is set aside, all else is published, in order, once."""
    pipeline = make_pipeline(KAFKA_BATCH_SIZE="64")
    pipeline.produce([message(n, user_id="poison" if n == 21 else "user-1") for n in range(48)], partition=2)

    def breaks(keys: pa.DictionaryArray, *rest: Any) -> Enrichment:
        if "poison" in keys.dictionary.to_pylist():
            raise ValueError("a bug")
        return join(keys, *rest)

    monkeypatch.setattr("enrichment.enrichers.base.join", breaks)
    for run in range(40):
        for batch in pipeline.claim(f"run-{run}"):
            try:
                with pipeline.resources() as r, timed_stage(r, batch.batch_id, "user"):
                    drained = pipeline.stage(batch)
            except ValueError:
                continue
            pipeline.publish(drained)
    report = pipeline.check()
    assert report.ok, report.summary()
    assert report.dead_reasons == {Reason.PROCESSING_FAILED: 1}
    with pipeline.resources() as r, r.clients.offsets_reader():
        assert [b.span for b in read_settled_backlog(r.clients)] == [0] * PARTITIONS
        failed = r.ledger.get("dag/run-0/0")
    assert failed is not None
    assert (failed.state, failed.error) == (JobState.FAILED, "user: ValueError: a bug")


BAD_INPUT: dict[str, tuple[bytes | None, str | None]] = {
    "not JSON": (b"GET /index.html 200", "invalid-json"),
    "not UTF-8": (b"\xff\xfe\x00", "invalid-encoding"),
    "not an object": (b"[1, 2, 3]", "not-an-object"),
    "missing field": (b'{"timestamp": "now"}', "missing-field"),
    "wrong type": (message(1, level=3), "wrong-type"),
    "tombstone": (None, "empty-message"),
    "nested deeply": (message(1)[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested-too-deep"),
    "enormous": (message(1, message="m" * 2_500_000), "message-too-large"),
    "no address": (message(1, source_ip="999.1.2.3"), None),
    "keys of the output": (message(1, geo_country="Utopia", enrichment_errors=["mine"], business_risk_score=9), None),
}


def test_bad_input_costs_nobody_else_anything(pipeline: Pipeline) -> None:
    """Each kind of bad message has its one declared outcome, and every other message is enriched."""
    good = [message(n) for n in range(100, 120)]
    pipeline.produce([*good, *(value for value, _ in BAD_INPUT.values()), *good])
    [published] = pipeline.run()
    report = pipeline.check()
    assert report.ok, report.summary()
    reasons = [reason for _, reason in BAD_INPUT.values() if reason is not None]
    assert report.dead_reasons == dict.fromkeys(reasons, 1)
    assert published.counts.total == len(good) * 2 + len(BAD_INPUT)
    assert published.counts.by_reason["invalid-ip"] == 1
    assert json.loads(json.dumps(published.counts.by_source))["geo-ip"] == len(good) * 2 + 1
