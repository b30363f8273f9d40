"""The limits that topics are configured with, read from the brokers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enrichment.kafka.clients import Clients
from enrichment.kafka.topic_limits import FOREVER, TopicLimits
from enrichment.kafka.topics import describe_topics


def topic_limits(clients: Clients, *topics: str) -> list[TopicLimits]:
    """The limits of each topic, within those of the settings. Raises `KafkaException` where there is no such topic."""
    described = zip(topics, describe_topics(clients, *topics), strict=True)
    return [limits_of(topic, config, clients.settings.max_message_bytes) for topic, config in described]


def limits_of(topic: str, described: Mapping[str, Any], max_message_bytes: int) -> TopicLimits:
    """The limits of a topic as its brokers describe it. A setting that other brokers than Kafka's leave out limits
    nothing."""
    config = {name: entry.value for name, entry in described.items()}
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
    """How far a timestamp may lie from the broker's time. Before Kafka 4 one setting could stand for both sides."""
    own = int(config.get(f"message.timestamp.{side}.max.ms") or FOREVER)
    return own if own != FOREVER else int(config.get("message.timestamp.difference.max.ms") or FOREVER)
