"""The trigger that watches the backlog, on a real Kafka, and what a task finds waiting."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.triggers.base import TriggerEvent
from confluent_kafka import ConsumerGroupState, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from enrichment.batch import Batch
from enrichment.group import doorbell
from enrichment.group.doorbell import Ring
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import commit
from enrichment.orchestration import wake_up
from enrichment.orchestration.common import BACKLOG, WAITING
from enrichment.orchestration.wake_up import BacklogTrigger
from enrichment.settings import WakeUpSettings, load
from enrichment.store.jobs import Ledger
from tests.fixtures.kafka import Broker, free_ports
from tests.fixtures.pipeline import Pipeline, message
from tests.fixtures.replayer import START, Replayer
from tests.fixtures.scheduler import eventually
from tests.fixtures.tasks import run_tasks

SASL = {
    "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "user", "sasl.password": "guess",
}  # fmt: skip
PATIENCE_SECONDS = 60
A_WHILE = 1.0  # several looks


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for half a second, and not for a minute where something is wrong."""
    monkeypatch.setattr(wake_up, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(wake_up, "LONGEST_PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(wake_up, "FIRST_PAUSE_SECONDS", 0.05)
    monkeypatch.setenv("WAKE_UP_AFTER_SEC", "0")


def connect(monkeypatch: pytest.MonkeyPatch, bootstrap_servers: str, **extra: Any) -> None:
    """Have Airflow's connection lead there."""
    config = {"bootstrap.servers": bootstrap_servers, **extra}
    monkeypatch.setenv("AIRFLOW_CONN_KAFKA_STACKLENS", json.dumps({"conn_type": "kafka", "extra": config}))


@asynccontextmanager
async def rings() -> AsyncIterator[asyncio.Queue[dict[str, Any]]]:
    """What the trigger rings for during the block."""
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def listen() -> None:
        async with aclosing(BacklogTrigger().run()) as events:
            async for event in events:
                assert isinstance(event, TriggerEvent)
                heard.put_nowait(event.payload)

    listening = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def next_ring(heard: asyncio.Queue[dict[str, Any]]) -> dict[str, Any]:
    return await asyncio.wait_for(heard.get(), PATIENCE_SECONDS)


async def silence(heard: asyncio.Queue[dict[str, Any]]) -> None:
    """Nothing is rung for a while."""
    await asyncio.sleep(A_WHILE)
    assert heard.empty()


def test_rings_once_for_each_progress(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while nothing waits, not again while the group stands still, and with the group's own progress it stops."""
    connect(monkeypatch, pipeline.bootstrap_servers)

    async def watch() -> None:
        async with rings() as heard:
            await silence(heard)
            await asyncio.to_thread(pipeline.produce, [message(n) for n in range(8)], 0)
            assert (await next_ring(heard))["waiting"] > 0
            await asyncio.to_thread(pipeline.produce, [message(n) for n in range(8)], 1)
            await silence(heard)
            await asyncio.to_thread(pipeline.run, "all")
            await silence(heard)
            await asyncio.to_thread(pipeline.produce, [message(9)], 2)
            assert (await next_ring(heard))["waiting"] == 1

    asyncio.run(watch())


def test_takes_no_part_in_the_group(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no member, commits nothing and reads nothing: the group is as if nobody had looked."""
    connect(monkeypatch, pipeline.bootstrap_servers)
    pipeline.produce([message(1)])
    admin, group = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers}), load().kafka.consumer_group

    async def watch() -> None:
        async with rings() as heard:
            await next_ring(heard)
            described = await asyncio.to_thread(admin.describe_consumer_groups([group])[group].result)
            assert list(described.members) == []
            assert described.state in (ConsumerGroupState.DEAD, ConsumerGroupState.EMPTY)

    asyncio.run(watch())
    assert group not in {found.group_id for found in admin.list_consumer_groups().result().valid}


def test_what_an_open_transaction_hides_does_not_wait(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is committed, it does."""
    connect(monkeypatch, pipeline.bootstrap_servers)
    producer = Producer({"bootstrap.servers": pipeline.bootstrap_servers, "transactional.id": pipeline.input_topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(pipeline.input_topic, message(1), partition=0)
    producer.flush(30)

    async def watch() -> None:
        async with rings() as heard:
            await silence(heard)
            await asyncio.to_thread(producer.commit_transaction, 30)
            assert (await next_ring(heard))["waiting"] == 2  # offsets: of the message and of the mark of the commit

    asyncio.run(watch())


def test_looks_again_when_the_topic_has_come(
    kafka: str, topic_names: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Until then it says so once, in one line."""
    connect(monkeypatch, kafka)
    for name, value in topic_names.items():
        monkeypatch.setenv(name, value)
    topic = topic_names["KAFKA_INPUT_TOPIC"]

    async def watch() -> None:
        async with rings() as heard:
            await silence(heard)
            assert len([r for r in caplog.records if "wake_up.failed" in r.message]) == 1
            admin = AdminClient({"bootstrap.servers": kafka})
            await asyncio.to_thread(admin.create_topics([NewTopic(topic, 1)])[topic].result)
            producer = Producer({"bootstrap.servers": kafka})
            producer.produce(topic, message(1))
            await asyncio.to_thread(producer.flush, 30)
            assert (await next_ring(heard))["waiting"] == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(watch())


def test_outlives_its_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """While no broker answers, one line says what is wrong; later it rings again, but not twice for the same place: a
    broker that was killed in between has moved nothing."""
    monkeypatch.setattr(doorbell, "REQUEST_SECONDS", 1.0)
    broker = Broker(tmp_path)
    connect(monkeypatch, broker.bootstrap_servers)
    kafka = load().kafka

    def produce() -> None:
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        producer.produce(kafka.input_topic, message(1))
        assert producer.flush(30) == 0

    def complaints() -> list[str]:
        return [r.getMessage() for r in caplog.records if "wake_up.failed" in r.getMessage()]

    async def complains(before: int) -> None:
        await asyncio.to_thread(eventually, lambda: len(complaints()) > before, "a complaint")

    async def watch() -> None:
        async with rings() as heard:
            await complains(0)
            await asyncio.sleep(3 * A_WHILE)
            [said] = complaints()
            assert "Connection refused" in said or "_TRANSPORT" in said
            await asyncio.to_thread(broker.start)
            admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
            await asyncio.to_thread(admin.create_topics([NewTopic(kafka.input_topic, 1)])[kafka.input_topic].result)
            await asyncio.to_thread(produce)
            assert (await next_ring(heard))["waiting"] == 1
            before = len(complaints())
            broker.kill()
            await complains(before)
            await asyncio.to_thread(broker.start)
            await asyncio.to_thread(produce)
            await silence(heard)
            with Clients({"bootstrap.servers": broker.bootstrap_servers}, kafka).offsets_reader() as consumer:
                commit(consumer, [TopicPartition(kafka.input_topic, 0, 1)], 30)
            assert (await next_ring(heard))["waiting"] == 1

    try:
        with caplog.at_level(logging.WARNING):
            asyncio.run(watch())
    finally:
        broker.kill()


def test_event_loop_never_waits(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever imports, or asks a broker or a connection, runs in another thread: other triggers share the loop."""
    connect(monkeypatch, pipeline.bootstrap_servers)
    pipeline.produce([message(1)])
    threads: dict[str, int] = {}

    def noted(name: str) -> Callable[..., Any]:
        method = getattr(wake_up._Watch, name)

        def call(*args: Any) -> Any:
            threads[name] = threading.get_ident()
            return method(*args)

        return call

    methods = ("__init__", "connection", "open", "look", "close")
    for name in methods:
        monkeypatch.setattr(wake_up._Watch, name, noted(name))

    async def watch() -> None:
        async with rings() as heard:
            await next_ring(heard)

    asyncio.run(watch())
    assert threads.keys() == set(methods)
    assert threading.get_ident() not in threads.values()


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (SASL, "_AUTHENTICATION"),
        ({"no.such.option": "1"}, "No such configuration property"),
    ],
    ids=["credentials", "option"],
)  # fmt: skip
def test_says_once_what_is_wrong_with_its_connection(
    kafka: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, extra: dict[str, str], complaint: str
) -> None:
    """In one line each, with the reason."""
    monkeypatch.setattr(doorbell, "REQUEST_SECONDS", 0.5)
    connect(monkeypatch, kafka, **extra)

    async def watch() -> None:
        async with rings() as heard:
            await asyncio.sleep(4 * A_WHILE)
            assert heard.empty()

    with caplog.at_level(logging.WARNING):
        asyncio.run(watch())
    [said] = [r.getMessage() for r in caplog.records if "wake_up.failed" in r.getMessage()]
    assert complaint in said


def test_says_once_that_its_connection_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By its name."""
    monkeypatch.setenv("KAFKA_CONN_ID", "no_such_connection")

    async def watch() -> None:
        async with rings() as heard:
            await silence(heard)

    with caplog.at_level(logging.WARNING):
        asyncio.run(watch())
    [said] = [r.getMessage() for r in caplog.records if "wake_up.failed" in r.getMessage()]
    assert "no_such_connection" in said


def waiting_events(outlet_events: OutletEventAccessors) -> list[tuple[str, Any]]:
    """The events by which a task wakes the DAG: of which asset, for how many messages."""
    return [(e.dest_asset_key.name, e.extra["waiting"]) for e in outlet_events[WAITING].asset_alias_events]


def test_run_that_leaves_messages_is_followed(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an event of the backlog, until nothing is left; without a triggerer."""
    monkeypatch.setenv("KAFKA_BATCH_SIZE", "40")
    monkeypatch.setenv("WAKE_UP_AFTER_SEC", "300")
    pipeline.produce([message(n) for n in range(100)])
    told = []
    for run in range(3):
        [batch] = pipeline.claim(f"run-{run}")
        told += waiting_events(run_tasks(pipeline, batch, monkeypatch))
    assert told == [(BACKLOG.name, 60), (BACKLOG.name, 20)]
    assert pipeline.check().ok


@pytest.mark.parametrize(("after_sec", "followed"), [("0", True), ("300", False)])
def test_run_is_followed_for_what_came_meanwhile(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, after_sec: str, followed: bool
) -> None:
    """If it is time for that, too."""
    monkeypatch.setenv("WAKE_UP_AFTER_SEC", after_sec)
    pipeline.produce([message(n) for n in range(10)])
    [batch] = pipeline.claim("first")
    pipeline.produce([message(n) for n in range(3)])
    assert waiting_events(run_tasks(pipeline, batch, monkeypatch)) == [(BACKLOG.name, 3)] * followed


def test_other_lanes_are_left_to_their_own_batches(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another batch of the run has in hand does not wait."""
    monkeypatch.setenv("KAFKA_LANES", "2")
    pipeline.produce([message(n) for n in range(20)])
    first, second = pipeline.claim("both")
    assert waiting_events(run_tasks(pipeline, first, monkeypatch)) == []
    assert waiting_events(run_tasks(pipeline, second, monkeypatch)) == []


def test_only_live_batches_are_followed(replayer: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay leaves the group where it is, and a dry run everything."""
    replayer.produce([START, START + 1], message, partition=0)
    [batch] = replayer.plan()[1]
    assert waiting_events(run_tasks(replayer.pipeline, batch, monkeypatch)) == []
    [dry] = replayer.pipeline.claim("dry", dry_run=True)
    assert waiting_events(run_tasks(replayer.pipeline, dry, monkeypatch)) == []


def test_brokers_that_do_not_say_what_waits_cost_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch is published; the next run starts by the minute."""
    pipeline.produce([message(1)])
    [batch] = pipeline.claim("run")
    nowhere = AdminClient({"bootstrap.servers": f"127.0.0.1:{free_ports(1)[0]}", "log_level": 0})
    ask = doorbell.left_after

    def ask_nobody(batch: Batch, ledger: Ledger, clients: Clients, settings: WakeUpSettings) -> Ring | None:
        patched.setattr(clients, "_admin", nowhere)
        return ask(batch, ledger, clients, settings)

    with monkeypatch.context() as patched:
        patched.setattr(doorbell, "REQUEST_SECONDS", 1.0)
        patched.setattr(doorbell, "left_after", ask_nobody)
        assert waiting_events(run_tasks(pipeline, batch, patched)) == []
    assert [r for r in caplog.records if "wake_up.unknown" in r.getMessage()]
    assert pipeline.check().ok
