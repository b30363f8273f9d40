"""Where an address is: `source_ip` in, the `geo_` columns out, from a MaxMind-format database."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from pydantic import Field

from enrichment.enrichers.declare import CountedColumns, EnricherSettings, HourlyCacheSettings, LookupEnricher, prefixed
from enrichment.messages import SOURCE_IP
from enrichment.variables import HomePath, PositiveFloat, PositiveInt, room_config

INVALID_IP = "invalid-ip"
LOOKUP_FAILED = "geo-ip-lookup-failed"
NOT_FOUND = "geo-ip-not-found"


class Place(msgspec.Struct, frozen=True, gc=False, rename=prefixed("geo_")):
    """Where an address is. `network_type` is `public`, or why no lookup was needed (`private`, `loopback`, ...)."""

    country: str | None = None
    country_code: str | None = None
    region: str | None = None
    city: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    timezone: str | None = None
    network_type: str | None = None


class GeoSettings(HourlyCacheSettings):
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

    leaves_messages_alone: ClassVar[frozenset[str]] = EnricherSettings.leaves_messages_alone | {
        "update_source", "edition", "known_addresses", "download_timeout_sec", "max_database_mib", "max_age_days",
    }  # fmt: skip


GEO = LookupEnricher(
    name="geo",
    source="geo-ip",
    title="place by address",
    doc="Add the place of each message's address.",
    key=SOURCE_IP,
    columns=Place,
    settings=GeoSettings,
    open="enrichment.enrichers.geo.database:open_source",
    invalid={INVALID_IP: "what they have for an address is none"},
    outages={LOOKUP_FAILED: "the geo database could not be read"},
    unknown={NOT_FOUND: "the geo database has no place for their addresses"},
    cache_table="geo_ip_cache",
    cache_key="ip_address",
    counted=(CountedColumns(columns=("geo_country_code",), title="Where messages come from", is_country=True),),
)
