"""What is published stays: through the broker's retention checks, or somebody is told before."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable

import psycopg
import pytest
from confluent_kafka import Producer

from enrichment.batch import Batch, RedriveFilter
from enrichment.conservation.committed import log_ranges
from enrichment.dead_letters import redrive
from enrichment.dead_letters.reasons import default_reasons
from enrichment.errors import RedriveRefused, ReplayRefused
from enrichment.kafka.topics import create_topics
from enrichment.settings import load
from tests.fixtures.kafka import MakeTopic, alter
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message
from tests.fixtures.replayer import START, Replayer

WEEK_MS = "604800000"
CHECK_SECONDS = 20


def obey(bootstrap_servers: str, text: str) -> None:
    """Do what every command in a text says."""
    commands = re.findall(r"kafka-configs\.sh .*?--entity-name (\S+) --add-config (\S+)", text)
    assert commands, text
    for topic, changes in commands:
        alter(bootstrap_servers, topic, **dict(change.split("=") for change in changes.split(",")))


def await_check(bootstrap_servers: str, topic: MakeTopic) -> None:
    """Return when the broker has deleted what is past its retention: twice, since the first of its checks may have
    passed the other topics before they held anything."""
    for _ in range(2):
        await_one_check(bootstrap_servers, topic)


def await_one_check(bootstrap_servers: str, topic: MakeTopic) -> None:
    """Return when a message of long ago has left a topic of its own."""
    control, deadline = topic("control", retention_ms=WEEK_MS), time.monotonic() + CHECK_SECONDS
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    producer.produce(control, b"old", timestamp=START)
    assert producer.flush(20) == 0
    producer.close()
    while log_ranges(bootstrap_servers, control)[0].start == 0:
        assert time.monotonic() < deadline, "the broker's retention check has not run"
        time.sleep(0.1)


@pytest.fixture
def made(make_replayer: Callable[..., Replayer], kafka: str, topic_names: dict[str, str]) -> Replayer:
    """A replay over topics as the pipeline makes them."""
    replayer = make_replayer(KAFKA_CONSUMER_GROUP=f"group-{uuid.uuid4().hex[:8]}", **topic_names)
    settings = load()
    create_topics({"bootstrap.servers": kafka}, settings.kafka, settings.replay, partitions=PARTITIONS)
    return replayer


def test_window_of_long_ago_outlives_the_retention_check(made: Replayer, kafka: str, topic: MakeTopic) -> None:
    """Messages of years ago, their outputs and dead letters, replayed and redriven ones: all are there after the broker
    has deleted what is past its retention."""
    settings = load()
    made.produce([START + n for n in range(48)], lambda n: b"no JSON" if n % 8 == 0 else message(n))
    made.pipeline.run()
    told = made.replay(0)
    assert (told["counts"]["dead"], told["differences"]["same"]) == (6, 48)
    topics = [settings.kafka.input_topic, settings.kafka.output_topic, settings.kafka.dlq_topic]
    topics += [settings.replay.output_topic, settings.replay.dlq_topic]
    before = {name: log_ranges(kafka, name) for name in topics}
    await_check(kafka, topic)
    assert {name: log_ranges(kafka, name) for name in topics} == before
    assert {r.start for held in before.values() for r in held} == {0}
    replayed = made.check()
    assert (replayed.ok, replayed.analytics, replayed.dead) == (True, 42, 6), replayed.summary()
    live = made.pipeline.check()
    assert live.ok, live.summary()


def test_topic_by_time_loses_what_is_old(kafka: str, topic: MakeTopic) -> None:
    """The other side: without a fitting retention, the check that the test above waits for takes such messages."""
    weekly = topic("weekly", retention_ms=WEEK_MS)
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(weekly, b"old", timestamp=START)
    assert producer.flush(20) == 0
    producer.close()
    await_check(kafka, topic)
    assert log_ranges(kafka, weekly)[0].start == 1


def warnings_of(pipeline: Pipeline, batch: Batch) -> list[str]:
    """What the ledger has for a person to look at."""
    with pipeline.resources() as r:
        job = r.ledger.get(batch.batch_id)
    assert job is not None
    return list(job.warnings)


def found(pattern: str, texts: list[str]) -> list[str]:
    """What the pattern's group is in each text."""
    return [match[1] for text in texts if (match := re.search(pattern, text))]


@pytest.mark.parametrize("before", [0, 1], ids=["first", "after younger ones"])
def test_live_draining_warns_of_what_will_not_stay(
    pipeline: Pipeline, kafka: str, before: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A backlog older than the topics' retention is published; log and ledger say before and after that it will be
    gone, how much of it, and the command. Once that is done, nobody warns."""
    topics = load().kafka
    producer = Producer({"bootstrap.servers": kafka})
    for partition in range(PARTITIONS * before):
        producer.produce(pipeline.input_topic, message(1), b"k", partition)
    assert producer.flush(20) == 0
    producer.close()
    for batch in pipeline.claim("before"):
        pipeline.finish(pipeline.stage(batch))
    for name in (topics.output_topic, topics.dlq_topic):
        alter(kafka, name, retention_ms=WEEK_MS)
    pipeline.produce([message(n) for n in range(39)] + [b"no JSON"])
    with caplog.at_level(logging.WARNING):
        [batch] = pipeline.claim()
        claimed = warnings_of(pipeline, batch)
        pipeline.finish(pipeline.stage(batch))
    assert found(r"^topic (\S+) deletes", claimed) == [topics.output_topic, topics.dlq_topic]
    assert all(f"partition 0 from offset {before}, partition 1 from offset {before}" in text for text in claimed)
    published = warnings_of(pipeline, batch)[len(claimed) :]
    assert found(r": (\d+) of the messages published there are older", published) == ["39", "1"]
    assert all("2023-11-14T22:13:20" in text for text in published)
    assert sum("batch.warning" in r.getMessage() for r in caplog.records) == 4
    for text in published:
        obey(kafka, text)
    pipeline.produce([message(n) for n in range(8)])
    [batch] = pipeline.claim("later")
    pipeline.finish(pipeline.stage(batch))
    assert warnings_of(pipeline, batch) == []


def test_old_message_behind_a_young_one_is_found_when_published(pipeline: Pipeline, kafka: str) -> None:
    """Times in no order: the claim, which reads no more than the first message, is silent; the publish counts."""
    output = load().kafka.output_topic
    alter(kafka, output, retention_ms=WEEK_MS)
    producer = Producer({"bootstrap.servers": kafka})
    for at in (int(time.time() * 1000), START, START + 1):
        producer.produce(pipeline.input_topic, message(1), b"k", 0, timestamp=at)
    assert producer.flush(20) == 0
    producer.close()
    [batch] = pipeline.claim()
    assert warnings_of(pipeline, batch) == []
    pipeline.finish(pipeline.stage(batch))
    [text] = warnings_of(pipeline, batch)
    assert "2 of the messages published there are older, the oldest of 2023-11-14T22:00:00.000Z" in text


@pytest.mark.parametrize("changed", [{"message_timestamp_type": "LogAppendTime"}, {"cleanup_policy": "compact"}])
def test_time_of_appending_and_compaction_make_nothing_too_old(
    pipeline: Pipeline, kafka: str, changed: dict[str, str]
) -> None:
    """Where the messages' own times do not count, nobody warns of them."""
    for name in (load().kafka.output_topic, load().kafka.dlq_topic):
        alter(kafka, name, retention_ms=WEEK_MS, **changed)
    pipeline.produce([message(n) for n in range(8)])
    [batch] = pipeline.claim()
    assert warnings_of(pipeline, batch) == []
    pipeline.finish(pipeline.stage(batch))
    assert warnings_of(pipeline, batch) == []


@pytest.mark.parametrize("setting", ["REPLAY_OUTPUT_TOPIC", "REPLAY_DLQ_TOPIC"])
def test_replay_that_would_not_stay_is_refused(replayer: Replayer, kafka: str, setting: str,
                                               caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    """Nothing is written down, the text has the command, a dry run only warns; a window without messages is none's
    concern; once the command is given, the window is replayed."""
    topics = load().replay
    name = topics.output_topic if setting == "REPLAY_OUTPUT_TOPIC" else topics.dlq_topic
    alter(kafka, name, retention_ms=WEEK_MS)
    replayer.produce([START + 5 + n for n in range(20)])
    with pytest.raises(ReplayRefused, match=rf"^topic {name} deletes .*oldest .* 2023-11-14T22:00:00.005Z") as refused:
        replayer.plan()
    with psycopg.connect(replayer.pipeline.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM enrichment_replays").fetchall() == [(0,)]
    with caplog.at_level(logging.WARNING):
        counted, _ = replayer.plan(dry_run=True)
    assert counted.selected == 20
    assert any(f"retention.doubtful topic {name} deletes" in r.getMessage() for r in caplog.records)
    assert replayer.plan(5)[0].selected == 0
    obey(kafka, str(refused.value))
    assert sum(replayer.replay(0)["counts"].values()) == 20


def test_replay_says_when_a_topic_is_too_small(
    replayer: Replayer, kafka: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Size is no time: more for a partition than the topic keeps of it is said, and replayed."""
    alter(kafka, load().replay.output_topic, retention_bytes="1000")
    replayer.produce([START + n for n in range(20)], partition=0)
    with caplog.at_level(logging.WARNING):
        assert replayer.plan()[0].selected == 20
    assert any("keeps 1000 bytes of a partition (retention.bytes)" in r.getMessage() for r in caplog.records)


def test_live_batch_says_when_a_topic_is_too_small(pipeline: Pipeline, kafka: str) -> None:
    """More in a batch than the output topic keeps of a partition stands in the ledger."""
    alter(kafka, load().kafka.output_topic, retention_bytes="1000")
    pipeline.produce([message(n) for n in range(40)])
    [batch] = pipeline.claim()
    drained = pipeline.stage(batch)
    pipeline.finish(drained)
    [text] = warnings_of(pipeline, batch)
    assert f"keeps 1000 bytes of a partition (retention.bytes), and {drained.value_bytes // 4} bytes" in text


def test_redrive_that_would_not_stay_is_refused(
    make_pipeline: MakePipeline, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters of old messages are not sent in again to topics that would not keep them; a dry run counts them, and the
    command lets them pass."""
    pipeline = make_pipeline(ENRICHMENT_REQUIRED_SOURCES="business-context")
    pipeline.produce([message(n, request_id=f"nobody-{n}") for n in range(8)])
    pipeline.run("live")
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "")
    output = load().kafka.output_topic
    alter(kafka, output, retention_ms=WEEK_MS)

    def claim(run_id: str, *, dry_run: bool = False) -> list[Batch]:
        with pipeline.resources() as r:
            wanted = RedriveFilter(
                source_topic=pipeline.input_topic, reasons=default_reasons(), max_attempts=3, max_letter_bytes=10**6
            )
            return redrive.claim(
                r.clients,
                r.ledger,
                r.settings,
                wanted,
                dag_id="redrive",
                run_id=run_id,
                max_letters=100,
                dry_run=dry_run,
            )[0]

    with pytest.raises(RedriveRefused, match=rf"^topic {output} deletes") as refused:
        claim("refused")
    with pipeline.resources() as r:
        assert r.ledger.find_run("redrive", "refused") == []
    assert len(claim("dry", dry_run=True)) == 1
    obey(kafka, str(refused.value))
    [batch] = claim("again")
    assert pipeline.finish(pipeline.stage(batch)).counts.partial == 8
    report = pipeline.check()
    assert report.ok, report.summary()
