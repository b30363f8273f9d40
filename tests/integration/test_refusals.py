"""Messages that a topic refuses become dead letters with the broker's reason; all others are published."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Message, Producer

from enrichment.columns import Header
from enrichment.conservation.committed import log_ranges, read
from enrichment.messages import HEADER_ATTEMPTS, HEADER_BATCH, HEADER_LETTER_TOPIC, HEADER_OFFSET, Reason
from tests.fixtures.kafka import MakeTopic
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message

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


@pytest.mark.parametrize("name", [HEADER_OFFSET, HEADER_BATCH, HEADER_ATTEMPTS, HEADER_LETTER_TOPIC, "own"])
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
