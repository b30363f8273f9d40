"""Every setting, read once from the environment, checked, frozen. `load()` names the variable that is wrong.

One class per room, so that a room sees only its own; those of the enrichments stand in their declarations. The variable
of a field is the class's prefix and the field's name in capitals: `GeoSettings.cache_ttl_hours` is
`GEO_IP_CACHE_TTL_HOURS`.
"""

from __future__ import annotations

from enrichment.settings.kafka import KafkaSettings, ReplaySettings, WakeUpSettings
from enrichment.settings.loading import Settings, load, load_room, rooms
from enrichment.settings.pipeline import PipelineSettings, PostgresSettings, RetentionSettings, ServiceLevelSettings

__all__ = [
    "KafkaSettings",
    "PipelineSettings",
    "PostgresSettings",
    "ReplaySettings",
    "RetentionSettings",
    "ServiceLevelSettings",
    "Settings",
    "WakeUpSettings",
    "load",
    "load_room",
    "rooms",
]
