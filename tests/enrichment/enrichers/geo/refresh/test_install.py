"""A newer database in the place of the one in use: at once, if it is good and newer, and never to a reader's harm."""

from __future__ import annotations

import gzip
import logging
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from psycopg.conninfo import conninfo_to_dict

from enrichment.enrichers.base import JSON
from enrichment.enrichers.geo import GEO, GeoSettings, inspector
from enrichment.enrichers.geo.database import GeoDatabase, default_database_path, present_database_path
from enrichment.enrichers.geo.refresh.install import Refreshed, RefreshOutcome, age, refresh
from enrichment.enrichers.geo.refresh.sources import FileSource, UrlSource
from enrichment.enrichers.testing import look_up_and_enrich, make_events
from enrichment.errors import DatabaseRefused, EnrichmentError, RefreshFailed, SettingsError
from enrichment.resources import Resources
from enrichment.settings import load, load_room
from enrichment.sources.connections import HttpEndpoint
from tests.fixtures.geo import (
    BUILT_AT,
    MAXMINDS_DATABASE,
    circular,
    city,
    crashing,
    endless,
    needs_maxminds_database,
    write_geo_database,
)
from tests.fixtures.postgres import Connection
from tests.fixtures.raw_server import Answer, RawServer, http

pytestmark = pytest.mark.processes

CASES = Path(__file__).parents[6] / "shared" / "cases"
NEWER = BUILT_AT + 86_400
ADDRESSES = [f"8.8.8.{n}" for n in range(200)]


def offer(file: Path, name: str, built_at: int = NEWER, **options: Any) -> FileSource:
    """A source with a good database, in which all of 8.8.8.0/24 is in one city."""
    return FileSource(str(write_geo_database(file, {"8.8.8.0/24": city(name)}, built_at, **options)))


def city_of(path: str | Path, address: str = "8.8.8.8") -> str:
    """Where a database has an address."""
    found: str = GeoDatabase(str(path)).fetch_many([address])[address].value.city
    return found


@pytest.fixture
def present(tmp_path: Path) -> Path:
    """The database in use: everything is in Oldtown."""
    folder = tmp_path / "geoip"
    folder.mkdir()
    return write_geo_database(folder / "City.mmdb", {"8.8.8.0/24": city("Oldtown")})


@pytest.fixture
def geo(present: Path) -> GeoSettings:
    """Settings that name it."""
    return GeoSettings(database_path=str(present), known_addresses="8.8.8.8=US")


def left_in(folder: Path) -> set[str]:
    """What lies beside a database; the lock's file is nobody's business."""
    return {path.name for path in folder.iterdir()} - {".stacklens-refresh-lock"}


def test_newer_database_is_installed(tmp_path: Path, geo: GeoSettings, present: Path) -> None:
    """It takes the place of the one in use, readable as that was, and nothing else is left beside it."""
    present.chmod(0o640)
    source = offer(tmp_path / "new.mmdb", "Newtown")
    done = refresh(geo, source)
    assert (done.outcome, done.source, done.path) == (RefreshOutcome.INSTALLED, source.name, str(present))
    assert done.replaced is not None
    assert done.offered is not None
    assert (done.replaced.built_at, done.offered.built_at) == (BUILT_AT, NEWER)
    assert city_of(present) == "Newtown"
    assert present.stat().st_mode & 0o777 == 0o640
    assert left_in(present.parent) == {"City.mmdb"}
    assert city_of(tmp_path / "new.mmdb") == "Newtown"


def test_reader_keeps_its_build_when_a_newer_one_is_installed(tmp_path: Path, geo: GeoSettings, present: Path) -> None:
    """A batch's lookups are all of the build that it began with; who opens the file afterwards has the newer one."""
    running = GeoDatabase(str(present))
    before = running.fetch_many(ADDRESSES[:100])
    refresh(geo, offer(tmp_path / "new.mmdb", "Newtown"))
    entries = before | running.fetch_many(ADDRESSES[100:])
    assert {(entry.value.city, entry.version) for entry in entries.values()} == {("Oldtown", running.version)}
    retried = GeoDatabase(str(present))
    assert {entry.value.city for entry in retried.fetch_many(ADDRESSES).values()} == {"Newtown"}
    assert (running.build, retried.build) == (f"Test-City-{BUILT_AT}", f"Test-City-{NEWER}")


@pytest.mark.parametrize(
    ("built_at", "outcome"),
    [(BUILT_AT, RefreshOutcome.IDENTICAL), (BUILT_AT - 1, RefreshOutcome.OLDER)],
    ids=["same", "older"],
)
def test_nothing_is_done_when_there_is_nothing_newer(
    tmp_path: Path, geo: GeoSettings, present: Path, built_at: int, outcome: RefreshOutcome
) -> None:
    """The same build, or an older one, is left alone; `force` installs it all the same."""
    source = offer(tmp_path / "new.mmdb", "Newtown", built_at)
    inode = present.stat().st_ino
    assert refresh(geo, source).outcome is outcome
    assert (city_of(present), present.stat().st_ino) == ("Oldtown", inode)
    assert refresh(geo, source, force=True).outcome is RefreshOutcome.INSTALLED
    assert city_of(present) == "Newtown"


def test_nothing_is_installed_by_a_dry_run(tmp_path: Path, geo: GeoSettings, present: Path) -> None:
    """A dry run says what would be done, and verifies."""
    assert refresh(geo, offer(tmp_path / "new.mmdb", "Newtown"), dry_run=True).outcome is RefreshOutcome.DRY_RUN
    assert (city_of(present), left_in(present.parent)) == ("Oldtown", {"City.mmdb"})
    with pytest.raises(DatabaseRefused):
        refresh(geo, FileSource(os.devnull), dry_run=True)


def test_package_is_replaced_by_what_is_installed(tmp_path: Path) -> None:
    """While no database is set, the package's is in use until one is installed beside it, and is never written to."""
    path = tmp_path / "not" / "yet" / "City.mmdb"
    geo = GeoSettings(database_path="", install_path=str(path), known_addresses="8.8.8.8=US")
    before = Path(default_database_path()).stat()
    assert present_database_path(geo.database_path, geo.install_path) == default_database_path()
    done = refresh(geo, offer(tmp_path / "new.mmdb", "Newtown"))
    assert done.outcome is RefreshOutcome.INSTALLED
    assert done.replaced is not None
    assert done.replaced.version.startswith("GeoLite2-City-")
    assert present_database_path(geo.database_path, geo.install_path) == str(path)
    assert (city_of(path), path.stat().st_mode & 0o777) == ("Newtown", 0o644)
    after = Path(default_database_path()).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


PRESENT: dict[str, Callable[[Path], object]] = {
    "none": lambda path: None,
    "broken": lambda path: path.write_bytes(b"half a download"),
    "empty": Path.touch,
    "fifo": os.mkfifo,
    "crashing": lambda path: path.write_bytes(
        crashing(write_geo_database(path, {"8.8.8.0/24": city("Oldtown")}).read_bytes())
    ),
    "endless": lambda path: path.write_bytes(endless()),
    "networks": lambda path: write_geo_database(path, {"8.8.8.0/24": {"autonomous_system_number": 15169}}),
}


@pytest.mark.parametrize("kind", PRESENT)
def test_anything_good_is_better_than_nothing(tmp_path: Path, geo: GeoSettings, present: Path, kind: str) -> None:
    """Where the set database is missing, damaged or another kind, one older than the package's is installed too."""
    present.unlink()
    PRESENT[kind](present)
    done = refresh(geo, offer(tmp_path / "new.mmdb", "Newtown", built_at=1))
    assert (done.outcome, done.replaced, city_of(present)) == (RefreshOutcome.INSTALLED, None, "Newtown")


OFFERS: dict[str, tuple[bytes | dict[str, Any], type[EnrichmentError]]] = {
    "not-a-database": (b"<html>", DatabaseRefused),
    "empty": (b"", DatabaseRefused),
    "cut-off-gzip": (gzip.compress(b"x" * 1000)[:-5], RefreshFailed),
    "gzip-of-nothing": (gzip.compress(b"x" * 1000), DatabaseRefused),
    "countries-only": ({"8.8.8.0/24": {"country": {"iso_code": "US"}}}, DatabaseRefused),
    "elsewhere": ({"8.8.8.0/24": city("Paris", "FR")}, DatabaseRefused),
    "unknown": ({"9.9.9.0/24": city("Newtown")}, DatabaseRefused),
    "networks": ({"8.8.8.0/24": {"autonomous_system_number": 15169}}, DatabaseRefused),
    "endless": (endless(), DatabaseRefused),
    "circle": (circular(), DatabaseRefused),
    "nul-in-type": (endless(database_type="Ci\0ty"), DatabaseRefused),
    "no-utf8": (
        endless(database_type="Citycity").replace(b"Citycity", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe"),
        DatabaseRefused,
    ),
    "no-numbers": (endless().replace(b"node_count", b"node_coins"), DatabaseRefused),
    "no-epoch": (endless().replace(b"build_epoch", b"build_eboch"), DatabaseRefused),
    "bomb": (gzip.compress(bytes(100 * 1024**2)), DatabaseRefused),
}


@pytest.mark.parametrize("force", [False, True], ids=["", "force"])
@pytest.mark.parametrize("name", OFFERS)
def test_present_database_is_kept_when_the_offer_is_no_good(
    tmp_path: Path, geo: GeoSettings, present: Path, name: str, force: bool
) -> None:
    """Whatever is wrong with a file, also by force, what is in use stays, and nothing of it is left behind."""
    content, error = OFFERS[name]
    file = tmp_path / "offered.mmdb"
    file.write_bytes(content) if isinstance(content, bytes) else write_geo_database(file, content, NEWER)
    before = present.read_bytes(), present.stat().st_ino
    with pytest.raises(error):
        refresh(geo, FileSource(str(file)), force=force)
    assert (present.read_bytes(), present.stat().st_ino) == before
    assert left_in(present.parent) == {"City.mmdb"}


def test_present_database_is_kept_when_the_offer_crashes_its_reader(
    tmp_path: Path, geo: GeoSettings, present: Path
) -> None:
    """Not the refresh dies of it; and the next one is not held up."""
    bad = tmp_path / "bad.mmdb"
    bad.write_bytes(crashing(write_geo_database(bad, {"8.8.8.0/24": city("Newtown")}, NEWER).read_bytes()))
    with pytest.raises(DatabaseRefused, match="SIGSEGV"):
        refresh(geo, FileSource(str(bad)))
    assert (city_of(present), left_in(present.parent)) == ("Oldtown", {"City.mmdb"})
    assert refresh(geo, offer(tmp_path / "new.mmdb", "Newtown")).outcome is RefreshOutcome.INSTALLED


@pytest.mark.parametrize("name", ["segfault.mmdb", "exp4.mmdb", "future.mmdb"])
@pytest.mark.skipif(not CASES.exists(), reason="the inputs of the trials are not beside the repository")
def test_files_of_the_trials_are_refused(geo: GeoSettings, present: Path, name: str) -> None:
    """What crashed or hung the refresh, or would have been in use for good."""
    with pytest.raises(DatabaseRefused):
        refresh(geo, FileSource(str(CASES / name)))
    assert city_of(present) == "Oldtown"


def test_offer_from_the_future_is_refused_unless_forced(tmp_path: Path, geo: GeoSettings, present: Path) -> None:
    """Every later build would be older than it. Clocks may differ by a day; `force` installs it, and says so."""
    now = float(NEWER)
    with pytest.raises(DatabaseRefused, match=r"built 2 days from now.* `force`"):
        refresh(geo, offer(tmp_path / "new.mmdb", "Newtown", NEWER + 2 * 86_400), now=now)
    assert city_of(present) == "Oldtown"
    soon = offer(tmp_path / "new.mmdb", "Newtown", NEWER + 80_000)
    assert refresh(geo, soon, dry_run=True, now=now).outcome is RefreshOutcome.DRY_RUN
    future = offer(tmp_path / "new.mmdb", "Futuretown", 2**40)
    assert refresh(geo, future, force=True, now=now).outcome is RefreshOutcome.INSTALLED
    assert city_of(present) == "Futuretown"
    # It gives way to any that is not.
    assert refresh(geo, offer(tmp_path / "new.mmdb", "Newtown"), now=now).outcome is RefreshOutcome.INSTALLED
    assert city_of(present) == "Newtown"


def test_refusal_names_what_would_allow_the_file(tmp_path: Path, geo: GeoSettings) -> None:
    """A company's own database need not know Google's addresses."""
    write_geo_database(tmp_path / "own.mmdb", {"9.9.9.0/24": city("Newtown")}, NEWER)
    with pytest.raises(DatabaseRefused, match="GEO_IP_KNOWN_ADDRESSES"):
        refresh(geo, FileSource(str(tmp_path / "own.mmdb")))


def test_installed_database_is_not_read_again(
    tmp_path: Path, geo: GeoSettings, present: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh has read all of it: the next task opens it at once."""
    refresh(geo, offer(tmp_path / "new.mmdb", "Newtown"))
    monkeypatch.setattr(inspector, "inspect", lambda path: pytest.fail(f"{path} was read again"))
    assert city_of(present) == "Newtown"


@pytest.mark.parametrize("answer", [http(500), http(200, b"x" * 1000)[:-1]], ids=["error", "cut-off"])
def test_present_database_is_kept_when_the_download_fails(
    geo: GeoSettings, present: Path, make_raw_server: Callable[[Answer], RawServer], answer: bytes
) -> None:
    """A download that fails leaves everything as it was."""
    server = make_raw_server(lambda _: answer)
    with pytest.raises(RefreshFailed):
        refresh(geo, UrlSource(f"{server.base_url}/City.mmdb"))
    assert (city_of(present), left_in(present.parent)) == ("Oldtown", {"City.mmdb"})


def test_present_database_is_kept_when_the_disk_is_full(tmp_path: Path, geo: GeoSettings, present: Path) -> None:
    """What cannot be written to its end is not installed, and what was written of it is gone."""
    (tmp_path / "large.mmdb").write_bytes(b"\0" * 4 * 1024**2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024**2, hard))  # the system's own refusal to write on
    try:
        with pytest.raises(RefreshFailed, match="could not be written"):
            refresh(geo, FileSource(str(tmp_path / "large.mmdb")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (city_of(present), left_in(present.parent)) == ("Oldtown", {"City.mmdb"})


@pytest.fixture
def anybodys_folder() -> Iterator[Path]:
    """A folder that everybody may look into and only its owner may write to; the test is somebody else meanwhile."""
    folder = Path(tempfile.mkdtemp(prefix="stacklens-geoip-"))
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_setting_is_wrong_when_the_folder_is_not_writable(anybodys_folder: Path) -> None:
    """No other try would mend that."""
    geo = GeoSettings(database_path="", install_path=str(anybodys_folder / "City.mmdb"))
    with pytest.raises(SettingsError, match=f"{anybodys_folder}, the folder of the geo database, is not writable"):
        refresh(geo, FileSource(os.devnull))


def test_setting_is_wrong_when_the_folder_is_a_file(tmp_path: Path) -> None:
    """Nor that."""
    (tmp_path / "file").write_text("")
    geo = GeoSettings(database_path="", install_path=str(tmp_path / "file" / "City.mmdb"))
    with pytest.raises(SettingsError, match="not writable"):
        refresh(geo, FileSource(os.devnull))


def test_second_refresh_waits_for_its_next_try(tmp_path: Path, geo: GeoSettings, present: Path) -> None:
    """One at a time, so that an older one cannot overtake; a killed one has let go."""
    source = offer(tmp_path / "new.mmdb", "Newtown")
    with FileLock(present.parent / ".stacklens-refresh-lock"), pytest.raises(RefreshFailed, match="another refresh"):
        refresh(geo, source)
    assert city_of(present) == "Oldtown"
    assert refresh(geo, source).outcome is RefreshOutcome.INSTALLED


def test_leftovers_are_removed(tmp_path: Path, geo: GeoSettings, present: Path) -> None:
    """What a killed refresh had fetched does not fill the disk for ever."""
    dead = present.parent / ".stacklens-refresh-dead"
    dead.mkdir()
    (dead / "offered").write_bytes(b"half")
    refresh(geo, offer(tmp_path / "new.mmdb", "Newtown", BUILT_AT))
    assert left_in(present.parent) == {"City.mmdb"}


def test_link_is_replaced_not_what_it_leads_to(tmp_path: Path, geo: GeoSettings, present: Path) -> None:
    """A set path may be a link to a dated file: that file stays as it is."""
    dated = present.rename(tmp_path / "City_2023.mmdb")
    present.symlink_to(dated)
    refresh(geo, offer(tmp_path / "new.mmdb", "Newtown"))
    assert (city_of(present), city_of(dated)) == ("Newtown", "Oldtown")


@pytest.mark.parametrize(("days", "too_old"), [(29.9, False), (30.1, True)])
def test_age_warns_when_the_database_is_too_old(
    geo: GeoSettings, present: Path, caplog: pytest.LogCaptureFixture, days: float, too_old: bool
) -> None:
    """The age is that of the build, in days; above the setting it is a warning."""
    with caplog.at_level(logging.INFO):
        told = age(geo, BUILT_AT + days * 86_400)
    assert (told.path, told.version, told.age_days, told.too_old) == (
        str(present), f"Test-City-{BUILT_AT}", days, too_old,
    )  # fmt: skip
    assert [record.levelno for record in caplog.records] == [logging.WARNING if too_old else logging.INFO]


def test_age_is_told_of_the_package_when_nothing_is_installed(tmp_path: Path) -> None:
    """The package's database is of 2018."""
    told = age(GeoSettings(database_path="", install_path=str(tmp_path / "none")), 1_530_653_216 + 86_400)
    assert (told.version, told.age_days) == ("GeoLite2-City-1530653216", 1)


def test_age_says_why_when_there_is_none(geo: GeoSettings, present: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A database that is missing or broken has no age, and that is a warning too."""
    present.write_bytes(b"broken")
    told = age(geo, BUILT_AT)
    assert (told.age_days, [record.levelno for record in caplog.records]) == (None, [logging.WARNING])
    assert "no database" in told.problem


def test_age_warns_when_the_database_is_from_the_future(
    geo: GeoSettings, present: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no age, and no later build would be newer."""
    told = age(geo, BUILT_AT - 3 * 86_400)
    assert (told.age_days, told.problem) == (-3, "it says that it was built 3 days from now")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("kind", ["fifo", "crashing", "networks"])
def test_age_says_why_when_the_database_is_of_no_use(geo: GeoSettings, present: Path, kind: str) -> None:
    """Nor does the report hang or die of a file."""
    present.unlink()
    PRESENT[kind](present)
    told = age(geo, BUILT_AT)
    assert (told.age_days, str(present) in told.problem) == (None, True)


def test_error_names_the_setting_that_has_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a refresh installed is not where the other setting says."""
    monkeypatch.delenv("GEO_IP_DATABASE_PATH", raising=False)
    monkeypatch.setenv("GEO_IP_INSTALL_PATH", str(tmp_path / "City.mmdb"))
    PRESENT["networks"](tmp_path / "City.mmdb")
    with (
        Resources(load(), dict, dict, lambda _conn_id, _setting: HttpEndpoint(""), lambda: tmp_path) as r,
        pytest.raises(SettingsError, match=r"GEO_IP_INSTALL_PATH=.* type Test-City, which knows no places"),
    ):
        r.enricher(GEO)


def test_path_may_begin_with_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed there is what is used."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert present_database_path("~/City.mmdb", "") == str(tmp_path / "City.mmdb")


def test_package_is_used_when_both_paths_are_empty() -> None:
    """An empty path is no folder to look into."""
    assert present_database_path("", "") == default_database_path()


def test_cached_places_of_the_older_build_give_way(
    tmp_path: Path, present: Path, postgres_uri: str, postgres_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next task after a refresh serves the newer build's places, and its rows replace those of the older one."""
    monkeypatch.setenv("GEO_IP_DATABASE_PATH", str(present))
    monkeypatch.setenv("GEO_IP_KNOWN_ADDRESSES", "8.8.8.8=US")

    def task(*addresses: str) -> tuple[bytes, int]:
        """A geo task: what it adds to the first message, and how many had to be asked of the database."""
        with Resources(
            load(), kafka_config=dict, postgres_parameters=lambda: conninfo_to_dict(postgres_uri),
            http_endpoint=lambda _conn_id, _setting: HttpEndpoint(""), staging_root=lambda: tmp_path,
        ) as r:  # fmt: skip
            added = look_up_and_enrich(r.enricher(GEO), make_events(source_ip=list(addresses)), {})
            return added.take(JSON)[0], added.counts.misses

    def rows() -> dict[str, tuple[str, str]]:
        return {
            address: (place, version)
            for address, place, version in postgres_connection.execute(
                "SELECT ip_address, city, version FROM geo_ip_cache"
            )
        }

    versions = [GeoDatabase(str(present)).version]
    assert b"Oldtown" in task("8.8.8.1", "8.8.8.2")[0]
    assert task("8.8.8.1", "8.8.8.2")[1] == 0  # they are cached
    refresh(load_room(GeoSettings), offer(tmp_path / "new.mmdb", "Newtown"))
    versions.append(GeoDatabase(str(present)).version)
    added, misses = task("8.8.8.1")
    assert b"Newtown" in added
    assert misses == 1
    old, new = zip(("Oldtown", "Newtown"), versions, strict=True)
    assert rows() == {"8.8.8.1": new, "8.8.8.2": old}  # this one nobody has asked for since
    assert task("8.8.8.1")[1] == 0
    monkeypatch.setenv("GEO_IP_LOCALE", "de")
    assert task("8.8.8.1")[1] == 1  # in another language they are other places


@needs_maxminds_database
def test_maxminds_own_test_database_is_installed(geo: GeoSettings, present: Path) -> None:
    """GeoIP2 City as MaxMind writes it."""
    known = geo.model_copy(update={"known_addresses": "81.2.69.142=GB,2a02:d680::1=GB"})
    done: Refreshed = refresh(known, FileSource(str(MAXMINDS_DATABASE)))
    assert done.outcome is RefreshOutcome.INSTALLED
    assert city_of(present, "81.2.69.142") == "London"
