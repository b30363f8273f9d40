"""Settings that would let everything start and come to nothing: refused before anything is started."""

from __future__ import annotations

from enrichment.enrichers.geo import GeoSettings
from enrichment.errors import DatabaseRefused, SettingsError
from enrichment.settings import Settings, load, load_room
from include.local.errors import StackError


def checked_settings() -> Settings:
    """The settings. Raises `StackError` for one that is wrong."""
    try:
        settings = load()
    except SettingsError as unusable:
        raise StackError(str(unusable)) from unusable
    geo = load_room(GeoSettings)
    if geo.database_path:
        _require_geo_database(geo)
    return settings


def _require_geo_database(geo: GeoSettings) -> None:
    """Tasks would do without places, batch after batch, and this command would end well."""
    from enrichment.enrichers.geo.database import present_database_path
    from enrichment.enrichers.geo.refresh.candidate import build_of

    try:
        build_of(present_database_path(geo.database_path, geo.install_path))
    except (DatabaseRefused, OSError) as unusable:
        raise StackError(
            f"GEO_IP_DATABASE_PATH={geo.database_path!r}: {unusable}; set it to a City database in MaxMind's format"
            " (.mmdb), or leave it empty"
        ) from unusable
