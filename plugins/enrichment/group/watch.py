"""What waits for the group, seen again and again by somebody who is no member of it: the wake-up, the page."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from enrichment.errors import EnrichmentError
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import Backlog, read_backlog
from enrichment.settings import KafkaSettings


class BacklogWatch:
    """Clients that write no log of their own, and keep no offsets. Every method may block; a broker has `seconds` for
    an answer."""

    def __init__(self, settings: KafkaSettings, seconds: float) -> None:
        self.topic = settings.input_topic
        self.is_open = False
        self._settings = settings
        self._seconds = seconds
        self._errors: list[KafkaError] = []
        self._open = ExitStack()

    def open(self, config: Mapping[str, Any]) -> None:
        """Make the clients. Raises `SettingsError` for an option that they do not take."""
        self._errors.clear()
        self.clients = Clients(config, self._settings).quiet(self._errors.append)
        self._consumer = self._open.enter_context(self.clients.offsets_reader())
        self._admin = self._open.enter_context(self.clients.admin())
        self.is_open = True

    def backlog(self) -> list[Backlog]:
        """What waits in each partition. Raises `KafkaException` with the reason why no broker answers,
        `TransactionOpen`, `SettingsError` where there is no such topic."""
        try:
            backlog = read_backlog(self._consumer, self._admin, self.topic, self._seconds)
        except (KafkaException, EnrichmentError) as failed:
            self._consumer.poll(0)  # has `_errors` told
            # That all brokers are down says less than what is the matter with one of them.
            told = [e for e in self._errors if e.name() != "_ALL_BROKERS_DOWN"]
            if told:
                raise KafkaException(told[-1]) from failed
            raise
        self._consumer.poll(0)  # has those of before told: not the reason of a later failure
        self._errors.clear()
        return backlog

    def close(self) -> None:
        """Close the clients, if they are open."""
        self.is_open = False
        self._open.close()
