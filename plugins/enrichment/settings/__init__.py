"""Every setting, read once from the environment, checked, frozen. `load()` names the variable that is wrong.

One class per room, so that a room sees only what is its own. The variable of a field is the class's prefix and the
field's name in capitals: `GeoSettings.cache_ttl_hours` is `GEO_IP_CACHE_TTL_HOURS`.
"""

from __future__ import annotations

from enrichment.settings.enrichers import DEFAULT_RULES, BusinessSettings, CacheSettings, GeoSettings, UserSettings
from enrichment.settings.kafka import KafkaSettings, ReplaySettings
from enrichment.settings.loading import ROOMS, Settings, load, load_room
from enrichment.settings.pipeline import PipelineSettings, PostgresSettings, RetentionSettings, ServiceLevelSettings
from enrichment.settings.types import variable

__all__ = [
    "DEFAULT_RULES",
    "ROOMS",
    "BusinessSettings",
    "CacheSettings",
    "GeoSettings",
    "KafkaSettings",
    "PipelineSettings",
    "PostgresSettings",
    "ReplaySettings",
    "RetentionSettings",
    "ServiceLevelSettings",
    "Settings",
    "UserSettings",
    "load",
    "load_room",
    "variable",
]
