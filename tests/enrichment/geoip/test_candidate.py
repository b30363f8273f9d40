"""What was offered: unpacked whatever its name, and refused where it is no City database that knows what is known."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from enrichment.errors import DatabaseRefused, RefreshFailed
from enrichment.geoip.candidate import build_of, known_addresses, unpack, verify
from enrichment.settings import GeoSettings
from tests.fixtures.geo import BUILT_AT, city, write_geo_database

SHARED_DATABASE = Path(__file__).parents[4] / "shared" / "data" / "GeoIP2-City-Test.mmdb"
KNOWN = {"8.8.8.8": "US", "2001:4860:4860::8888": "US"}
RECORDS = {"8.8.8.0/24": city("Mountain View"), "2001:4860::/32": city("Mountain View")}
COUNTRY_ONLY = {network: {"country": record["country"]} for network, record in RECORDS.items()}


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


def test_build_is_told_when_the_database_is_good(database: Path) -> None:
    """Type and time of the build, as cached places are kept under, and its age."""
    build = verify(database, KNOWN)
    assert (build.version, build.built_at) == (f"Test-City-{BUILT_AT}", BUILT_AT)
    assert build.age_days(BUILT_AT + 1.5 * 86_400) == 1.5


def test_file_is_refused_when_it_is_no_database(tmp_path: Path) -> None:
    """A page that says that there is no such file, for instance."""
    (tmp_path / "page.mmdb").write_text("<html>Not found</html>")
    with pytest.raises(DatabaseRefused, match="no database in MaxMind's format"):
        verify(tmp_path / "page.mmdb", KNOWN)


@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.99])
def test_file_is_refused_when_it_is_cut_off(tmp_path: Path, database: Path, kept: float) -> None:
    """A database ends with what it says of itself: one that is cut off does not open."""
    content = database.read_bytes()
    (tmp_path / "part.mmdb").write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DatabaseRefused):
        verify(tmp_path / "part.mmdb", KNOWN)


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        pytest.param(COUNTRY_ONLY, "none of 2 records has a city", id="countries-only"),
        pytest.param({"8.8.8.0/24": RECORDS["8.8.8.0/24"]}, "2001:4860:4860::8888 is in no country", id="unknown"),
        pytest.param(RECORDS | {"8.8.8.0/24": city("Aix", "FR")}, "8.8.8.8 is in FR there, not in US", id="elsewhere"),
        pytest.param(
            RECORDS | {"9.0.0.0/8": {"latitude": "north"}, "11.0.0.0/8": city("x")}, "1 of 4 records", id="odd"
        ),
        pytest.param({"8.8.8.0/24": {"autonomous_system_number": 15169}}, "8.8.8.8 is in no country", id="networks"),
    ],
)
def test_database_is_refused_when_it_does_not_know(tmp_path: Path, records: dict[str, object], complaint: str) -> None:
    """A database of countries or networks, one without a known address, one that has it elsewhere, one that is odd."""
    with pytest.raises(DatabaseRefused, match=complaint):
        verify(write_geo_database(tmp_path / "other.mmdb", records), KNOWN)


def test_database_is_refused_when_it_is_damaged_inside(tmp_path: Path, database: Path) -> None:
    """A record that points nowhere is found by reading some of them."""
    content = database.read_bytes()
    (tmp_path / "damaged.mmdb").write_bytes(content.replace(b"Mountain View", b"\xff" * 13))
    with pytest.raises(DatabaseRefused, match="cannot be read"):
        verify(tmp_path / "damaged.mmdb", KNOWN)


def test_known_addresses_are_read_from_the_setting() -> None:
    """Address and country, any number of them; the default ones are in the package's own database."""
    from enrichment.enrichers.geo_database import default_database_path

    assert known_addresses("8.8.8.8=US, 2001:db8::1=DE") == {"8.8.8.8": "US", "2001:db8::1": "DE"}
    assert verify(Path(default_database_path()), known_addresses(GeoSettings().known_addresses)).version.startswith(
        "GeoLite2-City-"
    )


@pytest.mark.skipif(not SHARED_DATABASE.exists(), reason="MaxMind's test database is not beside the repository")
def test_maxminds_own_test_database_is_good() -> None:
    """GeoIP2 City as MaxMind writes it."""
    assert verify(SHARED_DATABASE, {"81.2.69.142": "GB"}) == build_of(SHARED_DATABASE)
