"""The topics whose messages are shown, what each is for, and clients that do not wait long."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from enum import StrEnum

import msgspec

from enrichment.kafka.clients import Clients
from enrichment.resources import Resources
from enrichment.settings import Settings
from enrichment.statements import Statements

DATABASE_SECONDS = 2.0
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


def shown_topics(settings: Settings, replayed: Iterable[str] = ()) -> dict[str, ShownTopic]:
    """The topics by name: those of the settings, and others that replays were sent to. Replays may go to where the
    messages went at first: such a topic is there once."""
    kafka, replay = settings.kafka, settings.replay
    roles = dict.fromkeys(replayed, TopicRole.REPLAYED) | {
        replay.output_topic: TopicRole.REPLAYED,
        replay.dlq_topic: TopicRole.REPLAYED_DEAD,
        kafka.input_topic: TopicRole.INPUT,
        kafka.output_topic: TopicRole.OUTPUT,
        kafka.dlq_topic: TopicRole.DEAD_LETTERS,
    }
    found = [ShownTopic(name, role) for name, role in roles.items()]
    return {topic.name: topic for topic in sorted(found, key=lambda topic: list(TopicRole).index(topic.role))}


def replayed_topics(r: Resources) -> list[str]:
    """The topics that replays were sent to. Raises `psycopg.Error` when the database does not answer."""
    with closing(r.query_connection(DATABASE_SECONDS)) as connection:
        rows = Statements(connection).rows("enrichment_replays/find_topics", dict[str, str], {})
    return [row["topic"] for row in rows]


def patient_clients(r: Resources) -> Clients:
    """Clients of nobody's group that write no log and wait `BROKER_SECONDS` at most for an answer."""
    kafka = r.settings.kafka
    seconds = min(BROKER_SECONDS, kafka.request_timeout_sec)
    hasty = kafka.model_copy(update={"request_timeout_sec": seconds})
    return Clients(r.kafka_config(), hasty).quiet(lambda _error: None)
