"""Whoever reads all that is published by now waits for what is committed, and says so where a transaction stays
open."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition

from enrichment.batch import Batch, OffsetRange, RedriveFilter
from enrichment.batches.publish import utc_now
from enrichment.conservation.committed import log_ranges, whole_log_ranges
from enrichment.dead_letters import redrive
from enrichment.dead_letters.markers import read_markers
from enrichment.dead_letters.reasons import default_reasons
from enrichment.errors import TransactionOpen
from enrichment.kafka import settled
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import read_settled_backlog
from enrichment.kafka.source import read_ranges
from enrichment.repair import passes as repair
from enrichment.replay import report
from enrichment.settings import load
from tests.fixtures.kafka import MakeTopic
from tests.fixtures.partials import planned
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message
from tests.fixtures.replayer import START, Replayer
from tests.fixtures.strangers import HOLD_SECONDS, Stranger

Begin = Callable[..., Stranger]


@pytest.fixture
def clients(kafka: str) -> Clients:
    """Clients of the broker."""
    return Clients({"bootstrap.servers": kafka}, load().kafka)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for open transactions are short."""
    monkeypatch.setattr(settled, "SETTLE_SECONDS", 0.2)


def test_wait_ends_with_the_transaction(clients: Clients, topic: MakeTopic, stranger: Begin) -> None:
    """A transaction that is committed meanwhile is waited for, and no longer."""
    held = topic("held", partitions=2)
    one, began = stranger(held, 1), time.monotonic()
    with one.committing_soon():
        assert settled.await_stable(clients, held) == {}
        assert HOLD_SECONDS / 2 < time.monotonic() - began < settled.SETTLE_SECONDS
    assert [r.end for r in log_ranges(clients._config, held, settle_seconds=0)] == [0, 2]


def test_wait_is_bounded_and_names_what_is_hidden(
    clients: Clients, topic: MakeTopic, stranger: Begin, impatient: None
) -> None:
    """A transaction that stays open hides its own partition only; who does not read that one is not concerned."""
    held, other = topic("held", partitions=2), topic("other")
    stranger(held, 1)
    assert settled.await_stable(clients, other, held) == {held: (OffsetRange(1, 0, 1),)}
    assert settled.await_stable(clients, held, partitions=[0]) == {}
    with pytest.raises(TransactionOpen, match=rf"partition 1: offsets 0 to 1.*--topic {held} --partition 1"):
        settled.require_stable(clients, other, held)
    settled.require_stable(clients, other)


def test_what_is_written_later_is_not_waited_for(clients: Clients, topic: MakeTopic, stranger: Begin) -> None:
    """Publishers that follow each other without a gap hold nobody up: only what was there at first counts."""
    held = topic("held")
    first, second = stranger(held), stranger(held, sends=False)
    with first.committing_soon(second.send):
        assert settled.await_stable(clients, held) == {}
    assert settled.await_stable(clients, held, seconds=0.2) == {
        held: (OffsetRange(0, 1, 3),)
    }  # the first marker stands behind it


def test_claim_takes_what_is_committed_and_leaves_what_is_hidden(pipeline: Pipeline, stranger: Begin) -> None:
    """The backlog has messages whose transaction was committed a moment ago; one that stays open does not stop it."""
    with pipeline.resources() as r:
        with stranger(pipeline.input_topic, 1, message(0)).committing_soon():
            assert [b.high for b in read_settled_backlog(r.clients)] == [0, 2, 0, 0]
        stranger(pipeline.input_topic, 2)
        pipeline.produce([message(n) for n in range(4)])
        assert [b.span for b in read_settled_backlog(r.clients)] == [1, 3, 0, 1]


@pytest.mark.parametrize("side", ["before", "after"])
def test_replay_compares_with_all_that_was_published(replayer: Replayer, stranger: Begin, side: str) -> None:
    """What hides a publication when the window is planned, or when it is compared, is waited for."""
    replayer.produce([START + n for n in range(20)])
    settings, held = load(), None
    if side == "before":
        held = stranger(settings.kafka.output_topic)
    replayer.pipeline.run()
    with held.committing_soon() if held else nullcontext():
        planned_, batches = replayer.plan()
    if side == "after":
        held = stranger(settings.replay.output_topic)
    for batch in batches:
        replayer.run(batch)
    with replayer.pipeline.resources() as r, held.committing_soon() if held and side == "after" else nullcontext():
        told = report.report(r.clients, r.ledger, r.replays, planned_.purpose)
    assert (told["differences"]["replayed"], told["differences"]["same"]) == (20, 20)


def test_replay_says_that_a_transaction_is_open(replayer: Replayer, stranger: Begin, impatient: None) -> None:
    """Neither the plan nor the report goes on without what an open transaction hides of the outputs."""
    replayer.produce([START + n for n in range(20)])
    planned_, batches = replayer.plan()
    one = stranger(load().replay.output_topic)
    for batch in batches:
        replayer.run(batch)
    with replayer.pipeline.resources() as r:
        with pytest.raises(TransactionOpen, match=r"describe-producers"):
            report.report(r.clients, r.ledger, r.replays, planned_.purpose)
        with pytest.raises(TransactionOpen):
            replayer.plan(1)
        one.commit()
        assert report.report(r.clients, r.ledger, r.replays, planned_.purpose)["differences"]["replayed"] == 20


def test_redrive_sees_letters_that_were_just_set_aside(
    pipeline: Pipeline, stranger: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters and markers behind a transaction that ends are seen; while it stays open, the others are."""
    topics = load().kafka
    pipeline.produce([b"no JSON"] * PARTITIONS)
    one = stranger(topics.dlq_topic, 1)
    pipeline.run()
    wanted = RedriveFilter(
        source_topic=pipeline.input_topic, reasons=default_reasons(), max_attempts=3, max_letter_bytes=10**6
    )
    with pipeline.resources() as r:
        with monkeypatch.context() as patch:
            patch.setattr(settled, "SETTLE_SECONDS", 0.2)
            assert redrive.look_through(r.clients, wanted, {}, 10).survey().scanned == PARTITIONS - 1
        with one.committing_soon():
            assert redrive.look_through(r.clients, wanted, {}, 10).survey().scanned == PARTITIONS + 1
        with stranger(topics.redriven_topic, 0, b"batch", key=b"1:0").committing_soon():
            assert read_markers(r.clients) == {(1, 0): "batch"}


def test_repair_waits_for_what_it_corrects(
    quick: Pipeline,
    partial: Batch,
    stranger: Begin,
    impatient: None,
) -> None:
    """A pass over a batch that an open transaction hides says so, publishes nothing, and works when it has ended."""
    one = stranger(load().kafka.output_topic)
    due = planned(quick, partial)
    assert due is not None
    with quick.resources() as r:
        with pytest.raises(TransactionOpen):
            repair.run(r, due, utc_now)
        one.commit()
        assert repair.run(r, due, utc_now)[1]


def test_check_does_not_take_the_hidden_for_lost(kafka: str, topic: MakeTopic, stranger: Begin) -> None:
    """The conservation check waits by itself, and says that a transaction is open instead of calling messages lost."""
    held = topic("held", partitions=2)
    one = stranger(held, 1)
    with pytest.raises(TransactionOpen, match=rf"partition 1 of {held} since offset 0"):
        whole_log_ranges(kafka, held, settle_seconds=0.2)
    assert [r.end for r in log_ranges(kafka, held, settle_seconds=0.2)] == [0, 0]
    with one.committing_soon():
        assert [r.end for r in log_ranges(kafka, held)] == [0, 2]


def test_reader_that_stalls_says_that_a_transaction_is_open(
    clients: Clients, topic: MakeTopic, stranger: Begin
) -> None:
    """Offsets behind an open transaction are waited for as long as a request, and the error says whose to look for."""
    held = topic("held")
    stranger(held)
    slow = Clients(clients._config, clients.settings.model_copy(update={"request_timeout_sec": 1.0}))
    with pytest.raises(KafkaException, match=rf"Is a transaction open\?.*--topic {held}"):
        list(read_ranges(slow, held, [OffsetRange(0, 0, 1)]))


def test_claim_says_that_a_stranger_holds_the_offsets_back(make_pipeline: MakePipeline) -> None:
    """A transaction on the group's offsets that no lane of it owns can only be ended by its owner: the claim says so
    in time, and works when it has ended."""
    pipeline = make_pipeline(KAFKA_REQUEST_TIMEOUT_SEC="4")
    pipeline.produce([message(n) for n in range(8)])
    pipeline.run("first", max_messages=4)
    settings = {"bootstrap.servers": pipeline.bootstrap_servers, "transactional.id": f"odd-{pipeline.input_topic}"}
    producer = Producer(settings)
    producer.init_transactions(20)
    producer.begin_transaction()
    with pipeline.resources() as r, r.clients.offsets_reader() as reader:
        offset = TopicPartition(pipeline.input_topic, 0, 1)
        producer.send_offsets_to_transaction([offset], reader.consumer_group_metadata(), 20)
    with pytest.raises(TransactionOpen, match="no lane of it owns"):
        pipeline.claim("held")
    producer.abort_transaction(20)
    producer.close()
    assert len(pipeline.claim("free")) == 1
