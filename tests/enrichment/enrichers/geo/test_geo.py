"""Places from addresses: the database formats, the addresses that need none, and the enricher over both."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enrichment.caches.base import Answer, Entry, State, Tier
from enrichment.caches.layered import LayeredLookup, TimeToLive
from enrichment.caches.memory import MemoryLayer
from enrichment.enrichers.base import JSON, STATUS, OpenEnricher
from enrichment.enrichers.geo import GEO, Place
from enrichment.enrichers.geo.database import GeoDatabase, present_database_path
from enrichment.enrichers.geo.special_addresses import SpecialAddresses, network_type
from enrichment.enrichers.testing import FixedClock, FixedLookup, look_up_and_enrich, make_events
from enrichment.errors import SettingsError, SourceUnavailable
from tests.fixtures.geo import (
    BUILT_AT,
    MAXMINDS_DATABASE,
    circular,
    crashing,
    endless,
    needs_maxminds_database,
    write_geo_database,
)

pytestmark = pytest.mark.processes

LONDON = {
    "country": {"iso_code": "GB", "names": {"en": "United Kingdom", "de": "Vereinigtes Königreich"}},
    "city": {"names": {"en": "London", "fr": "Londres"}},
    "subdivisions": [{"iso_code": "ENG", "names": {"en": "England"}}, {"names": {"en": "not this one"}}],
    "location": {"latitude": 51.5142, "longitude": -0.0931, "time_zone": "Europe/London"},
}
FLAT_LONDON = {
    "city": "London", "country_code": "GB", "state1": "England", "state2": "", "postcode": "",
    "latitude": 51.5142, "longitude": -0.0931, "timezone": "Europe/London",
}  # fmt: skip
IPINFO = {
    "city": "Mountain View", "region": "California", "country": "US", "country_name": "United States", "lat": "37.4",
    "lng": "-122.0", "timezone": "America/Los_Angeles",
}  # fmt: skip
PLACE = Place("United Kingdom", "GB", "England", "London", 51.5142, -0.0931, "Europe/London", "public")

Build = Callable[..., str]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Writes records by network into a database file and gives its path."""

    def write(records: dict[str, Any], name: str = "city.mmdb", **options: Any) -> str:
        return str(write_geo_database(tmp_path / name, records, **options))

    return write


def place(database: GeoDatabase, address: str) -> Any:
    """The place of one address, None when it has none."""
    return database.fetch_many([address])[address].value


@pytest.mark.parametrize("record", [LONDON, FLAT_LONDON], ids=["nested", "flat"])
@pytest.mark.parametrize("address", ["81.2.69.142", "2a02:6b8::1", "::ffff:81.2.69.142", "::FFFF:5102:458e"])
def test_place_is_the_same_when_the_record_is_nested_or_flat(
    build: Build, record: dict[str, Any], address: str
) -> None:
    """GeoIP2 and DB-IP records, IPv4, IPv6 and IPv4 written as IPv6 give the same columns."""
    database = GeoDatabase(build({"81.2.69.0/24": record, "2a02:6b8::/32": record}))
    assert place(database, address) == PLACE


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param({"country": "DE"}, Place("Germany", "DE", network_type="public"), id="country-is-a-code"),
        pytest.param({"country_code": "de"}, Place("Germany", "DE", network_type="public"), id="code-in-small-letters"),
        pytest.param(
            {"country": "Deutschland", "country_code": "DE"},
            Place("Deutschland", "DE", network_type="public"),
            id="name",
        ),
        pytest.param({"country_code": "X1"}, Place(None, "X1", network_type="public"), id="code-that-nobody-knows"),
        pytest.param(
            {"stateprov": "Bavaria", "time_zone": "Europe/Berlin"},
            Place(region="Bavaria", timezone="Europe/Berlin", network_type="public"),
            id="other-names-of-columns",
        ),
        pytest.param(
            {"latitude": "48.1", "longitude": "11"},
            Place(latitude=48.1, longitude=11.0, network_type="public"),
            id="text",
        ),
        pytest.param(
            IPINFO,
            Place("United States", "US", "California", "Mountain View", 37.4, -122.0, "America/Los_Angeles", "public"),
            id="ipinfo",
        ),
        pytest.param(
            {"country": "us", "lat": 37.4, "lon": "-122"},
            Place("United States", "US", latitude=37.4, longitude=-122.0, network_type="public"),
            id="other-names-of-coordinates",
        ),
        pytest.param(
            {"country": "DE", "country_name": ""}, Place("Germany", "DE", network_type="public"), id="no-name"
        ),
        pytest.param({"city": "M", "latitude": "nan"}, Place(city="M", network_type="public"), id="not-a-number"),
        pytest.param({"city": "M", "latitude": ""}, Place(city="M", network_type="public"), id="empty"),
    ],
)
def test_flat_record_is_read_when_its_columns_differ(build: Build, record: dict[str, Any], expected: Place) -> None:
    """The editions of DB-IP name and type their columns differently."""
    assert place(GeoDatabase(build({"81.2.69.0/24": record})), "81.2.69.1") == expected


def test_names_are_in_the_locale_else_in_english(build: Build) -> None:
    """A name that the locale lacks is English; one that English lacks too is null."""
    record = LONDON | {"subdivisions": [{"names": {"fr": "Angleterre"}}]}
    german = place(GeoDatabase(build({"81.2.69.0/24": record}), locale="de"), "81.2.69.1")
    assert (german.country, german.city, german.region) == ("Vereinigtes Königreich", "London", None)


def test_country_name_is_in_the_locale_when_only_the_code_is_known(build: Build) -> None:
    """A flat database without names still gives names in the configured language, English for an unknown one."""
    path = build({"81.2.69.0/24": {"country_code": "DE"}})
    assert place(GeoDatabase(path, locale="pt-BR"), "81.2.69.1").country == "Alemanha"
    assert place(GeoDatabase(path, locale="tlh"), "81.2.69.1").country == "Germany"


def test_address_is_absent_when_the_database_does_not_know_it(build: Build) -> None:
    """Not in the database, an empty record, and IPv6 in an IPv4 database are not found."""
    database = GeoDatabase(build({"81.2.69.0/24": LONDON, "9.0.0.0/8": {"continent": {"code": "EU"}}}))
    only_ipv4 = GeoDatabase(build({"81.2.69.0/24": LONDON}, "v4.mmdb", ip_version=4, ipv4_compatible=False))
    entries = database.fetch_many(["1.1.1.1", "9.9.9.9"]) | only_ipv4.fetch_many(["2a02:6b8::1"])
    assert {(entry.state, entry.reason) for entry in entries.values()} == {(State.ABSENT, "geo-ip-not-found")}
    assert place(only_ipv4, "::ffff:81.2.69.142") == PLACE


@pytest.mark.parametrize(
    "record",
    [
        ["a", "list"],
        {"city": {"names": "London"}},
        {"latitude": "north"},
        {"location": {"latitude": "north"}},
        LONDON | {"city": "London"},
        LONDON | {"country": {"iso_code": 826}},
    ],
    ids=["list", "names-that-are-none", "flat-latitude", "nested-latitude", "city-that-is-a-text", "nested-code"],
)
def test_one_key_fails_when_its_record_cannot_be_read(build: Build, record: Any) -> None:
    """An odd record costs its own addresses only."""
    entries = GeoDatabase(build({"81.2.69.0/24": LONDON, "9.0.0.0/8": record})).fetch_many(["9.9.9.9", "81.2.69.1"])
    assert (entries["9.9.9.9"].state, entries["9.9.9.9"].reason) == (State.FAILED, "geo-ip-lookup-failed")
    assert entries["81.2.69.1"].value == PLACE


def test_one_key_fails_when_the_file_is_damaged_inside(build: Build, tmp_path: Path) -> None:
    """A file whose search tree points at rubbish fails for the address, not for the batch."""
    path = Path(build({"81.2.69.0/24": LONDON}))
    content = path.read_bytes()
    (tmp_path / "damaged.mmdb").write_bytes(content.replace(b"Europe/London", b"\xff" * 13))
    entry = GeoDatabase(str(tmp_path / "damaged.mmdb")).fetch_many(["81.2.69.1"])["81.2.69.1"]
    assert (entry.state, entry.reason) == (State.FAILED, "geo-ip-lookup-failed")


@pytest.mark.parametrize("text", ["nowhere", "", "8.8.8.8\0", "\ud800", "8.8.8.8%1", "1.2.3", "0x8.8.8.8"])
def test_text_that_is_no_address_fails_when_it_reaches_the_database(build: Build, text: str) -> None:
    """The database refuses it as the known addresses would."""
    entry = GeoDatabase(build({"81.2.69.0/24": LONDON})).fetch_many([text])[text]
    assert (entry.state, entry.reason) == (State.FAILED, "invalid-ip")


def test_version_has_all_that_a_place_depends_on(build: Build) -> None:
    """Another build, another content of the same build, another language: cached places of the old one give way."""
    path = build({"81.2.69.0/24": LONDON})
    database = GeoDatabase(path)
    assert database.build == f"Test-City-{BUILT_AT}"
    assert {entry.version for entry in database.fetch_many(["81.2.69.1", "1.1.1.1"]).values()} == {database.version}
    assert GeoDatabase(path).version == database.version
    others = [
        GeoDatabase(path, locale="de"),
        GeoDatabase(path, locale="pt_BR"),
        GeoDatabase(build({"81.2.69.0/24": FLAT_LONDON}, "other.mmdb")),
        GeoDatabase(build({"81.2.69.0/24": LONDON}, "later.mmdb", built_at=BUILT_AT + 1)),
        GeoDatabase(build({"81.2.69.0/24": LONDON}, "type.mmdb", database_type="Other-City")),
    ]
    assert len({database.version, *(other.version for other in others)}) == 6


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "empty": Path.touch,
    "text": lambda path: path.write_text("half a download"),
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "crashing": lambda path: path.write_bytes(
        crashing(write_geo_database(path.with_name("good"), {"81.2.69.0/24": LONDON}).read_bytes())
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_nothing_is_served_when_the_file_cannot_be_read(
    tmp_path: Path, kind: str, clock: FixedClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Places of any other build are not this one's, fresh or stale: look-ups fail, and the log says why."""
    path = tmp_path / "City.mmdb"
    UNREADABLE[kind](path)
    database = GeoDatabase(str(path))
    cached = MemoryLayer(10, clock)
    entry = Entry(State.FOUND, PLACE, expires_at=clock.now + 100, version=f"Test-City-{BUILT_AT}")
    cached.put_many({"81.2.69.1": entry})
    lookup = LayeredLookup([cached], database, TimeToLive(10, 10, 10), clock)
    [answer] = lookup.answer_many(["81.2.69.1"])
    assert (answer.entry.state, answer.entry.reason) == (State.FAILED, "geo-ip-lookup-failed")
    assert (database.build, bool(database.version)) == ("", True)
    assert [record.levelname for record in caplog.records if "geo_database.unreadable" in record.message] == ["ERROR"]


NO_PLACES: dict[str, dict[str, Any]] = {
    "GeoLite2-ASN": {"autonomous_system_number": 15169, "autonomous_system_organization": "Google"},
    "GeoIP2-ISP": {"isp": "Google", "organization": "Google", "autonomous_system_number": 15169},
    "GeoIP2-Anonymous-IP": {"is_anonymous": True, "is_hosting_provider": True},
    "GeoIP2-Connection-Type": {"connection_type": "Corporate"},
    "GeoIP2-Domain": {"domain": "google.com"},
    "GeoIP2-User-Count": {"ipv4_24": 5},
    "GeoIP-Continent": {"continent": {"code": "EU", "names": {"en": "Europe"}}},
    "ipinfo standard_asn.mmdb": {"asn": "AS15169", "domain": "google.com", "name": "Google LLC", "type": "hosting"},
    "Our-Own": {"rack": 5, "owner": {"team": "payments"}},
    "Scalars": {},
}


@pytest.mark.parametrize("database_type", NO_PLACES)
def test_setting_is_wrong_when_the_database_knows_no_places(build: Build, database_type: str) -> None:
    """Every address would be unknown, and kept as unknown: the error says what the file is, and what is needed."""
    record = NO_PLACES[database_type]
    path = build({"81.2.69.0/24": record, "9.0.0.0/8": record}, database_type=database_type)
    with pytest.raises(SettingsError) as wrong:
        GeoDatabase(path)
    for word in ("GEO_IP_DATABASE_PATH", path, database_type, "City", *list(record)[:3]):
        assert word in str(wrong.value)


@pytest.mark.parametrize("content", [endless(), circular()], ids=["2^32-leaves", "circle"])
def test_setting_is_wrong_when_the_database_is_empty(tmp_path: Path, content: bytes) -> None:
    """Nor has a tree without records any, however large it pretends to be."""
    (tmp_path / "empty.mmdb").write_bytes(content)
    with pytest.raises(SettingsError, match="it has no records"):
        GeoDatabase(str(tmp_path / "empty.mmdb"))


@pytest.mark.parametrize(
    ("database_type", "record"),
    [
        ("GeoIP2-Enterprise", LONDON | {"traits": {"isp": "BT"}}),
        ("GeoIP2-Precision-Insights", LONDON),
        ("DBIP-City-Lite", LONDON),
        ("GeoLite2-Country", {"country": LONDON["country"]}),
        ("ipinfo lite", {"country": "United Kingdom", "country_code": "GB", "asn": "AS1"}),
        ("GeoLite2-ASN", LONDON),
    ],
)
def test_database_of_any_type_is_used_when_it_has_places(
    build: Build, database_type: str, record: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What is in it counts, not its name. One of countries is of use too; that it has no cities is told."""
    database = GeoDatabase(build({"81.2.69.0/24": record}, database_type=database_type))
    assert place(database, "81.2.69.1").country == "United Kingdom"
    assert ("geo_database.no_cities" in caplog.text) == ("city" not in record)


def test_text_of_megabytes_is_no_name(build: Build) -> None:
    """It would be in every message of the address."""
    database = GeoDatabase(build({"81.2.69.0/24": {"city": "x" * 10_000}, "9.0.0.0/8": LONDON}))
    entry = database.fetch_many(["81.2.69.1"])["81.2.69.1"]
    assert (entry.state, entry.reason) == (State.FAILED, "geo-ip-lookup-failed")


def test_missing_file_names_the_variable(tmp_path: Path) -> None:
    """A path that leads nowhere is a wrong setting, and the error says which."""
    with pytest.raises(SettingsError, match=r"GEO_IP_DATABASE_PATH=.*nowhere\.mmdb"):
        GeoDatabase(str(tmp_path / "nowhere.mmdb"))


def test_source_is_unavailable_when_the_file_is_no_database(tmp_path: Path) -> None:
    """A broken file costs the geo columns, and says why; the pipeline goes on."""
    (tmp_path / "broken.mmdb").write_bytes(b"half a download")
    database = GeoDatabase(str(tmp_path / "broken.mmdb"))
    with pytest.raises(SourceUnavailable, match=r"geo-ip-lookup-failed: .*broken\.mmdb"):
        database.fetch_many(["81.2.69.1"])


def test_documented_address_is_in_the_default_database() -> None:
    """Without a path 8.8.8.8 is in the United States, by GeoLite2 City of 2018."""
    database = GeoDatabase()
    found = place(database, "8.8.8.8")
    assert database.version.startswith("GeoLite2-City-")
    assert (found.country, found.country_code, found.latitude, found.longitude) == (
        "United States",
        "US",
        37.751,
        -97.822,
    )


@needs_maxminds_database
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("81.2.69.142", PLACE),
        ("2a02:d680::1", Place("United Kingdom", "GB", None, None, 54.75844, -2.69531, "Europe/London", "public")),
        ("67.43.156.1", Place("Bhutan", "BT", None, None, 27.5, 90.5, "Asia/Thimphu", "public")),
        ("2.3.3.3", None),
    ],
)
def test_maxminds_own_test_database_is_read(address: str, expected: Place | None) -> None:
    """GeoIP2 City as MaxMind writes it; a record that knows only the continent is no place."""
    assert place(GeoDatabase(str(MAXMINDS_DATABASE)), address) == expected


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", "public"), ("2001:4860:4860::8888", "public"), ("::ffff:8.8.8.8", "public"),
        ("10.1.2.3", "private"), ("172.31.0.1", "private"), ("192.168.1.1", "private"), ("fd00::1", "private"),
        ("::ffff:10.0.0.1", "private"), ("172.32.0.1", "public"),
        ("100.64.0.1", "shared"), ("100.128.0.1", "public"),
        ("127.0.0.1", "loopback"), ("::1", "loopback"),
        ("169.254.1.1", "link-local"), ("fe80::1", "link-local"), ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"), ("ff02::1", "multicast"),
        ("192.0.2.1", "documentation"), ("198.51.100.7", "documentation"), ("203.0.113.9", "documentation"),
        ("2001:db8::1", "documentation"), ("3fff::1", "documentation"),
        ("0.0.0.0", "unspecified"), ("::", "unspecified"),
        ("240.0.0.1", "reserved"), ("255.255.255.255", "reserved"), ("198.18.0.1", "reserved"),
        ("", "invalid"), ("localhost", "invalid"), ("1.2.3", "invalid"), ("300.1.1.1", "invalid"),
        ("8.8.8.8 ", "invalid"), ("08.8.8.8", "invalid"), ("0x8.8.8.8", "invalid"), ("1.2.3.4:80", "invalid"),
        ("1" * 101, "invalid"),
        ("fe80::1%\0", "link-local"), ("fe80::1%é", "link-local"), ("ff02::1%2", "multicast"), ("::1%lo", "loopback"),
        ("2001:4860:4860::8888%eth0", "invalid"), ("2001:4860:4860::8888%1", "invalid"),
        ("2001:4860:4860::8888%\0", "invalid"), ("::ffff:8.8.8.8%1", "invalid"), ("8.8.8.8%1", "invalid"),
        ("2001:4860:4860::8888%", "invalid"), ("8.8.8.8\0", "invalid"), ("\0", "invalid"), ("\ud800", "invalid"),
        ("٨.٨.٨.٨", "invalid"), ("2001:4860:4860::8888%\ud800", "invalid"),
    ],
)  # fmt: skip
def test_network_type_is_known_for_every_block(address: str, kind: str) -> None:
    """The type of a network follows from the address alone; shorthand that C libraries accept is no address."""
    assert network_type(address) == kind


def test_only_public_addresses_are_looked_up() -> None:
    """Reserved and invalid addresses are answered without asking, as from memory; the order of the keys is kept."""
    behind = FixedLookup({"8.8.8.8": PLACE}, absent="geo-ip-not-found")
    answers = SpecialAddresses(behind).answer_many(["10.0.0.1", "9.9.9.9", "nowhere", "8.8.8.8"])
    assert behind.asked == [["9.9.9.9", "8.8.8.8"]]
    assert list(answers) == [
        Answer(Entry(State.FOUND, value=Place(network_type="private")), Tier.MEMORY),
        Answer(Entry(State.ABSENT, reason="geo-ip-not-found"), Tier.SOURCE),
        Answer(Entry(State.FAILED, reason="invalid-ip"), Tier.MEMORY),
        Answer(Entry(State.FOUND, value=PLACE), Tier.SOURCE),
    ]


def test_nothing_is_looked_up_when_no_address_is_public() -> None:
    """A chunk of internal traffic costs no lookup."""
    behind = FixedLookup({})
    SpecialAddresses(behind).answer_many(["10.0.0.1", "::1"])
    assert behind.asked == []


def test_columns_of_a_chunk_when_addresses_are_public_private_invalid_and_missing() -> None:
    """A private address has its network type and nothing else; an invalid one is an error; none at all is neither."""
    lookup = SpecialAddresses(FixedLookup({"8.8.8.8": PLACE}))
    events = make_events(source_ip=["192.168.0.1", None, "8.8.8.8", "not-an-ip"])
    added = look_up_and_enrich(OpenEnricher(GEO, lookup), events, {})
    assert added.take(STATUS).tolist() == ["ok", "", "ok", "invalid-ip"]
    assert added.take("geo_network_type").astype(object).where(lambda s: s.notna(), None).tolist() == [
        "private", None, "public", None,
    ]  # fmt: skip
    assert json.loads(b"{%s}" % added.take(JSON)[2])["geo_city"] == "London"


def test_install_path_that_cannot_be_looked_at_is_named() -> None:
    """A name that is too long; a folder that the user of a worker may not enter."""
    with pytest.raises(SettingsError, match="GEO_IP_INSTALL_PATH"):
        present_database_path("", "/" + "a" * 300)
