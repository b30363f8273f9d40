"""All rooms, read from the environment together, and a fingerprint of what they make of a batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from enrichment import sql
from enrichment.errors import SettingsError
from enrichment.messages import KEYS
from enrichment.names import find_equal
from enrichment.settings.enrichers import BusinessSettings, CacheSettings, GeoSettings, UserSettings
from enrichment.settings.kafka import KafkaSettings, ReplaySettings
from enrichment.settings.pipeline import PipelineSettings, PostgresSettings, RetentionSettings, ServiceLevelSettings
from enrichment.settings.types import variable

Room = TypeVar("Room", bound=BaseSettings)

ROOMS: dict[str, type[BaseSettings]] = {
    "kafka": KafkaSettings,
    "geo": GeoSettings,
    "user": UserSettings,
    "business": BusinessSettings,
    "cache": CacheSettings,
    "postgres": PostgresSettings,
    "pipeline": PipelineSettings,
    "service_levels": ServiceLevelSettings,
    "replay": ReplaySettings,
    "retention": RetentionSettings,
}


# What the fingerprint leaves out, since no message becomes another one by it: rooms that make no batch, and fields of
# refreshes, evictions, renewals and repairs. (Whoever adds a setting need not think of it: it counts.)
_OTHER_ROOMS = ("service_levels", "replay", "retention")
_ELSEWHERE = {
    "kafka": {"request_timeout_sec", "transaction_timeout_sec", "retention_bytes"},
    "geo": {
        "update_source", "edition", "known_addresses", "download_timeout_sec", "max_database_mib", "max_age_days",
        "cache_max_rows", "max_keyless_share",
    },
    "user": {"cache_max_rows", "max_keyless_share"},
    "business": {"cache_max_rows", "max_keyless_share"},
    "cache": {"touch_after_hours", "eviction_chunk_rows", "refresh_keys", "refresh_ahead_minutes"},
    "postgres": {
        "connect_timeout_sec", "ledger_timeout_sec", "maintenance_timeout_sec", "maintenance_lock_timeout_sec",
    },
    "pipeline": {"repair_attempts", "repair_batches_per_run", "warn_share", "warn_from"},
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All rooms' settings; `load()` reads them."""

    kafka: KafkaSettings
    geo: GeoSettings
    user: UserSettings
    business: BusinessSettings
    cache: CacheSettings
    postgres: PostgresSettings
    pipeline: PipelineSettings
    service_levels: ServiceLevelSettings
    replay: ReplaySettings
    retention: RetentionSettings

    @property
    def max_keyless_shares(self) -> dict[str, float]:
        """Up to which share of the messages may lack the key of each enrichment."""
        return {name: getattr(self, name).max_keyless_share for name in KEYS}

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when a batch would be made differently: the ledger says which settings made it.

        Equal workers have equal ones, wherever they have their files: the risk rules and the query of the business
        context count by what is in them. (The geo database has a column of its own.) Raises `SettingsError` when the
        rules cannot be read.
        """
        rooms = [
            getattr(self, name).model_dump_json(exclude=_ELSEWHERE.get(name, set()) | _local(room))
            for name, room in ROOMS.items()
            if name not in _OTHER_ROOMS
        ]
        try:
            rules = self.business.rules_file.read_bytes()
        except OSError as unreadable:
            raise SettingsError(
                f"BUSINESS_RISK_RULES_PATH={str(self.business.rules_file)!r}: {unreadable}"
            ) from unreadable
        contents = [rules, sql.load("business_context/fetch").encode()]
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        return hashlib.sha256("\n".join([*rooms, *digests]).encode()).hexdigest()[:12]


def _local(room: type[BaseSettings]) -> set[str]:
    """Fields that say where something is: each worker may have it elsewhere, or under another name."""
    return {name for name in room.model_fields if name.endswith(("_path", "_url", "conn_id"))}


def load() -> Settings:
    """Read the environment. Raises `SettingsError` naming every variable that has an unusable value."""
    rooms: dict[str, Any] = {}
    faults: list[str] = []
    for name, room in ROOMS.items():
        try:
            rooms[name] = load_room(room)
        except SettingsError as unusable:
            faults.append(str(unusable))
    if not faults:
        faults += find_equal(_topics(rooms["kafka"], rooms["replay"]), MAY_BE_EQUAL)
    if faults:
        raise SettingsError("; ".join(faults))
    return Settings(**rooms)


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
