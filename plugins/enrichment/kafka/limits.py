"""What topics are configured to take, asked of the brokers."""

from __future__ import annotations

from typing import Any

from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

from enrichment.kafka.clients import Clients
from enrichment.limits import FOREVER, TopicLimits


def topic_limits(clients: Clients, *topics: str) -> list[TopicLimits]:
    """What each topic takes, and the settings allow. Raises `KafkaException` where there is no such topic."""
    described = describe_topics(clients, *topics)
    return [
        limits_of(topic, {name: entry.value for name, entry in config.items()}, clients.settings.max_message_bytes)
        for topic, config in zip(topics, described, strict=True)
    ]


def limits_of(topic: str, config: dict[str, Any], max_message_bytes: int) -> TopicLimits:
    """The limits of a topic by its configuration. Brokers of other makes leave settings out: these limit nothing."""
    # A message is a batch at least, and no batch may be larger than a segment.
    sizes = [int(config[name]) for name in ("max.message.bytes", "segment.bytes") if config.get(name)]
    is_timed = config.get("message.timestamp.type") != "LogAppendTime"
    return TopicLimits(
        topic,
        min(max_message_bytes, *sizes),
        max_age_ms=_distance(config, "before") if is_timed else FOREVER,
        max_ahead_ms=_distance(config, "after") if is_timed else FOREVER,
        compacted="compact" in (config.get("cleanup.policy") or ""),
    )


def _distance(config: dict[str, Any], side: str) -> int:
    """How far a timestamp may lie from the broker's time. Until Kafka 4 one setting stood for both sides where
    neither of them was given its own."""
    own = int(config.get(f"message.timestamp.{side}.max.ms") or FOREVER)
    return own if own != FOREVER else int(config.get("message.timestamp.difference.max.ms") or FOREVER)


def describe_topics(clients: Clients, *topics: str) -> list[dict[str, Any]]:
    """The configuration of each topic. Raises `KafkaException` where there is none."""
    admin = clients.admin()  # kept until the answers are there: they die with it
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    described = admin.describe_configs(resources, request_timeout=clients.settings.request_timeout_sec)
    return [described[resource].result() for resource in resources]
