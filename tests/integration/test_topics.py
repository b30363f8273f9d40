"""The command that creates the topics, on a real broker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from enrichment.errors import TopicRefused
from enrichment.kafka import topics
from enrichment.kafka.topics import DEAD_LETTER_BYTES, MESSAGE_BYTES
from enrichment.settings import KafkaSettings

PLUGINS = Path(__file__).parents[2] / "plugins"


def create(topic_names: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    command = [sys.executable, "-m", "enrichment.kafka", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(PLUGINS), **topic_names}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def settings_of(admin: AdminClient, topic: str) -> tuple[int, str, str]:
    """A topic's partitions, its largest message and what is done with old ones."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    config = admin.describe_configs([resource])[resource].result()
    partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
    return len(partitions), config["max.message.bytes"].value, config["cleanup.policy"].value


def test_topics_are_made_as_the_pipeline_needs_them(kafka: str, topic_names: dict[str, str]) -> None:
    """All six, under the settings' names and large enough; run again, those that there are stay as they are."""
    servers = ("--bootstrap-servers", kafka)
    ended = create(topic_names, *servers, "--partitions", "3", "--client", "client.id=test")
    assert (ended.returncode, ended.stderr) == (0, "")
    again = create(topic_names, *servers, "--partitions", "5")
    assert again.returncode == 0
    assert again.stderr.splitlines()[0] == (
        f"topic {topic_names['KAFKA_INPUT_TOPIC']} exists, with 3 partitions, and stays as it is"
    )
    assert len(again.stderr.splitlines()) == 6
    admin = AdminClient({"bootstrap.servers": kafka})
    redriven = f"{topic_names['KAFKA_DLQ_TOPIC']}-redriven"
    assert {name: settings_of(admin, name) for name in (*topic_names.values(), redriven)} == {
        topic_names["KAFKA_INPUT_TOPIC"]: (3, str(MESSAGE_BYTES), "delete"),
        topic_names["KAFKA_OUTPUT_TOPIC"]: (3, str(MESSAGE_BYTES), "delete"),
        topic_names["KAFKA_DLQ_TOPIC"]: (3, str(DEAD_LETTER_BYTES), "delete"),
        redriven: (3, str(MESSAGE_BYTES), "compact"),  # the broker's own size
        topic_names["REPLAY_OUTPUT_TOPIC"]: (3, str(MESSAGE_BYTES), "delete"),
        topic_names["REPLAY_DLQ_TOPIC"]: (3, str(DEAD_LETTER_BYTES), "delete"),
    }


def test_brokers_of_airflows_connection(kafka: str, topic_names: dict[str, str]) -> None:
    """`--connection` takes them, and its options, as the tasks do; one that is none is named."""
    options = json.dumps({"conn_type": "kafka", "extra": {"bootstrap.servers": kafka, "client.id": "test"}})
    ended = create({**topic_names, "AIRFLOW_CONN_KAFKA_STACKLENS": options}, "--connection", "--partitions", "1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert settings_of(AdminClient({"bootstrap.servers": kafka}), topic_names["KAFKA_INPUT_TOPIC"])[0] == 1
    refused = create({**topic_names, "AIRFLOW_CONN_KAFKA_STACKLENS": "kafka://broker:9092"}, "--connection")
    assert refused.returncode == 1
    assert 'its extra needs {"bootstrap.servers": "host:9092"}; its host is not read' in refused.stderr
    assert "Traceback" not in refused.stderr


def test_topics_from_before_that_do_not_keep_what_goes_into_them(kafka: str, topic_names: dict[str, str]) -> None:
    """Topics that there were stay as they are, and a line for each says what is wrong and which command mends it."""
    admin = AdminClient({"bootstrap.servers": kafka})
    redriven = f"{topic_names['KAFKA_DLQ_TOPIC']}-redriven"
    before = {
        topic_names["KAFKA_INPUT_TOPIC"]: {
            "message.timestamp.type": "LogAppendTime"
        },  # its messages' times do not count
        topic_names["KAFKA_OUTPUT_TOPIC"]: {},  # the brokers' default: a week
        topic_names["KAFKA_DLQ_TOPIC"]: {"retention.ms": "-1", "cleanup.policy": "compact"},
        redriven: {"cleanup.policy": "compact,delete"},
        topic_names["REPLAY_OUTPUT_TOPIC"]: {"retention.ms": "-1"},
    }
    made = admin.create_topics([NewTopic(n, 1, config=config) for n, config in before.items()], operation_timeout=30)
    for creation in made.values():
        creation.result()
    topics.await_topics(admin, before)
    ended = create(topic_names, "--bootstrap-servers", kafka, "--partitions", "1")
    assert ended.returncode == 0
    altered = "kafka-configs.sh --bootstrap-server <brokers> --alter --entity-type topics --entity-name"
    assert {
        line.split(f" {altered} ")[1]: line.split(":")[1].split("(")[0].strip() for line in ended.stderr.splitlines()
    } == {
        f"{topic_names['KAFKA_OUTPUT_TOPIC']} --add-config retention.ms=-1,retention.bytes=10737418240": (
            f"topic {topic_names['KAFKA_OUTPUT_TOPIC']} deletes what is older than 7 days"
        ),
        f"{topic_names['KAFKA_DLQ_TOPIC']} --add-config cleanup.policy=delete": (
            f"topic {topic_names['KAFKA_DLQ_TOPIC']} is compacted"
        ),
        f"{redriven} --add-config cleanup.policy=compact": f"topic {redriven} deletes",
    }


def test_topics_that_the_broker_refuses(kafka: str, topic_names: dict[str, str]) -> None:
    """More replicas than brokers: one line says which topic and why, and the exit code is 1."""
    ended = create(topic_names, "--bootstrap-servers", kafka, "--replication-factor", "3")
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"Kafka did not create the topic {topic_names['KAFKA_INPUT_TOPIC']}: ")
    assert "only 1 broker(s)" in line


def test_brokers_that_are_away(topic_names: dict[str, str]) -> None:
    """One line says what was tried and why it failed, not one for each try to connect."""
    ended = create(topic_names, "--bootstrap-servers", "127.0.0.1:1", "--client", "socket.timeout.ms=2000")
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"Kafka did not create the topic {topic_names['KAFKA_INPUT_TOPIC']}: ")
    assert "Connection refused" in line


def test_waiting_for_topics_ends(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics that no broker comes to know are named, after a while."""
    monkeypatch.setattr(topics, "KNOWN_SECONDS", 1)
    with pytest.raises(TopicRefused, match="Kafka created never-made, but no broker knows of it yet"):
        topics.await_topics(AdminClient({"bootstrap.servers": kafka}), ["never-made"])


def test_topics_take_more_than_what_is_published() -> None:
    """The topics take more than the pipeline's largest message, and the dead letters' topic more than what comes in."""
    assert KafkaSettings().max_message_bytes < MESSAGE_BYTES < DEAD_LETTER_BYTES
