"""What `ENRICHMENT_STAGING_URL` may be, and what is said of what it may not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from enrichment.errors import SettingsError
from enrichment.orchestration.staging import staging_root
from tests.fixtures.object_store import S3Server


@pytest.mark.parametrize("url", ["file:///data/staging", "/data/staging", "file:/data/staging"])
def test_folder(url: str) -> None:
    """A folder is a path, without a file system of anybody's between."""
    assert staging_root(url) == Path("/data/staging")


def test_folder_keeps_its_letters() -> None:
    """A path is no web address: nothing in it has a meaning."""
    assert staging_root("file:///data/a b#1?x=%41") == Path("/data/a b#1?x=%41")


def test_bucket_of_a_connection(s3_url: str, object_store: S3Server) -> None:
    """Address and keys come from the Airflow connection that the URL names."""
    root = staging_root(s3_url)
    assert not isinstance(root, Path)
    root.fs.pipe(f"{root.path}/file", b"content")
    assert object_store.keys(root.path.partition("/")[0]) == ["staging/file"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "no URL"),
        ("staging", "no URL"),
        ("s3:///prefix", "no URL"),
        ("file:///", "no folder"),
        ("file://", "no folder"),
        ("file://staging", "no folder"),
        ("file://data/staging", "no folder"),
        ("gopher://bucket/prefix", "gopher"),
        ("s3://nobody_knows_it@bucket/prefix", "Airflow has no connection 'nobody_knows_it'"),
    ],
)
def test_what_cannot_be_used_is_refused(url: str, why: str) -> None:
    """The setting is named, what is wrong, and what it takes."""
    with pytest.raises(
        SettingsError, match=rf"^ENRICHMENT_STAGING_URL={url}: .*{why}.*; it takes `file:///folder`, or"
    ):
        staging_root(url)


def test_endpoint_that_is_no_address_is_refused(object_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the connection is told as one: a host without `http://` is the usual one."""
    extra = {"endpoint_url": "minio:9000"}
    monkeypatch.setenv("AIRFLOW_CONN_NO_ADDRESS", object_store.connection(extra=extra))
    with pytest.raises(SettingsError, match=r"^ENRICHMENT_STAGING_URL=s3://no_address@bucket/prefix: .*minio:9000"):
        staging_root("s3://no_address@bucket/prefix")


def test_missing_packages_are_named(object_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without the packages of S3 says which file has them."""
    monkeypatch.setenv("AIRFLOW_CONN_NO_PACKAGES", object_store.connection())
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SettingsError, match=r"s3fs.* requirements-s3\.txt"):
        staging_root("s3://no_packages@bucket/prefix")
