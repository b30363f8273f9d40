"""The settings of all rooms, read from the environment together, and a fingerprint of those that affect a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from enrichment.enrichers.declare import CacheSettings, EnricherSettings
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import SettingsError
from enrichment.names import find_equal
from enrichment.settings.kafka import KafkaSettings, ReplaySettings, WakeUpSettings
from enrichment.settings.pipeline import PipelineSettings, PostgresSettings, RetentionSettings, ServiceLevelSettings
from enrichment.variables import variable

Room = TypeVar("Room", bound=BaseSettings)


def rooms() -> dict[str, type[BaseSettings]]:
    """The class of each room's settings, by the room's name: those of the enrichments have theirs."""
    return {
        "kafka": KafkaSettings,
        "wake_up": WakeUpSettings,
        **{enricher.name: enricher.settings for enricher in REGISTRY.enrichers},
        "cache": CacheSettings,
        "postgres": PostgresSettings,
        "pipeline": PipelineSettings,
        "service_levels": ServiceLevelSettings,
        "replay": ReplaySettings,
        "retention": RetentionSettings,
    }


# What the fingerprint leaves out, since it changes no message: rooms that make no batch, and fields of refreshes,
# evictions, renewals and repairs. (A new setting counts by default.)
_OTHER_ROOMS = ("wake_up", "service_levels", "replay", "retention")
_ELSEWHERE = {
    "kafka": {"at_once_messages", "request_timeout_sec", "transaction_timeout_sec", "retention_bytes"},
    "cache": {"touch_after_hours", "eviction_chunk_rows", "refresh_keys", "refresh_ahead_minutes"},
    "postgres": {
        "connect_timeout_sec", "ledger_timeout_sec", "maintenance_timeout_sec", "maintenance_lock_timeout_sec",
    },
    "pipeline": {"repair_attempts", "repair_batches_per_run", "warn_share", "warn_from"},
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All rooms' settings, those of the enrichments by their names; `load()` reads them."""

    kafka: KafkaSettings
    wake_up: WakeUpSettings
    enrichers: Mapping[str, EnricherSettings]
    cache: CacheSettings
    postgres: PostgresSettings
    pipeline: PipelineSettings
    service_levels: ServiceLevelSettings
    replay: ReplaySettings
    retention: RetentionSettings

    @property
    def max_keyless_shares(self) -> dict[str, float]:
        """The largest share of the messages that may lack the key of each enrichment."""
        return {name: settings.max_keyless_share for name, settings in self.enrichers.items()}

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when a batch would be made differently: the ledger says which settings made it.

        Equal workers have equal fingerprints, even with their files in different places: files that an enrichment reads
        (risk rules, a query) count by their contents. Raises `SettingsError` when one cannot be read.
        """
        found = [
            self.room(name).model_dump_json(exclude=self._elsewhere(name) | _local(room))
            for name, room in rooms().items()
            if name not in _OTHER_ROOMS
        ]
        contents = [content for settings in self.enrichers.values() for content in settings.contents]
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        return hashlib.sha256("\n".join([*found, *digests]).encode()).hexdigest()[:12]

    def room(self, name: str) -> BaseSettings:
        """The settings of a room or an enrichment by its name."""
        room: BaseSettings = self.enrichers[name] if name in self.enrichers else getattr(self, name)
        return room

    def _elsewhere(self, name: str) -> set[str]:
        settings = self.enrichers.get(name)
        return _ELSEWHERE.get(name, set()) if settings is None else set(settings.leaves_messages_alone)


def _local(room: type[BaseSettings]) -> set[str]:
    """Fields that say where something is: it may differ from worker to worker."""
    return {name for name in room.model_fields if name.endswith(("_path", "_url", "conn_id"))}


def load() -> Settings:
    """Read the environment. Raises `SettingsError` naming every variable that has an unusable value."""
    found: dict[str, Any] = {}
    faults: list[str] = []
    for name, room in rooms().items():
        try:
            found[name] = load_room(room)
        except SettingsError as unusable:
            faults.append(str(unusable))
    if not faults:
        faults += find_equal(_topics(found["kafka"], found["replay"]), MAY_BE_EQUAL)
    if faults:
        raise SettingsError("; ".join(faults))
    return Settings(enrichers={name: found.pop(name) for name in REGISTRY.by_name}, **found)


def load_room(room: type[Room]) -> Room:
    """Read the environment for one room. Raises `SettingsError` as `load` does."""
    try:
        return room()
    except ValidationError as invalid:
        faults = [f"{variable(room, str(e['loc'][0]))}={e['input']!r}: {e['msg']}" for e in invalid.errors()]
        raise SettingsError("; ".join(faults)) from invalid


# A replay may go to where the messages went at first, told apart by its header.
MAY_BE_EQUAL = frozenset({"KAFKA_OUTPUT_TOPIC", "REPLAY_OUTPUT_TOPIC"})


def _topics(kafka: KafkaSettings, replay: ReplaySettings) -> dict[str, str]:
    """All topics of the pipeline, by what names them."""
    return {
        "KAFKA_INPUT_TOPIC": kafka.input_topic,
        "KAFKA_OUTPUT_TOPIC": kafka.output_topic,
        "KAFKA_DLQ_TOPIC": kafka.dlq_topic,
        "the topic of the markers, KAFKA_DLQ_TOPIC with -redriven,": kafka.redriven_topic,
        "REPLAY_OUTPUT_TOPIC": replay.output_topic,
        "REPLAY_DLQ_TOPIC": replay.dlq_topic,
    }
