"""Geo databases that would crash or hang whoever reads them: a process of its own finds out, once for each file."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import maxminddb
import pytest

from enrichment.enrichers.geo import inspector
from enrichment.enrichers.geo.inspection import find_leaves, read_tree
from enrichment.enrichers.geo.inspector import Unfinished, findings_of, inspect, open_inspected, remember
from enrichment.errors import DatabaseRefused
from tests.fixtures.geo import BUILT_AT, circular, city, crashing, endless, write_geo_database

pytestmark = pytest.mark.processes

CASES = Path(__file__).parents[5] / "shared" / "cases"
RECORDS = {"8.8.8.0/24": city("Mountain View"), "9.0.0.0/8": city("Dallas"), "2001:4860::/32": city("Mountain View")}


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where findings are kept, for this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stacklens" / "geo-databases.json"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A good one."""
    return write_geo_database(tmp_path / "good.mmdb", RECORDS)


@pytest.fixture
def inspections(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which files were read, in order."""
    read: list[Path] = []

    def counted(path: Path) -> Any:
        read.append(path)
        return inspect(path)

    monkeypatch.setattr(inspector, "inspect", counted)
    return read


def test_findings_tell_what_is_in_a_good_database(database: Path) -> None:
    """Type, build, how many networks have a record, how many of these a place and a city, and what was asked for."""
    found = inspect(database, ["8.8.8.8", "1.1.1.1", "2001:4860::1"])
    assert (found.build, found.records, found.places, found.cities, found.unreadable) == (
        f"Test-City-{BUILT_AT}", 3, 3, 3, 0,
    )  # fmt: skip
    assert found.countries == {"8.8.8.8": "US", "1.1.1.1": None, "2001:4860::1": "US"}


@pytest.mark.parametrize("version", [4, 6])
def test_every_record_is_found_with_an_address_of_its_network(tmp_path: Path, version: int) -> None:
    """What is decoded is all that a look-up can come to: no record is left out."""
    lots = random.Random(version)
    networks: dict[str, Any] = {f"{IPv4Address(lots.getrandbits(32))}/{lots.randint(9, 32)}": 0 for _ in range(300)}
    if version == 6:
        networks |= {f"{IPv6Address(lots.getrandbits(128))}/{lots.randint(9, 128)}": 0 for _ in range(300)}
    records = {network: {"number": number} for number, network in enumerate(networks)}
    file = write_geo_database(tmp_path / "db.mmdb", records, ip_version=version, ipv4_compatible=version == 6)
    address_of = IPv4Address if version == 4 else IPv6Address
    with maxminddb.open_database(file) as reader:
        leaves = find_leaves(read_tree(file, reader.metadata()), 32 if version == 4 else 128)
        found = [repr(reader.get(address_of(number))) for number in leaves.addresses]
        assert sorted(found) == sorted({repr(record) for _, record in reader})


def _node(bits: int, left: int, right: int) -> bytes:
    if bits == 28:
        halves = bytes([(left >> 24) << 4 | right >> 24])
        return (left & 0xFFFFFF).to_bytes(3, "big") + halves + (right & 0xFFFFFF).to_bytes(3, "big")
    return left.to_bytes(bits // 8, "big") + right.to_bytes(bits // 8, "big")


@pytest.mark.parametrize("bits", [24, 28, 32])
def test_tree_is_read_when_its_numbers_have_any_size(tmp_path: Path, bits: int) -> None:
    """The three layouts of MaxMind's format; in the one of 28 bits a byte is shared by both numbers of a node."""
    lots = random.Random(bits)
    pairs = [(lots.getrandbits(bits), lots.getrandbits(bits)) for _ in range(100)]
    (tmp_path / "tree").write_bytes(b"".join(_node(bits, *pair) for pair in pairs) + bytes(16))
    about: Any = SimpleNamespace(node_count=100, record_size=bits, ip_version=6)
    tree = read_tree(tmp_path / "tree", about)
    assert list(zip(tree.left.tolist(), tree.right.tolist(), strict=True)) == pairs


@pytest.mark.parametrize("content", [endless(), endless(64, ip_version=6), circular()], ids=["4", "6", "circle"])
def test_tree_is_read_in_no_time_when_it_never_ends(tmp_path: Path, content: bytes) -> None:
    """2^32 leaves, or a circle, in a file of a few hundred bytes."""
    (tmp_path / "tree.mmdb").write_bytes(content)
    began = time.monotonic()
    assert inspect(tmp_path / "tree.mmdb").records == 0
    assert time.monotonic() - began < 15


def test_file_is_refused_when_reading_it_crashes(tmp_path: Path, database: Path) -> None:
    """The process that dies of it is not this one, and the refusal says how."""
    (tmp_path / "bad.mmdb").write_bytes(crashing(database.read_bytes()))
    with pytest.raises(DatabaseRefused, match=r"bad\.mmdb is damaged: reading it ends with SIGSEGV"):
        inspect(tmp_path / "bad.mmdb")


@pytest.mark.parametrize("name", ["segfault.mmdb", "exp4.mmdb"])
@pytest.mark.skipif(not CASES.exists(), reason="the inputs of the trials are not beside the repository")
def test_files_of_the_trials_are_survived(name: str) -> None:
    """What crashed and hung the refresh."""
    with suppress(DatabaseRefused):
        assert inspect(CASES / name).places == 0


def instead(of_reading: str) -> str:
    """An inspection that does something else than to read the file."""
    return (
        "import numpy; from enrichment.enrichers.geo import inspection\n"
        f"inspection.inspect = lambda *_: {of_reading}\n"
        "sys.exit(inspection.main(sys.argv[1:]))"
    )


@pytest.mark.parametrize(
    ("does", "error", "message"),
    [
        pytest.param("while True: pass", Unfinished, "takes more than 1 s", id="loop"),
        pytest.param("import time; time.sleep(60)", Unfinished, "not read to its end within 5 s", id="sleep"),
        pytest.param(instead("bytearray(1 << 42)"), Unfinished, "more memory", id="memory"),
        pytest.param(instead("numpy.zeros(1 << 42)"), Unfinished, "more memory", id="memory of numpy"),
        pytest.param(instead("open('/no/such')"), Unfinished, "No such file", id="disk"),
        pytest.param("os.abort()", DatabaseRefused, "SIGABRT", id="abort"),
        pytest.param("raise KeyError('node_count')", DatabaseRefused, "KeyError: 'node_count'", id="exception"),
    ],
)
def test_file_is_refused_when_the_reader_does_anything_else(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch, does: str, error: type[Exception], message: str
) -> None:
    """An endless loop, a wait, too much memory, a death or an exception: each ends, and is told."""
    monkeypatch.setattr(inspector, "SECONDS", 1)
    monkeypatch.setattr(inspector, "INSPECTION", "inspection")
    limits = "import sys; from enrichment.enrichers.geo.inspection import _limit; _limit(*map(int, sys.argv[-2:]))\n"
    (tmp_path / "inspection.py").write_text(limits + does.replace("os.abort", "import os; os.abort") + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(error, match=message):
        inspect(database)


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "device"])
def test_nothing_is_opened_that_is_no_file(tmp_path: Path, kind: str) -> None:
    """A FIFO would wait for a writer; a link to one is one."""
    path = tmp_path / "City.mmdb"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        make: dict[str, Callable[[], object]] = {
            "folder": path.mkdir,
            "fifo": lambda: os.mkfifo(path),
            "socket": lambda: listener.bind(str(path)),
            "device": lambda: path.symlink_to("/dev/zero"),
        }
        make[kind]()
        with pytest.raises(DatabaseRefused, match="not a file"):
            findings_of(path)


def test_empty_file_is_not_opened(tmp_path: Path, inspections: list[Path]) -> None:
    """Nor one of the system's that says so and waits for what will never come."""
    kernel = Path("/proc/kmsg")
    (tmp_path / "City.mmdb").touch()
    for path in [tmp_path / "City.mmdb", *([kernel] if kernel.exists() else [])]:
        with pytest.raises(DatabaseRefused, match=f"{path} is empty"):
            findings_of(path)
    assert inspections == []


@pytest.mark.parametrize(
    "about",
    [
        {"database_type": "Ci\0ty"}, {"database_type": "City\n2026"}, {"database_type": ""},
        {"database_type": "x" * 101}, {"ip_version": 5}, {"record_size": 25}, {"node_count": 10**6}, {"node_count": 0},
    ],
    ids=["nul", "two-lines", "no-type", "long-type", "ip-version", "record-size", "too-short", "no-nodes"],
)  # fmt: skip
def test_file_is_refused_when_what_it_says_of_itself_is_odd(tmp_path: Path, about: dict[str, Any]) -> None:
    """The type goes into columns of PostgreSQL and into logs; the numbers must fit the file."""
    (tmp_path / "odd.mmdb").write_bytes(endless(**about))
    with pytest.raises(DatabaseRefused, match=r"odd\.mmdb"):
        inspect(tmp_path / "odd.mmdb")


def test_file_is_refused_when_its_type_is_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8."""
    (tmp_path / "odd.mmdb").write_bytes(endless(database_type="Citycity").replace(b"Citycity", b"City\xff\xfe\xff\xfe"))
    with pytest.raises(DatabaseRefused, match=r"odd\.mmdb"):
        inspect(tmp_path / "odd.mmdb")


def test_file_is_read_once_until_it_changes(database: Path, inspections: list[Path]) -> None:
    """The next task, and the one after it, know the file; another file in its place is read anew."""
    first = findings_of(database)
    assert findings_of(database) == first
    assert len(inspections) == 1
    write_geo_database(database, RECORDS | {"9.0.0.0/8": city("Austin")})
    assert findings_of(database).sha256 != first.sha256
    assert len(inspections) == 2


def test_known_file_is_not_read_again(database: Path, inspections: list[Path]) -> None:
    """Opening a file that was read before takes a millisecond, not a process."""
    for _ in range(20):
        open_inspected(database)[0].close()
    assert inspections == [database]


def test_damaged_file_is_remembered_too(tmp_path: Path, database: Path, inspections: list[Path]) -> None:
    """A task does not pay for a file twice, whatever is wrong with it."""
    bad = tmp_path / "bad.mmdb"
    bad.write_bytes(crashing(database.read_bytes()))
    for _ in range(2):
        with pytest.raises(DatabaseRefused, match="SIGSEGV"):
            findings_of(bad)
    assert inspections == [bad]


def test_file_that_took_too_long_is_tried_again_later(
    database: Path, monkeypatch: pytest.MonkeyPatch, inspections: list[Path], tmp_path: Path
) -> None:
    """The machine may have been busy; but not every task tries."""
    monkeypatch.setattr(inspector, "WAITING", 0.001)
    monkeypatch.setattr(inspector, "INSPECTION", "sleeper")
    (tmp_path / "sleeper.py").write_text("import time; time.sleep(60)")
    monkeypatch.syspath_prepend(str(tmp_path))
    now = time.time()
    for _ in range(2):
        with pytest.raises(DatabaseRefused, match="not read to its end"):
            findings_of(database)
    assert len(inspections) == 1
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(database.parent / "cache"))
    monkeypatch.setattr(time, "time", lambda: now + 2 * inspector.AGAIN_SECONDS)
    assert findings_of(database).records == 3


@pytest.mark.parametrize("content", [b"", b"{}", b'{"a": 1}', b"\xff"])
def test_file_is_read_again_when_the_memory_is_damaged(
    database: Path, memory: Path, content: bytes, inspections: list[Path]
) -> None:
    """What was remembered is no more than a help."""
    memory.parent.mkdir(parents=True)
    memory.write_bytes(content)
    assert findings_of(database).records == findings_of(database).records == 3
    assert len(inspections) == 1


def test_file_is_used_when_nothing_can_be_remembered(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A user without a folder for caches has each task read the file; the log says why that is slow."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert findings_of(database).records == 3
    assert "geo_database.not_remembered" in caplog.text


def test_memory_does_not_grow_without_end(
    tmp_path: Path, database: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the files read last are remembered."""
    monkeypatch.setattr(inspector, "REMEMBERED", 3)
    found = inspect(database)
    for number in range(10):
        remember(write_geo_database(tmp_path / f"{number}.mmdb", {}), found)
    assert memory.read_bytes().count(b'"identity"') == 3
    assert [file.name for file in memory.parent.iterdir()] == [memory.name]


def test_inspection_knows_no_secret(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads what somebody else has made, so it is told nothing of connections."""
    monkeypatch.setenv("AIRFLOW_CONN_USER_SERVICE", "secret")
    assert "AIRFLOW_CONN_USER_SERVICE" not in inspector._environment()
    assert inspect(database).records == 3


def test_inspection_ends_when_the_task_does(database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A task that is stopped meanwhile leaves no process behind."""
    monkeypatch.setattr(inspector, "INSPECTION", "sleeper")
    noted = f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    (tmp_path / "sleeper.py").write_text(f"import os, time, pathlib; {noted}; time.sleep(60)")
    monkeypatch.syspath_prepend(str(tmp_path))

    def stop(*_: object) -> None:
        raise SystemExit

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 3)
    try:
        with pytest.raises(SystemExit):
            inspect(database)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_nothing_is_left_when_what_was_found_cannot_be_put_in_place(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on a full disk: no temporary file stays with each try."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "replace", full)
    assert findings_of(database).places > 0
    assert list((tmp_path / "cache" / "stacklens").iterdir()) == []
