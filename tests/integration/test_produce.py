"""Records sent to a real broker: all of them arrive as they are, or it is said that they did not."""

from __future__ import annotations

from itertools import count
from random import Random
from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException

from enrichment.conservation.committed import log_ranges, read
from include.local import records
from include.local.generate import Options, main, messages
from include.local.records import Record, produce
from tests.fixtures.kafka import MakeTopic


def test_records_arrive_as_they_are(kafka: str, topic: MakeTopic) -> None:
    """Key, value, timestamp and headers of each record, equal keys in one partition; the number sent is told."""
    name = topic("produced", partitions=3)
    made = list(messages(Options(count=2_500, malformed=0.05, start_ms=1_705_312_800_000)))
    told: list[int] = []
    assert produce(made, kafka, name, advance=told.append) == 2_500
    assert told == [1_000, 2_000, 2_500]
    arrived = list(read(kafka, name, log_ranges(kafka, name)))
    found = [Record(m.key(), m.value(), m.timestamp()[1], m.headers() or []) for m in arrived]  # type: ignore[arg-type]
    assert sorted(found, key=repr) == sorted(made, key=repr)
    partitions: dict[bytes | None, set[int | None]] = {}
    for message in arrived:
        partitions.setdefault(message.key(), set()).add(message.partition())
    assert all(len(where) == 1 for where in partitions.values())


def test_rate_is_a_ceiling(kafka: str, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that are sent at a rate take the time that this takes, however quickly the broker answers. (By a clock
    that goes on by a millisecond whenever somebody looks.)"""
    ticks = count()
    monkeypatch.setattr(records, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 1000))
    assert produce(messages(Options(count=50)), kafka, topic("paced"), rate=50) == 50
    assert next(ticks) >= 1000


def test_produce_fails_when_the_broker_refuses_a_record(kafka: str, topic: MakeTopic) -> None:
    """A record that the topic does not take is an error, not a silence."""
    name = topic("small", max_message_bytes="1000")
    with pytest.raises(KafkaException) as refused:
        produce([Record(b"k", Random(1).randbytes(5_000), 0, [])], kafka, name)
    assert refused.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE


def test_command_line_sends_when_a_broker_is_named(
    kafka: str, topic: MakeTopic, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--bootstrap-servers` and `--topic` get the messages; the progress is plain lines where there is no terminal."""
    name = topic("sent")
    assert main(["--count", "300", "--rate", "3000", "--bootstrap-servers", kafka, "--topic", name]) == 0
    assert [(r.start, r.end) for r in log_ranges(kafka, name)] == [(0, 300)]
    assert f"messages sent to {name}: 300 of 300" in capsys.readouterr().err
