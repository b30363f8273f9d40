"""What was offered: refused where it is no City database that knows what is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from enrichment.enrichers.geo import GeoSettings
from enrichment.enrichers.geo.refresh.candidate import Build, build_of, known_addresses, verify
from enrichment.errors import DatabaseRefused
from tests.fixtures.geo import BUILT_AT, MAXMINDS_DATABASE, city, needs_maxminds_database, write_geo_database

pytestmark = pytest.mark.processes

KNOWN = {"8.8.8.8": "US", "2001:4860:4860::8888": "US"}
RECORDS = {"8.8.8.0/24": city("Mountain View"), "2001:4860::/32": city("Mountain View")}
COUNTRY_ONLY = {network: {"country": record["country"]} for network, record in RECORDS.items()}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A good one."""
    return write_geo_database(tmp_path / "good.mmdb", RECORDS)


def test_build_is_told_when_the_database_is_good(database: Path) -> None:
    """Type and time of the build, as cached places are kept under, and its age."""
    build = Build.of(database, verify(database, KNOWN))
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
    from enrichment.enrichers.geo.database import default_database_path

    assert known_addresses("8.8.8.8=US, 2001:db8::1=DE") == {"8.8.8.8": "US", "2001:db8::1": "DE"}
    assert verify(Path(default_database_path()), known_addresses(GeoSettings().known_addresses)).build.startswith(
        "GeoLite2-City-"
    )


@needs_maxminds_database
def test_maxminds_own_test_database_is_good() -> None:
    """GeoIP2 City as MaxMind writes it."""
    assert Build.of(MAXMINDS_DATABASE, verify(MAXMINDS_DATABASE, {"81.2.69.142": "GB"})) == build_of(MAXMINDS_DATABASE)
