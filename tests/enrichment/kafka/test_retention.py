"""What a topic's configuration means for messages of some time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from enrichment.kafka.retention import Load, OldMessages, Retention
from enrichment.kafka.topics import topic_configs
from enrichment.settings import KafkaSettings, ReplaySettings

NOW = 1_700_000_000_000
DAY = 86_400_000
WEEK = 7 * DAY
KEEP_BYTES = 10**10
RETENTION = {
    "cleanup.policy": "delete",
    "retention.ms": str(WEEK),
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
}


def retention(**changed: str) -> Retention:
    """A topic's, with the brokers' defaults for what is not named."""
    config = {**RETENTION, **{name.replace("_", "."): value for name, value in changed.items()}}
    return Retention.of("out", {name: SimpleNamespace(value=value) for name, value in config.items()})


@pytest.mark.parametrize(
    ("kept", "oldest"),
    [
        pytest.param(retention(), NOW - WEEK, id="time"),
        pytest.param(retention(retention_ms="0"), NOW, id="nothing"),
        pytest.param(retention(retention_ms="-1"), None, id="for-ever"),
        pytest.param(retention(retention_ms=str(2**63 - 1)), None, id="beyond-all-times"),
        pytest.param(retention(message_timestamp_type="LogAppendTime"), None, id="time-of-appending"),
        pytest.param(retention(cleanup_policy="compact"), None, id="compacted"),
        pytest.param(retention(cleanup_policy="compact, delete"), NOW - WEEK, id="both"),
        pytest.param(retention(retention_ms="-1", retention_bytes="1"), None, id="size"),
    ],
)
def test_oldest_time_that_is_kept(kept: Retention, oldest: int | None) -> None:
    """Only deletion by the messages' own time makes a message too old."""
    assert kept.oldest_kept(NOW) == oldest
    load = Load()
    load.add(0, 10, NOW - WEEK - 1)
    assert bool(load.lost_by_time([kept], NOW, KEEP_BYTES)) == (oldest is not None)
    recent = Load()
    recent.add(0, 10, NOW)
    recent.add(0, 10, -1)
    recent.add(0, 10, None)
    assert recent.lost_by_time([kept], NOW, KEEP_BYTES) == []


def test_text_has_the_command_that_mends_it() -> None:
    """Topic, limit, oldest message, and the command; a topic that has a limit of size keeps it."""
    load = Load()
    load.add(0, 10, NOW - WEEK - 1)
    [text] = load.lost_by_time([retention()], NOW, KEEP_BYTES)
    assert "topic out deletes what is older than 7 days (retention.ms=604800000)" in text
    assert "2023-11-07T22:13:19.999Z" in text
    assert text.endswith(
        "kafka-configs.sh --bootstrap-server <brokers> --alter --entity-type topics --entity-name out "
        "--add-config retention.ms=-1,retention.bytes=10000000000"
    )
    assert retention(retention_bytes="5").command(KEEP_BYTES).endswith("--add-config retention.ms=-1")
    assert retention().command(-1).endswith("--add-config retention.ms=-1")


def test_size_and_compaction_are_doubted() -> None:
    """What no time tells: more bytes for a partition than it keeps, and keys that replace each other."""
    load = Load()
    for partition, size in ((0, 60), (1, 50), (0, 60)):
        load.add(partition, size, NOW)
    [size_text] = load.doubtful([retention(retention_bytes="100")])
    assert "keeps 100 bytes of a partition (retention.bytes), and 120 bytes" in size_text
    assert size_text.endswith("--add-config retention.bytes=480")
    assert load.doubtful([retention(retention_bytes="120"), retention()]) == []
    [compacted] = load.doubtful([retention(cleanup_policy="compact", retention_bytes="100")])
    assert compacted.endswith("--add-config cleanup.policy=delete")
    assert Load().doubtful([retention(cleanup_policy="compact", retention_bytes="0")]) == []


def test_old_messages_are_counted_by_topic() -> None:
    """How many, and the oldest of them, in any order and of any chunk; messages without a time are none."""
    old = OldMessages([retention(), retention()._replace(topic="dlq")], NOW, KEEP_BYTES)
    old.see("out", np.array([NOW, NOW - 9 * DAY, -1], dtype=np.int64))
    old.see("dlq", np.array([NOW - WEEK], dtype=np.int64))
    old.see("other", np.array([1], dtype=np.int64))
    assert old.warnings() != ()
    old.see("out", np.array([NOW - 8 * DAY, NOW], dtype=np.int64))
    [text] = old.warnings()
    epoch = OldMessages([retention()], NOW, KEEP_BYTES)
    epoch.see("out", np.array([0], dtype=np.int64))
    assert "the oldest of 1970-01-01T00:00:00.000Z" in epoch.warnings()[0]
    assert "2 of the messages published there are older, the oldest of 2023-11-05T22:13:20.000Z" in text


def test_topics_of_the_pipeline_delete_nothing_by_time() -> None:
    """Every topic that is created says for itself what it keeps, whatever its brokers' defaults are."""
    kafka = KafkaSettings(retention_bytes=123)
    for name, config in topic_configs(kafka, ReplaySettings()).items():
        if name == kafka.redriven_topic:
            assert config["cleanup.policy"] == "compact"
        else:
            assert {key: config[key] for key in RETENTION} == {
                "cleanup.policy": "delete",
                "retention.ms": "-1",
                "retention.bytes": "123",
                "message.timestamp.type": "CreateTime",
            }
