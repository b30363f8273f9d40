"""The topics whose messages are shown, what each is for, and clients that do not wait long."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from enrichment.kafka.clients import Clients
from enrichment.resources import Resources
from enrichment.settings import Settings

BROKER_SECONDS = 5.0  # that a broker has for an answer: somebody is looking on


class TopicRole(StrEnum):
    """What a topic holds."""

    INPUT = "input"
    OUTPUT = "enriched"
    DEAD_LETTERS = "dead letters"
    REPLAYED = "replayed"
    REPLAYED_DEAD = "dead letters of replays"


class ShownTopic(msgspec.Struct, frozen=True):
    """A topic that may be looked into."""

    name: str
    role: TopicRole

    @property
    def has_outputs(self) -> bool:
        """Whether its messages name the input message that they came from."""
        return self.role is not TopicRole.INPUT


def shown_topics(settings: Settings) -> dict[str, ShownTopic]:
    """The topics by name. Replays may go to where the messages went at first: such a topic is there once."""
    kafka, replay = settings.kafka, settings.replay
    roles = {
        replay.output_topic: TopicRole.REPLAYED,
        replay.dlq_topic: TopicRole.REPLAYED_DEAD,
        kafka.input_topic: TopicRole.INPUT,
        kafka.output_topic: TopicRole.OUTPUT,
        kafka.dlq_topic: TopicRole.DEAD_LETTERS,
    }
    found = [ShownTopic(name, role) for name, role in roles.items()]
    return {topic.name: topic for topic in sorted(found, key=lambda topic: list(TopicRole).index(topic.role))}


def patient_clients(r: Resources) -> Clients:
    """Clients of nobody's group that write no log and wait `BROKER_SECONDS` at most for an answer."""
    kafka = r.settings.kafka
    seconds = min(BROKER_SECONDS, kafka.request_timeout_sec)
    hasty = kafka.model_copy(update={"request_timeout_sec": seconds})
    return Clients(r.kafka_config(), hasty).quiet(lambda _error: None)
