"""One look at live enrichment, on the real Kafka and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from enrichment.batches import stages
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import SettingsError
from enrichment.group.watch import BacklogWatch
from enrichment.health import now as health
from enrichment.health.now import Now, PendingSource, UnfinishedBatch, WaitingPartition
from enrichment.health.verdict import Health, judge
from enrichment.settings import load
from tests.fixtures.kafka import free_ports
from tests.fixtures.pipeline import Pipeline, message

FIRST = datetime.fromtimestamp(1_700_000_000, UTC)  # of the pipeline's messages


@pytest.fixture
def watch(pipeline: Pipeline) -> Iterator[BacklogWatch]:
    """Closed at the end."""
    opened = BacklogWatch(load().kafka, 20.0)
    yield opened
    opened.close()


def look(pipeline: Pipeline, watch: BacklogWatch, servers: str | None = None) -> Now:
    """A look with resources of its own."""
    with pipeline.resources() as r:
        config = {"bootstrap.servers": servers or pipeline.bootstrap_servers}
        return health.look(r.postgres, watch, lambda: config, r.settings)


def test_new_installation_is_well(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """Nothing has come in: no number is made up."""
    seen = look(pipeline, watch)
    assert seen.backlog == [WaitingPartition(partition, 0) for partition in range(4)]
    assert (seen.last, seen.unfinished, seen.breakers, seen.pending, seen.kafka_error) == (None, [], [], [], "")
    assert (seen.recent.messages, seen.recent.fully_enriched, seen.recent.hit_rate) == (0, None, None)
    assert judge(seen, load().service_levels).health is Health.HEALTHY


def test_waiting_messages_are_counted_with_the_time_of_the_first(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """By partition; and again, by the clients that are open."""
    pipeline.produce([message(n) for n in range(7)])
    expected = [WaitingPartition(p, 2 - (p == 3), FIRST + timedelta(milliseconds=p)) for p in range(4)]
    assert look(pipeline, watch).backlog == expected
    pipeline.produce([message(n) for n in range(2)], partition=3)
    assert look(pipeline, watch).backlog[3] == WaitingPartition(3, 3, FIRST + timedelta(milliseconds=3))
    assert watch.is_open


def test_partitions_that_are_added_are_counted_at_once(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """By clients that were opened before there were any: that is no failure of the brokers."""
    assert len(look(pipeline, watch).backlog) == 4
    topic, admin = pipeline.input_topic, AdminClient({"bootstrap.servers": pipeline.bootstrap_servers})
    admin.create_partitions([NewPartitions(topic, 6)])[topic].result()
    while len(admin.list_topics(topic, timeout=10).topics[topic].partitions) < 6:
        time.sleep(0.1)
    pipeline.produce([message(0)], partition=5)
    seen = look(pipeline, watch)
    assert seen.kafka_error == ""
    assert seen.backlog[5] == WaitingPartition(5, 1, FIRST)


def test_first_message_is_found_behind_offsets_without_any(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """What an aborted transaction has left at the head of a partition is no message."""
    config = {"bootstrap.servers": pipeline.bootstrap_servers, "transactional.id": pipeline.input_topic}
    producer = Producer(config)
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(pipeline.input_topic, b"aborted", partition=0)
    producer.flush(30)
    producer.abort_transaction(30)
    producer.close()
    pipeline.produce([message(0)], partition=0)
    assert look(pipeline, watch).backlog[0] == WaitingPartition(0, 3, FIRST)


def test_published_batch_is_told_of(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """Its run, its counts, and what the minutes' rates are made of; while it is under way, that it is."""
    pipeline.produce([message(0), b"no json", *(message(n) for n in range(2, 10))])
    [batch] = pipeline.claim("run-7")
    [unfinished] = look(pipeline, watch).unfinished
    assert (unfinished.batch_id, unfinished.run_id, unfinished.state, unfinished.error) == (
        batch.batch_id, "run-7", "claimed", None,
    )  # fmt: skip
    pipeline.finish(pipeline.stage(batch))
    seen = look(pipeline, watch)
    assert seen.last is not None
    assert (seen.last.batch_id, seen.last.run_id, seen.last.messages_read) == (batch.batch_id, "run-7", 10)
    assert (seen.waiting, seen.unfinished) == (0, [])
    recent = seen.recent
    assert (recent.messages, recent.batches, recent.dead_letter_rate) == (10, 1, 0.1)
    assert recent.messages_per_second == 10 / 300
    assert recent.errors_by_reason["invalid-json"] == 1


def test_rates_are_those_of_the_last_minutes(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """What was published before them is history."""
    pipeline.produce([message(n) for n in range(4)])
    [batch] = pipeline.claim()
    pipeline.finish(pipeline.stage(batch))
    with pipeline.resources() as r:
        later = datetime.now(UTC) + timedelta(minutes=6)
        config = {"bootstrap.servers": pipeline.bootstrap_servers}
        seen = health.look(r.postgres, watch, lambda: config, r.settings, later)
    assert seen.recent.messages == 0
    assert seen.last is not None


def test_failures_are_told_of(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """A batch that failed, an open breaker, messages that wait for their repair: each with its DAG."""
    pipeline.produce([message(n) for n in range(4)])
    [batch] = pipeline.claim("run-8")
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute(
            "UPDATE enrichment_jobs SET state = 'failed', error = 'BatchRefused: too large' WHERE batch_id = %s",
            [batch.batch_id],
        )
        connection.execute(
            "INSERT INTO circuit_breakers (name, state, opened_at) VALUES ('user-profile', 'open', now())"
        )
        connection.execute("INSERT INTO circuit_breakers (name) VALUES ('other')")
        connection.execute(
            "INSERT INTO enrichment_pending (batch_id, source, topic, messages, corrected, state)"
            " VALUES (%(batch)s, 'user-profile', 'out', 9, 2, 'open'), (%(batch)s, 'geo-ip', 'out', 4, 4, 'repaired')",
            {"batch": batch.batch_id},
        )
    seen = look(pipeline, watch)
    [unfinished], [breaker], [pending] = seen.unfinished, seen.breakers, seen.pending
    assert isinstance(unfinished, UnfinishedBatch)
    assert isinstance(pending, PendingSource)
    assert (unfinished.state, unfinished.error, unfinished.run_id) == ("failed", "BatchRefused: too large", "run-8")
    assert (breaker.name, breaker.state) == ("user-profile", "open")
    assert (pending.source, pending.batches, pending.messages) == ("user-profile", 1, 7)
    verdict = judge(seen, load().service_levels)
    assert verdict.health is Health.DOWN
    assert "dag" in {finding.dag_id for finding in verdict.findings}  # which claims here
    started = {remedy.dag_id for finding in verdict.findings for remedy in finding.remedies}
    assert {"stacklens_repair", "stacklens_enrichment"} <= started


def test_failed_batch_is_well_once_later_ones_had_its_messages(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """They take fewer at a time. Nothing waits any more, and nobody has to do anything about it."""
    pipeline.produce([message(n) for n in range(8)])
    with pipeline.resources() as r:
        [failed] = pipeline.claim("run-1")
        r.ledger.failed(failed.batch_id, "a bug")
    [seen] = look(pipeline, watch).unfinished
    assert (seen.batch_id, seen.label) == (failed.batch_id, failed.label)
    runs = 1
    while look(pipeline, watch).waiting:
        assert look(pipeline, watch).unfinished == [seen]
        runs += 1
        for batch in pipeline.claim(f"run-{runs}"):
            pipeline.finish(pipeline.stage(batch))
    assert runs > 2
    assert look(pipeline, watch).unfinished == []


def test_lane_that_fails_all_night_is_one_finding(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """Each try leaves a failed batch with the same messages: the newest is told of, with how many there are."""
    pipeline.produce([message(n) for n in range(8)])
    for run in range(3):
        [batch] = pipeline.claim(f"run-{run}")
        with pipeline.resources() as r:
            r.ledger.failed(batch.batch_id, f"bug {run}")
    seen = look(pipeline, watch)
    [unfinished] = seen.unfinished
    assert (unfinished.run_id, unfinished.error, unfinished.alike) == ("run-2", "bug 2", 3)
    [finding] = [f for f in judge(seen, load().service_levels).findings if f.run_id]
    assert "has failed like 2 before it, and its lane waits: bug 2" in finding.text


def test_what_is_set_wrong_is_named(
    pipeline: Pipeline, watch: BacklogWatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No message is at fault, so nothing is suspected: without it one would only see that nothing is published."""
    pipeline.produce([message(n) for n in range(8)])
    for run in range(2):
        [batch] = pipeline.claim(f"run-{run}")
        drained = pipeline.drain(batch)
        with monkeypatch.context() as wrong:
            wrong.setenv("BUSINESS_RISK_RULES_PATH", str(tmp_path / "gone.toml"))
            with pipeline.resources() as r, pytest.raises(SettingsError):
                stages.look_up(r, REGISTRY.by_name["business"], drained.batch)
        assert batch.span == 8
    seen = look(pipeline, watch)
    [unfinished] = seen.unfinished
    assert unfinished.alike == 2
    assert (unfinished.error or "").startswith("business: SettingsError: BUSINESS_RISK_RULES_PATH=")
    assert judge(seen, load().service_levels).health is Health.DOWN
    [trying] = pipeline.claim("run-2")  # that it is tried once more mends nothing yet
    seen = look(pipeline, watch)
    assert [batch.batch_id for batch in seen.unfinished] == [unfinished.batch_id, trying.batch_id]
    assert judge(seen, load().service_levels).health is Health.DOWN


def test_batch_of_a_topic_that_was_recreated_is_unfinished(pipeline: Pipeline, watch: BacklogWatch) -> None:
    """The group's offsets mean other messages since: that they are higher says nothing about the batch."""
    pipeline.produce([message(n) for n in range(8)])
    [batch] = pipeline.claim()
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute("UPDATE enrichment_positions SET next_offset = 1000")
        assert look(pipeline, watch).unfinished != []  # not committed yet
        connection.commit()
        assert look(pipeline, watch).unfinished == []
        connection.execute("UPDATE enrichment_positions SET topic_id = 'another'")
        connection.commit()
    assert [seen.batch_id for seen in look(pipeline, watch).unfinished] == [batch.batch_id]


def test_brokers_that_do_not_answer_are_a_finding(pipeline: Pipeline) -> None:
    """What the database knows is there all the same; once they answer, the next look has all."""
    watch = BacklogWatch(load().kafka, 1.0)
    [port] = free_ports(1)
    seen = look(pipeline, watch, f"127.0.0.1:{port}")
    assert (seen.backlog, seen.recent.messages) == ([], 0)
    assert seen.kafka_error
    assert not watch.is_open
    verdict = judge(seen, load().service_levels)
    assert verdict.health is Health.DOWN
    assert "the brokers do not say what waits" in verdict.summary
    assert len(look(pipeline, watch).backlog) == 4
    watch.close()


def test_topic_that_is_missing_is_said_by_name(
    pipeline: Pipeline, watch: BacklogWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that makes it."""
    monkeypatch.setattr(watch, "topic", "there-is-none")
    assert "python -m enrichment.kafka" in look(pipeline, watch).kafka_error
