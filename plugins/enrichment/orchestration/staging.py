"""The staging area as Airflow reaches it: the path that `ENRICHMENT_STAGING_URL` names, and its connection."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from enrichment.errors import SettingsError
from enrichment.store.staging_areas import StoragePath

FORMS = "`file:///folder`, or `s3://connection@bucket/prefix` with the packages of requirements-s3.txt"


def staging_root(url: str) -> Path | StoragePath:
    """Where frames are staged. Raises `SettingsError` for a place where nothing can be staged."""
    if url.startswith(("/", "file:")):
        folder = Path(url.removeprefix("file:").removeprefix("//"))
        if not folder.is_absolute() or folder == Path("/"):
            raise _unusable(url, "it names no folder of this machine")
        return folder
    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname:
        raise _unusable(url, "it is no URL of a folder or a bucket")
    return _object_storage(url, parts.username)


def _object_storage(url: str, conn_id: str | None) -> StoragePath:
    from airflow.sdk import BaseHook, ObjectStoragePath
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        if conn_id is not None:
            BaseHook.get_connection(conn_id)  # the hooks behind the path would go on without one
        root = ObjectStoragePath(url)
        connect = getattr(root.fs, "connect", None)
        if connect is not None:
            connect()
    except AirflowNotFoundException as unknown:
        raise _unusable(url, f"Airflow has no connection {conn_id!r}") from unknown
    except (ImportError, ValueError) as unfit:
        raise _unusable(url, str(unfit)) from unfit
    return root


def _unusable(url: str, why: str) -> SettingsError:
    return SettingsError(f"ENRICHMENT_STAGING_URL={url}: {why}; it takes {FORMS}")
