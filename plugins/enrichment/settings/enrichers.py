"""Each enrichment: its source and its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from enrichment.settings.types import LONGEST, HomePath, PositiveFloat, PositiveInt, Share, room_config

# The risk rules that count while no others are named.
DEFAULT_RULES = Path(__file__).parents[1] / "enrichers" / "business" / "risk_rules.toml"


class GeoSettings(BaseSettings):
    """The MaxMind-format database and its cache."""

    model_config = room_config("GEO_IP_")

    database_path: HomePath = Field(
        "",
        description="MaxMind-format City database; empty: the one at GEO_IP_INSTALL_PATH, or, while none is there,"
        " GeoLite2 City of 2018 from the package maxminddb-geolite2",
    )
    install_path: HomePath = Field(
        "~/.stacklens/City.mmdb",
        description="where `stacklens_geoip_refresh` installs databases while GEO_IP_DATABASE_PATH is empty;"
        " all workers share its folder",
    )
    update_source: HomePath = Field(
        "",
        description="where newer databases come from: `maxmind`, an http(s) URL or a path (.mmdb, .mmdb.gz, .tar.gz);"
        " empty: nowhere",
    )
    maxmind_conn_id: str = Field(
        "maxmind", description="Airflow connection of the MaxMind account, for the source `maxmind`"
    )
    edition: str = Field("GeoLite2-City", description="MaxMind's name of the database, for the source `maxmind`")
    known_addresses: str = Field(
        "8.8.8.8=US,128.101.101.101=US",
        pattern=r"^[0-9a-fA-F.:]+=[A-Z]{2}(, *[0-9a-fA-F.:]+=[A-Z]{2})*$",
        description="addresses and their countries that a newer database must know to be installed",
    )
    download_timeout_sec: PositiveFloat = Field(
        600, description="time for a newer database to be downloaded, from the connection to the last byte"
    )
    max_database_mib: PositiveInt = Field(
        2048, description="size at most of a newer database, in MiB, as it is downloaded and unpacked"
    )
    max_age_days: PositiveFloat = Field(30, description="age of the database in use above which there is a warning")
    locale: str = Field("en", pattern=r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$", description="language of the names")
    cache_size: PositiveInt = Field(10_000, description="addresses kept in a task's memory")
    cache_ttl_hours: PositiveFloat = Field(1, description="how long a place may be served")
    cache_max_rows: PositiveInt = Field(500_000, description="addresses kept in PostgreSQL after an eviction")
    max_keyless_share: Share = Field(
        0.95, description="share of messages without an address above which run and hour say so; 1: never"
    )


class UserSettings(BaseSettings):
    """The user-profile API and its cache."""

    model_config = room_config("USER_SERVICE_")

    conn_id: str = Field("user_service", description="Airflow connection (HTTP) of the user-profile API")
    timeout_sec: PositiveFloat = Field(5, description="time for the API to answer one request, all of it")
    task_timeout_sec: PositiveFloat = Field(
        300, description="time that a task may spend on the API; who is not answered for by then is repaired later"
    )
    batch_size: PositiveInt = Field(500, description="users in one request")
    concurrency: Annotated[int, Field(gt=0, le=1_000)] = Field(4, description="requests at once")
    retries: Annotated[int, Field(ge=0, le=1_000)] = Field(3, description="further tries of a request that failed")
    backoff_sec: Annotated[float, Field(ge=0, le=LONGEST)] = Field(
        0.2, description="pause before the second try; doubles, with jitter"
    )
    retry_after_max_sec: PositiveFloat = Field(30, description="longest Retry-After that is waited for")
    breaker_failures: PositiveInt = Field(5, description="failed requests in a row that open the circuit breaker")
    breaker_reset_sec: PositiveFloat = Field(30, description="time until an open breaker lets a request through")
    cache_size: PositiveInt = Field(5_000, description="users kept in a task's memory")
    cache_ttl_hours: PositiveFloat = Field(1, description="how long a profile may be served")
    cache_max_rows: PositiveInt = Field(500_000, description="users kept in PostgreSQL after an eviction")
    max_keyless_share: Share = Field(
        0.95, description="share of messages without a user above which run and hour say so; 1: never"
    )


class BusinessSettings(BaseSettings):
    """The business context, its cache, and the risk rules."""

    model_config = room_config("BUSINESS_")

    risk_rules_path: HomePath = Field("", description="TOML file of the risk rules; empty: the one beside the code")
    query_timeout_sec: PositiveFloat = Field(
        30, description="time for the query over your own tables, waiting for locks included; longer is their outage"
    )
    cache_size: PositiveInt = Field(5_000, description="requests kept in a task's memory")
    cache_ttl_minutes: PositiveFloat = Field(30, description="how long a context may be served")
    cache_max_rows: PositiveInt = Field(500_000, description="requests kept in PostgreSQL after an eviction")
    max_keyless_share: Share = Field(
        0.95, description="share of messages without a request above which run and hour say so; 1: never"
    )

    @property
    def rules_file(self) -> Path:
        """The file of the risk rules."""
        return Path(self.risk_rules_path).expanduser() if self.risk_rules_path else DEFAULT_RULES


class CacheSettings(BaseSettings):
    """What the three caches have in common."""

    model_config = room_config("CACHE_")

    negative_ttl_minutes: PositiveFloat = Field(10, description="how long a key is known not to exist")
    error_ttl_sec: PositiveFloat = Field(30, description="how long a task remembers that a source failed for a key")
    stale_grace_hours: Annotated[float, Field(ge=0, le=LONGEST)] = Field(
        24, description="how long after its expiry an entry may still be served while its source is down"
    )
    touch_after_hours: PositiveFloat = Field(
        0.25, description="age from which a row's last use is noted anew when it is read; eviction goes by it"
    )
    eviction_chunk_rows: PositiveInt = Field(5_000, description="rows that one transaction of an eviction deletes")
    refresh_keys: Annotated[int, Field(ge=0)] = Field(
        1_000, description="keys of each cache at most that are renewed before they expire, the ones used last; 0: none"
    )
    refresh_ahead_minutes: PositiveFloat = Field(
        20, description="how long before its expiry a key that is in use is renewed; more than the eviction's interval"
    )
