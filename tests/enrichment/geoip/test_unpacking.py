"""What was offered: unpacked whatever its name, and never into more than it may be."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from enrichment.errors import DatabaseRefused, RefreshFailed
from enrichment.geoip.unpacking import unpack
from tests.fixtures.geo import city, write_geo_database

RECORDS = {"8.8.8.0/24": city("Mountain View"), "2001:4860::/32": city("Mountain View")}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A good one."""
    return write_geo_database(tmp_path / "good.mmdb", RECORDS)


def archived(*files: Path, name: str = "GeoLite2-City_20260101/{}") -> bytes:
    """The files in a tar archive, in gzip."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file in files:
            archive.add(file, name.format(file.name))
    return buffer.getvalue()


@pytest.mark.parametrize("how", ["plain", "gzip", "archive"])
def test_database_is_unpacked_when_its_name_says_nothing(tmp_path: Path, database: Path, how: str) -> None:
    """A URL need not end with what it gives: the content says whether it is packed."""
    (tmp_path / "COPYRIGHT.txt").write_text("all of it")
    content = {
        "plain": database.read_bytes(),
        "gzip": gzip.compress(database.read_bytes()),
        "archive": archived(tmp_path / "COPYRIGHT.txt", database),
    }
    (tmp_path / "offered").write_bytes(content[how])
    assert unpack(tmp_path / "offered", tmp_path).read_bytes() == database.read_bytes()


def test_archive_writes_nowhere_else(tmp_path: Path, database: Path) -> None:
    """The names in an archive are not where its files go."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "offered").write_bytes(archived(database, name="../../{}"))
    assert unpack(tmp_path / "work" / "offered", tmp_path / "work").parent == tmp_path / "work"


@pytest.mark.parametrize("how", ["gzip", "archive"])
def test_packed_database_fails_when_it_is_cut_off(tmp_path: Path, database: Path, how: str) -> None:
    """Half a download is tried again."""
    content = gzip.compress(database.read_bytes()) if how == "gzip" else archived(database)
    (tmp_path / "offered").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(RefreshFailed, match="cut off or damaged"):
        unpack(tmp_path / "offered", tmp_path)


def test_archive_is_refused_when_no_database_is_in_it(tmp_path: Path) -> None:
    """Another try would find none either."""
    (tmp_path / "README.txt").write_text("read me")
    (tmp_path / "offered").write_bytes(archived(tmp_path / "README.txt"))
    with pytest.raises(DatabaseRefused, match=r"no \.mmdb file"):
        unpack(tmp_path / "offered", tmp_path)
