"""What was offered: unpacked whatever its name, and never into more than it may be."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from enrichment.enrichers.geo.refresh.unpacking import unpack
from enrichment.errors import DatabaseRefused, RefreshFailed
from tests.fixtures.geo import city, write_geo_database

pytestmark = pytest.mark.processes

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


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_database_is_unpacked_whatever_packed_it(
    tmp_path: Path, database: Path, compress: Callable[[bytes], bytes]
) -> None:
    """Alone or in an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(database, "a/City.mmdb")
    for content in (database.read_bytes(), buffer.getvalue()):
        (tmp_path / "offered").write_bytes(compress(content))
        assert unpack(tmp_path / "offered", tmp_path).read_bytes() == database.read_bytes()


def _tar(*members: tarfile.TarInfo) -> bytes:
    """An archive of zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def _member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member


BOMBS = {
    "file": b"",
    "member": _member("City.mmdb", 200 * 1024**2).tobuf(),
    "other-member": _member("README", 200 * 1024**2).tobuf(),
    "long-name": _member("x", 200 * 1024**2, tarfile.GNUTYPE_LONGNAME).tobuf(),
    "pax-header": _member("x", 200 * 1024**2, tarfile.XHDTYPE).tobuf(),
}


@pytest.mark.parametrize(
    ("what", "open_packed", "mib"),
    [*((what, gzip.open, 200) for what in BOMBS), ("file", bz2.open, 70), ("file", lzma.open, 70)],
)
def test_bomb_is_refused_before_it_fills_disk_or_memory(
    tmp_path: Path, what: str, open_packed: Callable[..., IO[bytes]], mib: int
) -> None:
    """A few hundred kilobytes that become 70 or 200 MiB: no more than 64 MiB of them are ever written, or kept."""
    with open_packed(tmp_path / "offered", "wb") as file:
        file.write(BOMBS[what])
        for _ in range(mib):
            file.write(bytes(1024**2))
    (tmp_path / "work").mkdir()
    tracemalloc.start()
    try:
        with pytest.raises(DatabaseRefused, match=r"more than 20 times its .* unpack it yourself"):
            unpack(tmp_path / "offered", tmp_path / "work")
        assert tracemalloc.get_traced_memory()[1] < 150 * 1024**2
    finally:
        tracemalloc.stop()
    assert sum(file.stat().st_size for file in (tmp_path / "work").iterdir()) <= 64 * 1024**2


def test_sparse_file_is_refused_when_it_is_mostly_holes(tmp_path: Path) -> None:
    """An archive can say that a file has 4 GiB without having them."""
    size = 4 * 1024**3
    headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.size": f"{size}",
        "GNU.sparse.map": "0,1",
        "GNU.sparse.numblocks": "1",
    }
    member = _member("City.mmdb", 1)
    member.pax_headers = headers
    (tmp_path / "offered").write_bytes(_tar(member))
    with pytest.raises((DatabaseRefused, RefreshFailed)):
        unpack(tmp_path / "offered", tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 100 * 1024**2


def test_database_is_refused_when_it_is_larger_than_the_setting_allows(tmp_path: Path) -> None:
    """The refusal names the setting."""
    (tmp_path / "offered").write_bytes(gzip.compress(bytes(3 * 1024**2)))
    with pytest.raises(DatabaseRefused, match="GEO_IP_MAX_DATABASE_MIB=2 "):
        unpack(tmp_path / "offered", tmp_path, 2 * 1024**2)


def test_archive_is_refused_when_its_database_is_a_link(tmp_path: Path) -> None:
    """It would be whatever lies there on this machine."""
    link = _member("City.mmdb", 0, tarfile.SYMTYPE)
    link.linkname = "/etc/passwd"
    (tmp_path / "offered").write_bytes(_tar(link))
    with pytest.raises(DatabaseRefused, match=r"no \.mmdb file"):
        unpack(tmp_path / "offered", tmp_path)


def test_other_archives_are_refused_by_their_name(tmp_path: Path, database: Path) -> None:
    """A zip is none of what is taken, and the refusal says so."""
    with zipfile.ZipFile(tmp_path / "offered", "w") as archive:
        archive.write(database, "City.mmdb")
    with pytest.raises(DatabaseRefused, match=r"a zip archive; .* takes \.mmdb, \.mmdb\.gz and \.tar\.gz"):
        unpack(tmp_path / "offered", tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b", b"\x1f\x8b" + bytes(20), b"BZh9" + bytes(20), b"\xfd7zXZ\0" + bytes(9)]
)
def test_rubbish_is_refused_or_left_to_the_verification(tmp_path: Path, content: bytes) -> None:
    """Nothing but the declared errors, whatever the first bytes promise."""
    (tmp_path / "offered").write_bytes(content)
    if content:
        with pytest.raises(RefreshFailed):
            unpack(tmp_path / "offered", tmp_path)
    else:
        assert unpack(tmp_path / "offered", tmp_path) == tmp_path / "offered"
