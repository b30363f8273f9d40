"""The broker's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from include.local import kafka
from include.local.config import Config
from include.local.errors import StackError


@pytest.fixture
def jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one jar, whose checksum is the expected one."""
    path = tmp_path / "kafka.jar"
    path.write_bytes(b"classes")
    checksums = tmp_path / "sums"
    checksums.write_text(f"{hashlib.sha256(b'classes').hexdigest()}  kafka.jar\n")
    monkeypatch.setattr(kafka, "CHECKSUMS", checksums)
    monkeypatch.setattr(kafka, "_resolve", lambda cache: [path])
    return path


def test_jars_when_all_are_right(jar: Path, tmp_path: Path) -> None:
    """What is on the classpath is what was resolved and checked."""
    assert kafka.jars(tmp_path) == [jar]


def test_jars_when_one_is_damaged(jar: Path, tmp_path: Path) -> None:
    """A jar with a wrong checksum is refused, saying which and what to remove."""
    jar.write_bytes(b"other classes")
    with pytest.raises(StackError, match=rf"kafka\.jar is damaged.*remove {tmp_path}"):
        kafka.jars(tmp_path)


@pytest.mark.usefixtures("jar")
def test_jars_when_one_is_not_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A jar that nobody checked does not get onto the classpath."""
    monkeypatch.setattr(kafka, "_resolve", lambda cache: [tmp_path / "kafka.jar", tmp_path / "evil.jar"])
    with pytest.raises(StackError, match=r"evil\.jar"):
        kafka.jars(tmp_path)


def test_checksums_when_compared_with_the_version() -> None:
    """The checked jars are those of the version that is asked for, Kafka's own all of the same one."""
    names = [line.split()[1] for line in kafka.CHECKSUMS.read_text().splitlines()]
    assert f"kafka_2.13-{kafka.VERSION}.jar" in names
    ours = [name for name in names if name.startswith("kafka")]
    assert all(name.endswith(f"-{kafka.VERSION}.jar") for name in ours)


def test_server_properties_when_on_this_machine(config: Config) -> None:
    """The broker listens on this machine only, and keeps its data in the stack's folder."""
    properties = kafka.server_properties(config)
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:29092,CONTROLLER://127.0.0.1:29093"
    assert Path(properties["log.dirs"]).is_relative_to(config.directory)


def test_argument_file_when_paths_are_odd() -> None:
    """Spaces, quotes and backslashes in paths reach Java as they are."""
    assert kafka._argument_file(['/a b/"c"\\d']) == '"/a b/\\"c\\"\\\\d"\n'
