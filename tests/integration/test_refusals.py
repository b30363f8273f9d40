"""Messages that a topic refuses become dead letters with the broker's reason; all others are published."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from random import Random
from typing import Any, NamedTuple

import psycopg
import pytest
from confluent_kafka import Message, Producer

from enrichment.batch import RedriveFilter
from enrichment.batches.stage_clock import timed_stage
from enrichment.codec.records import Header
from enrichment.conservation.committed import log_ranges, read
from enrichment.dead_letters import redrive
from enrichment.errors import BatchRefused, BatchUnbalanced, PublishRefused, ReplayRefused
from enrichment.kafka.limits import limits_of
from enrichment.kafka.offsets import read_settled_backlog
from enrichment.kafka.sink import LanePublisher
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import HEADER_ATTEMPTS, HEADER_LETTER_TOPIC, HEADER_ORIGIN, Reason
from enrichment.repair.pending import PendingState
from enrichment.store.jobs import JobState
from tests.fixtures import partials
from tests.fixtures.kafka import MakeTopic, alter
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message
from tests.fixtures.replayer import START, Replayer
from tests.fixtures.user_service import UserService

FOREVER = str(2**63 - 1)
NOW = int(time.time() * 1000)
HOUR = 3_600_000


class Sent(NamedTuple):
    """A message of the input."""

    timestamp: int = NOW
    key: bytes | None = b"k"
    headers: Sequence[Header] = ()
    partition: int = 0
    value: bytes | None = None


MakeLimited = Callable[..., Pipeline]


@pytest.fixture
def make_limited(make_pipeline: MakePipeline, topic: MakeTopic) -> MakeLimited:
    """Makes pipelines whose output and dead letters' topics have settings of their own; the input takes any time."""

    def make(output: dict[str, str] | None = None, letters: dict[str, str] | None = None, **settings: str) -> Pipeline:
        large = {"max_message_bytes": "2097152"}
        topics = {
            "KAFKA_INPUT_TOPIC": topic(
                "enriched", PARTITIONS, message_timestamp_after_max_ms=FOREVER, max_message_bytes="4194304"
            ),
            "KAFKA_OUTPUT_TOPIC": topic("analytics", PARTITIONS, **{**large, **(output or {})}),
            "KAFKA_DLQ_TOPIC": topic("dlq", PARTITIONS, **{**large, **(letters or {})}),
        }
        topic(f"{topics['KAFKA_DLQ_TOPIC']}-redriven", 2, unique=False, cleanup_policy="compact")
        return make_pipeline(**{"KAFKA_CHUNK_SIZE": "50", **topics, **settings})

    return make


def send(pipeline: Pipeline, messages: Sequence[Sent]) -> None:
    """Put messages into the input topic."""
    producer = Producer({"bootstrap.servers": pipeline.bootstrap_servers, "message.max.bytes": 4_000_000})
    for n, sent in enumerate(messages):
        value = message(n) if sent.value is None else sent.value
        producer.produce(
            pipeline.input_topic, value, sent.key, sent.partition, timestamp=sent.timestamp, headers=list(sent.headers)
        )
    assert producer.flush(30) == 0
    producer.close()


def letters(pipeline: Pipeline) -> Iterator[tuple[Message, dict[str, Any]]]:
    """All dead letters."""
    topic, servers = pipeline.environment["KAFKA_DLQ_TOPIC"], pipeline.bootstrap_servers
    with closing(read(servers, topic, log_ranges(servers, topic, settle_seconds=10))) as messages:
        for letter in messages:
            yield letter, json.loads(letter.value() or b"")


def conserved(pipeline: Pipeline, messages: int, reasons: dict[Reason, int]) -> None:
    """Each message has one output, and the dead ones have these reasons."""
    report = pipeline.check()
    assert report.ok, report.summary()
    assert (report.read, report.dead_reasons) == (messages, reasons)


OLD = {"message_timestamp_before_max_ms": str(24 * HOUR)}
PREDICTED: dict[str, tuple[dict[str, str], Sent, str]] = {
    "microseconds": ({}, Sent(NOW * 1000), "INVALID_TIMESTAMP: .* (message.timestamp.after.max.ms)"),
    "nanoseconds": ({}, Sent(NOW * 1_000_000), "INVALID_TIMESTAMP: .* (message.timestamp.after.max.ms)"),
    "largest": ({}, Sent(2**63 - 1), "INVALID_TIMESTAMP: .* (message.timestamp.after.max.ms)"),
    "tomorrow": ({}, Sent(NOW + 24 * HOUR), "INVALID_TIMESTAMP: .* (message.timestamp.after.max.ms)"),
    "old": (OLD, Sent(NOW - 48 * HOUR), "INVALID_TIMESTAMP: .* (message.timestamp.before.max.ms)"),
    "seconds": (OLD, Sent(NOW // 1000), "INVALID_TIMESTAMP: .* (message.timestamp.before.max.ms)"),
    "no key": ({"cleanup_policy": "compact"}, Sent(key=None), "INVALID_RECORD: no key, .* (cleanup.policy)"),
}


@pytest.mark.parametrize("same_letters", [False, True], ids=["letters", "letters refused too"])
@pytest.mark.parametrize("case", PREDICTED)
def test_message_that_its_topic_refuses_becomes_a_dead_letter(
    make_limited: MakeLimited, case: str, same_letters: bool
) -> None:
    """What the topic's settings refuse is told before anything is sent, in one run; the letter is one that its own
    topic takes, and says what the message was."""
    settings, faulty, detail = PREDICTED[case]
    pipeline = make_limited(settings, settings if same_letters else {"message_timestamp_after_max_ms": FOREVER})
    send(pipeline, [*(Sent(partition=n % PARTITIONS) for n in range(100)), faulty, *[Sent()] * 20])
    [published] = pipeline.run()
    assert published.counts.dead_by_reason == {Reason.MESSAGE_REFUSED: 1}
    conserved(pipeline, 121, {Reason.MESSAGE_REFUSED: 1})
    [(letter, said)] = letters(pipeline)
    start, _, end = detail.partition(".*")
    assert said["error_detail"].startswith(start)
    assert said["error_detail"].endswith(end.strip())
    assert said["source_timestamp"] == faulty.timestamp
    assert said["source_key"] == (faulty.key.decode() if faulty.key else None)
    if not same_letters:
        assert (letter.timestamp()[1], letter.key()) == (faulty.timestamp, faulty.key)


@pytest.mark.parametrize("name", [HEADER_ORIGIN, HEADER_ATTEMPTS, HEADER_LETTER_TOPIC, "own"])
def test_enormous_header_costs_only_its_message(make_limited: MakeLimited, name: str) -> None:
    """A header of 2.5 MB, whatever its name: its message is set aside, all others are published."""
    pipeline = make_limited()
    send(pipeline, [Sent(), Sent(headers=[(name, b"v" * 2_500_000)]), Sent()])
    [published] = pipeline.run()
    assert published.counts.dead_by_reason == {Reason.MESSAGE_TOO_LARGE: 1}
    [(letter, said)] = letters(pipeline)
    assert (said["source_partition"], said["source_offset"]) == (0, 1)
    assert pipeline.check().defects.keys() <= {"altered"}  # the header that is gone
    assert len(letter.value() or b"") < 2_097_152


def test_small_messages_of_a_small_topic_never_exceed_it_together(make_limited: MakeLimited) -> None:
    """How much goes in one set follows from the smallest of the topics."""
    pipeline = make_limited({"max_message_bytes": "100000", "compression_type": "uncompressed"})
    noise = "".join(chr(ord("a") + (n * n * 31 + n // 7) % 26) for n in range(30_000))
    send(pipeline, [Sent(value=message(n, message=noise[n:] + noise[:n])) for n in range(60)])
    [published] = pipeline.run()
    assert published.counts.dead == 0
    conserved(pipeline, 60, {})


Limits = Callable[..., list[TopicLimits]]


def unpredicted(topic: str, _described: object, max_message_bytes: int) -> TopicLimits:
    """What is known of topics that tell nothing of themselves."""
    return TopicLimits(topic, max_message_bytes)


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What topics refuse is not told by their settings."""
    monkeypatch.setattr("enrichment.kafka.sink.limits_of", unpredicted)


SMALL = {"max_message_bytes": "5000", "compression_type": "uncompressed"}
LARGE = Sent(value=message(1, message=Random(1).randbytes(9_000).hex()))
UNFORESEEN: dict[str, tuple[dict[str, str], Sent, str]] = {
    "microseconds": ({}, Sent(NOW * 1000), "INVALID_TIMESTAMP: {} refuses it, Broker: Invalid timestamp"),
    "old": (OLD, Sent(NOW - 48 * HOUR), "INVALID_TIMESTAMP: {} refuses it, Broker: Invalid timestamp"),
    "no key": (
        {"cleanup_policy": "compact"},
        Sent(key=None),
        "INVALID_RECORD: {} refuses it, Broker: Broker failed to validate record",
    ),
    "large": (SMALL, LARGE, "MSG_SIZE_TOO_LARGE: {} refuses it, Broker: Message size too large"),
}


@pytest.mark.usefixtures("unforeseen")
@pytest.mark.parametrize("faulty", [1, 2, 30], ids=["one", "two", "many"])
@pytest.mark.parametrize("case", UNFORESEEN)
def test_message_that_the_broker_refuses_is_found(make_limited: MakeLimited, case: str, faulty: int) -> None:
    """What nobody foresaw: in the same run each message at fault becomes a dead letter with the broker's words, in
    its place, and every other message is published."""
    settings, sent, detail = UNFORESEEN[case]
    pipeline = make_limited(settings)
    rounds = 3 if case == "large" and faulty == 30 else faulty  # found one by one: the broker names none
    at_fault = {10 * n + 5 for n in range(rounds)}
    send(pipeline, [(sent if n in at_fault else Sent())._replace(partition=n % PARTITIONS) for n in range(400)])
    [published] = pipeline.run()
    assert published.produced
    conserved(pipeline, 400, {Reason.MESSAGE_REFUSED: rounds})
    output = pipeline.environment["KAFKA_OUTPUT_TOPIC"]
    assert {said["error_detail"] for _, said in letters(pipeline)} == {detail.format(output)}


def test_headers_that_are_no_text_do_not_hide_who_is_at_fault(make_limited: MakeLimited, unforeseen: None) -> None:
    """Messages are told apart by their headers, whatever is in them."""
    pipeline = make_limited()
    odd: list[Header] = [("", None), ("é", b"\xff\x00"), (HEADER_ORIGIN, b"3"), (HEADER_ORIGIN, None)]
    send(pipeline, [Sent(NOW * (1000 if n == 7 else 1), headers=odd) for n in range(20)])
    pipeline.run()
    conserved(pipeline, 20, {Reason.MESSAGE_REFUSED: 1})
    assert [said["source_offset"] for _, said in letters(pipeline)] == [7]


def test_letter_that_the_broker_refuses_is_written_otherwise(make_limited: MakeLimited, unforeseen: None) -> None:
    """A time that the dead letters' topic refuses, too, gives way to that of now."""
    pipeline = make_limited({}, {"cleanup_policy": "compact"})
    send(pipeline, [Sent(), Sent(NOW * 1000, None), Sent(value=b"no JSON", key=None), Sent()])
    pipeline.run()
    conserved(pipeline, 4, {Reason.MESSAGE_REFUSED: 1, Reason.INVALID_JSON: 1})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("max.message.bytes", "5000", Reason.MESSAGE_TOO_LARGE),
        ("message.timestamp.before.max.ms", str(24 * HOUR), Reason.MESSAGE_REFUSED),
    ],
)
def test_topic_that_is_changed_meanwhile(
    make_limited: MakeLimited, monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: Reason
) -> None:
    """A limit that is lowered between the look at it and the sending is known to the next try, which is the same
    task's."""
    pipeline = make_limited()
    asked: list[str] = []

    def lowered(topic: str, described: Mapping[str, Any], max_message_bytes: int) -> TopicLimits:
        found = limits_of(topic, described, max_message_bytes)
        if not asked:
            alter(pipeline.bootstrap_servers, topic, **{name: value})
        asked.append(topic)
        return found

    monkeypatch.setattr("enrichment.kafka.sink.limits_of", lowered)
    send(pipeline, [Sent(), LARGE._replace(timestamp=NOW - 48 * HOUR), Sent(), Sent(partition=1)])
    pipeline.run()
    conserved(pipeline, 4, {reason: 1})
    assert len(asked) == 2 * 2  # both topics, at each try


def test_refusal_that_leads_nowhere_says_what_and_where(make_limited: MakeLimited, unforeseen: None) -> None:
    """A letter that its topic refuses in every form fails the batch: error, topic, partition and offset are named."""
    pipeline = make_limited({}, {"max_message_bytes": "300"})
    send(pipeline, [*(Sent(partition=n % PARTITIONS) for n in range(40)), Sent(value=b"no JSON", partition=2)])
    [batch] = pipeline.claim()
    drained = pipeline.stage(batch)
    letters_topic = pipeline.environment["KAFKA_DLQ_TOPIC"]
    where = rf"{letters_topic} \[2\] refuses {pipeline.input_topic} partition 2 offset 10"
    with pytest.raises(BatchRefused, match=rf"MSG_SIZE_TOO_LARGE: .*{where}$") as refused:
        pipeline.publish(drained)
    assert refused.value.partitions == (2,)
    assert pipeline.check().analytics == 0


def try_run(pipeline: Pipeline, run_id: str) -> list[bool]:
    """A run as its tasks do it; which of its batches were published."""
    published = []
    for batch in pipeline.claim(run_id):
        drained = pipeline.stage(batch)
        try:
            with pipeline.resources() as r, timed_stage(r, batch.batch_id, "publish"):
                pipeline.finish(drained)
        except (BatchRefused, BatchUnbalanced):
            published.append(False)
        else:
            published.append(True)
    return published


def waits(pipeline: Pipeline) -> list[int]:
    """How many messages wait in each partition."""
    with pipeline.resources() as r:
        return [b.span for b in read_settled_backlog(r.clients)]


def test_partitions_without_fault_go_on(make_limited: MakeLimited, unforeseen: None) -> None:
    """Where one message cannot be published at all, the other partitions wait for one run; the ledger says why, and the
    next batches over it are smaller, until it stands alone. Once its topic takes it, nothing was lost."""
    pipeline = make_limited({}, {"max_message_bytes": "300"})
    sent = [Sent(value=b"no JSON" if n == 2 else None, partition=n % PARTITIONS) for n in range(160)]
    send(pipeline, sent)
    assert try_run(pipeline, "0") == [False]
    with pipeline.resources() as r:
        job = r.ledger.get("dag/0/0")
    assert job is not None
    assert job.state is JobState.FAILED
    letters_topic = pipeline.environment["KAFKA_DLQ_TOPIC"]
    assert job.error is not None
    assert job.error.startswith("publish: BatchRefused: kafka-producer-error: batch dag/0/0: MSG_SIZE_TOO_LARGE: ")
    assert job.error.endswith(f"; {letters_topic} [2] refuses {pipeline.input_topic} partition 2 offset 0")
    assert try_run(pipeline, "1") == [True]
    assert waits(pipeline) == [0, 0, 40, 0]
    sizes = []
    for run in range(2, 10):
        send(pipeline, [Sent(partition=1)] * (run % 2))
        [batch] = pipeline.claim(str(run))
        sizes.append(batch.span)
        try_run(pipeline, str(run))
    assert sizes == [20, 1, 10, 1, 5, 1, 1, 1]
    assert waits(pipeline) == [0, 0, 40, 0]
    alter(pipeline.bootstrap_servers, letters_topic, max_message_bytes="100000")
    for run in range(10, 60):
        try_run(pipeline, str(run))
    conserved(pipeline, 164, {Reason.INVALID_JSON: 1})


def test_refusal_that_is_nobodys_fault_is_noted_and_shrinks_nothing(
    make_limited: MakeLimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that is fenced: the ledger says so, and the next claim takes as much."""
    pipeline = make_limited()
    send(pipeline, [Sent()] * 40)
    [batch] = pipeline.claim("first")
    drained = pipeline.stage(batch)
    enter = LanePublisher.standing

    def fenced(publisher: LanePublisher) -> Any:
        found = enter(publisher)
        monkeypatch.setattr(LanePublisher, "standing", enter)
        with pipeline.resources() as r, LanePublisher(r.clients, batch):
            return found

    monkeypatch.setattr(LanePublisher, "standing", fenced)
    with pipeline.resources() as r, pytest.raises(PublishRefused), timed_stage(r, batch.batch_id, "publish"):
        pipeline.publish(drained)
    with pipeline.resources() as r:
        job = r.ledger.get(batch.batch_id)
    assert job is not None
    assert job.state is not JobState.FAILED
    assert job.error is not None
    assert "publish: PublishRefused: kafka-producer-error: batch dag/first/0: _FENCED" in job.error
    assert [again.span for again in pipeline.claim("second")] == [40]
    pipeline.finish(drained)
    conserved(pipeline, 40, {})


@pytest.mark.parametrize("foreseen", [True, False], ids=["foreseen", "unforeseen"])
def test_replay_of_refused_messages_comes_to_its_end(
    make_replayer: Callable[..., Replayer], monkeypatch: pytest.MonkeyPatch, topic: MakeTopic, foreseen: bool
) -> None:
    """Its batches are fixed and never shrink: what their topic refuses becomes dead letters all the same."""
    compacted = topic("replay", PARTITIONS, cleanup_policy="compact")
    replayer = make_replayer(REPLAY_OUTPUT_TOPIC=compacted)
    producer = Producer({"bootstrap.servers": replayer.pipeline.bootstrap_servers})
    for n in range(40):
        key = None if n % 8 == 3 else b"k"
        producer.produce(replayer.pipeline.input_topic, message(n), key, n % PARTITIONS, timestamp=START + n)
    assert producer.flush(30) == 0
    producer.close()
    if not foreseen:
        monkeypatch.setattr("enrichment.kafka.sink.limits_of", unpredicted)
    replayer.replay(0)
    report = replayer.check()
    assert report.ok, report.summary()
    assert (report.read, report.dead_reasons) == (40, {Reason.MESSAGE_REFUSED: 5})


def test_redriven_message_that_is_refused_is_another_letter(make_limited: MakeLimited) -> None:
    """It is tried, counted, and set aside again; once its topic takes it, it is published."""
    pipeline = make_limited({"cleanup_policy": "compact"}, {"cleanup_policy": "compact"})
    send(pipeline, [Sent(), Sent(key=None), Sent()])
    pipeline.run("live")
    for run, (analytics, dead, redriven) in enumerate([(2, 1, 1), (3, 0, 2)]):
        if run == 1:
            alter(pipeline.bootstrap_servers, pipeline.environment["KAFKA_OUTPUT_TOPIC"], cleanup_policy="delete")
        with pipeline.resources() as r:
            wanted = RedriveFilter(
                pipeline.input_topic, (Reason.MESSAGE_REFUSED,), 9, redrive.max_letter_bytes(r.clients)
            )
            [batch], _ = redrive.claim(
                r.clients, r.ledger, r.settings, wanted, dag_id="redrive", run_id=str(run), max_letters=9, dry_run=False
            )
        pipeline.finish(pipeline.stage(batch))
        report = pipeline.check()
        assert report.ok, report.summary()
        assert (report.analytics, report.dead, report.redriven) == (analytics, dead, redriven)


@pytest.mark.parametrize("foreseen", [True, False], ids=["foreseen", "unforeseen"])
def test_correction_that_is_refused_holds_up_no_other(
    quick: Pipeline, user_service: UserService, monkeypatch: pytest.MonkeyPatch, foreseen: bool
) -> None:
    """Its message stays partial, all others are corrected, and the batch ends in a state that says why."""
    user_service.set_fault(status=503)
    send(quick, [Sent(partition=n % PARTITIONS, key=None if n == 5 else b"k") for n in range(20)])
    [batch] = partials.publish_all(quick, "down")
    user_service.end_fault()
    alter(quick.bootstrap_servers, quick.environment["KAFKA_OUTPUT_TOPIC"], cleanup_policy="compact")
    if not foreseen:
        monkeypatch.setattr("enrichment.kafka.sink.limits_of", unpredicted)
        monkeypatch.setattr("enrichment.kafka.limits.limits_of", unpredicted)
    one = partials.planned(quick, batch)
    assert one is not None
    assert partials.run(quick, one) == (True, {"user-profile": PendingState.UNREPAIRABLE})
    assert sorted(len(v) for v in partials.versions(quick, batch).values()) == [1] + [2] * 19
    assert partials.planned(quick, batch) is None
    with psycopg.connect(quick.dsn) as connection:
        [(detail, corrected)] = connection.execute("SELECT detail, corrected FROM enrichment_pending").fetchall()
    assert corrected == 19
    assert "; 1 corrections are refused by analytics-" in detail
    assert "(INVALID_RECORD: " in detail


def test_flood_of_refused_messages_holds_up_no_other_partition(make_limited: MakeLimited) -> None:
    """Where a whole partition is refused the batch is suspect, and only that partition is: the others go on."""
    pipeline = make_limited(ENRICHMENT_DEAD_LETTER_SHARE_FROM="40")
    send(pipeline, [Sent(NOW * 1000, partition=2)] * 100)
    send(pipeline, [Sent(partition=n % 2) for n in range(40)])
    assert try_run(pipeline, "0") == [False]
    assert try_run(pipeline, "1") == [True]
    assert waits(pipeline) == [0, 0, 100, 0]
    for run in range(2, 20):
        try_run(pipeline, str(run))
    conserved(pipeline, 140, {Reason.MESSAGE_REFUSED: 100})


def test_replay_of_what_its_topics_do_not_take_is_refused(
    make_replayer: Callable[..., Replayer], topic: MakeTopic
) -> None:
    """A window that is older than its output topic takes is refused when it is planned, with the command that helps."""
    young = topic("replay", PARTITIONS, **OLD)
    replayer = make_replayer(REPLAY_OUTPUT_TOPIC=young)
    replayer.produce([START, START + 1])
    command = f"--alter --entity-type topics --entity-name {young} --add-config message.timestamp.before"
    with pytest.raises(ReplayRefused, match=command):
        replayer.plan(0)
    alter(replayer.pipeline.bootstrap_servers, young, message_timestamp_before_max_ms=FOREVER)
    replayer.replay(0)
    assert replayer.check().read == 2
