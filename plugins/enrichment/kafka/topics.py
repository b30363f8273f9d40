"""The topics that the pipeline needs: their names from the settings, their sizes and partitions from here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]
from confluent_kafka.cimpl import NewTopic

from enrichment.errors import TopicRefused
from enrichment.kafka.asking import with_retries
from enrichment.kafka.clients import Clients
from enrichment.settings import KafkaSettings, ReplaySettings

PARTITIONS = 4
# Larger than what the pipeline publishes (KAFKA_MAX_MESSAGE_BYTES), so that too large a message can come in and become
# a dead letter, which wraps it.
MESSAGE_BYTES = 4 * 1024**2
DEAD_LETTER_BYTES = 2 * MESSAGE_BYTES
BROKERS_DEFAULT = -1
KNOWN_SECONDS = 30
NO_ID = "A" * 22  # the answer of brokers without topic ids


def topic_configs(topics: KafkaSettings, replay: ReplaySettings | None = None) -> dict[str, dict[str, str]]:
    """The pipeline's topics and those of replays, each with its configuration."""
    # Messages keep the time of their event, so nothing is deleted by time: a backlog, a replay or a dead letter of last
    # month would be gone as soon as it was published. Deletion by size takes what was appended first.
    kept = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "CreateTime",
        "retention.ms": "-1",
        "retention.bytes": str(topics.retention_bytes),
    }
    messages, letters = ({**kept, "max.message.bytes": str(size)} for size in (MESSAGE_BYTES, DEAD_LETTER_BYTES))
    configs = {
        topics.input_topic: messages,
        topics.output_topic: messages,
        topics.dlq_topic: letters,
        topics.redriven_topic: {"cleanup.policy": "compact"},  # a marker must not leave before its dead letter
    }
    if replay is not None:
        configs |= {replay.output_topic: messages, replay.dlq_topic: letters}
    return configs


def create_topics(
    client: Mapping[str, Any],
    topics: KafkaSettings,
    replay: ReplaySettings | None = None,
    *,
    partitions: int = PARTITIONS,
    replication_factor: int = BROKERS_DEFAULT,
) -> list[str]:
    """Create the missing topics with a client of this configuration, and wait until a broker knows them. Existing ones
    stay as they are; returns their names. Raises `TopicRefused`."""
    configs, admin = topic_configs(topics, replay), AdminClient(dict(client))
    wanted = [
        NewTopic(name, num_partitions=partitions, replication_factor=replication_factor, config=config)
        for name, config in configs.items()
    ]
    there = []
    for name, creation in admin.create_topics(wanted, operation_timeout=30).items():
        try:
            creation.result()
        except KafkaException as refused:
            if refused.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                admin.poll(0)  # where the client has an `error_cb`: why brokers cannot be reached
                raise TopicRefused(f"Kafka did not create the topic {name}: {refused.args[0].str()}") from refused
            there.append(name)
    await_topics(admin, configs)
    return there


def count_partitions(clients: Clients, names: Iterable[str]) -> dict[str, int]:
    """How many partitions each of these topics has. Raises `KafkaException`."""
    known = clients.admin().list_topics(timeout=clients.settings.request_timeout_sec).topics
    return {name: len(known[name].partitions) for name in names}


def describe_topics(clients: Clients, *topics: str) -> list[dict[str, Any]]:
    """The configuration of each topic. Raises `KafkaException` for a topic that does not exist."""
    admin = clients.admin()
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    described = admin.describe_configs(resources, request_timeout=clients.settings.request_timeout_sec)
    return [described[resource].result() for resource in resources]


def await_topics(admin: AdminClient, names: Iterable[str]) -> None:
    """Wait for topics that were just created: the controller answers before its brokers know them. Raises
    `TopicRefused` when they do not know them in time."""
    wanted, deadline = set(names), time.monotonic() + KNOWN_SECONDS
    try:
        while missing := wanted - admin.list_topics(timeout=KNOWN_SECONDS).topics.keys():
            if time.monotonic() > deadline:
                raise TopicRefused(f"Kafka created {', '.join(sorted(missing))}, but no broker knows of it yet")
            time.sleep(0.05)
    except KafkaException as silent:
        raise TopicRefused(
            f"Kafka created {', '.join(sorted(wanted))}, but does not tell: {silent.args[0]}"
        ) from silent


def read_topic_id(clients: Clients, topic: str) -> str | None:
    """Kafka's id of a topic, as its tools print it; None where the brokers have no ids. Raises `KafkaException`."""
    admin = clients.admin()
    names = TopicCollection([topic])
    described = with_retries(
        lambda seconds: admin.describe_topics(names, request_timeout=seconds)[topic].result(),
        clients.settings.request_timeout_sec,
    )
    topic_id = str(described.topic_id).replace("+", "-").replace("/", "_")
    return None if topic_id == NO_ID else topic_id
