"""Has geo databases read by a separate process before this one opens them, and remembers the findings.

Reading goes through C: one changed byte in a file can crash or hang a lookup. No task opens a file that has not been
read to its end by a process that may die of it (`enrichment.enrichers.geo.inspection`). That takes 0.3 s and some
seconds for a large file, once for each file and machine: the findings are kept in the user's cache folder until the
file changes. The database of the package maxminddb-geolite2 was checked on its installation.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import maxminddb
import msgspec

import enrichment
from enrichment.enrichers.geo.inspection import NO_DATABASE, UNFINISHED, Findings
from enrichment.errors import DatabaseRefused

log = logging.getLogger(__name__)

INSPECTION = f"{enrichment.__name__}.enrichers.geo.inspection"
# Changes when known files must be read again; another version of the reader has that effect, too.
FORMAT = 1
MIB = 1024**2
# Processor time and memory for a file: several times what reading takes. The clock may be slower by `WAITING`.
SECONDS, SECONDS_PER_MIB, WAITING = 15, 0.5, 5
MEMORY, MEMORY_PER_BYTE = 1024 * MIB, 24
# Reading a smaller file takes no time worth mentioning.
LARGE_BYTES = 8 * MIB
# Files that are remembered, the ones read last.
REMEMBERED = 50
# How often a file may be replaced while it is being opened.
OPENINGS = 3
# A file that was not read to its end within these is tried again after so long: the machine may have been busy.
AGAIN_SECONDS = 600
KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
# What the inspection is told of this process's environment: no settings and no passwords.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


class Unfinished(DatabaseRefused):
    """A file could not be read to its end within the time or memory that is allowed for its size."""


class _Remembered(msgspec.Struct, frozen=True):
    """The findings in a file, or why it is unusable; the latter holds until `until` (0: until the file changes)."""

    identity: tuple[str, ...]
    findings: Findings | None
    problem: str = ""
    until: float = 0


def inspect(path: Path, addresses: Sequence[str] = ()) -> Findings:
    """Have a file read now. Raises `DatabaseRefused` when it is not a database or reading it fails in any way, and
    `OSError` when it cannot be opened."""
    size = require_file(path).st_size
    seconds = int(SECONDS + SECONDS_PER_MIB * size / MIB)
    command = [
        sys.executable, "-P", "-m", INSPECTION,
        str(path), msgspec.json.encode(addresses).decode(), str(seconds), str(MEMORY + MEMORY_PER_BYTE * size),
    ]  # fmt: skip
    try:
        ended = subprocess.run(
            command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=WAITING * seconds,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as hung:
        raise Unfinished(f"{path}: it was not read to its end within {WAITING * seconds} s") from hung
    if ended.returncode == 0:
        return msgspec.json.decode(ended.stdout, type=Findings)
    said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    if ended.returncode == NO_DATABASE:
        raise DatabaseRefused(f"{path} is no database in MaxMind's format, or not all of one: {said}")
    if ended.returncode == UNFINISHED:
        raise Unfinished(f"{path} was not read to its end: {said}")
    if ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise Unfinished(
            f"{path}: reading it takes more than {seconds} s, or more memory than a file of its size needs"
        )
    if ended.returncode < 0:
        raise DatabaseRefused(f"{path} is damaged: reading it ends with {signal.Signals(-ended.returncode).name}")
    raise DatabaseRefused(f"{path} is damaged: {said}")


def findings_of(path: Path) -> Findings:
    """The findings in a file that was read before, or is read now. Raises as `inspect` does."""
    identity = identity_of(path)
    known = _recall().get(_name(path))
    if known is None or known.identity != identity or 0 < known.until <= time.time():
        known = _inspect_and_remember(path, identity)
    if known.findings is None:
        raise DatabaseRefused(known.problem)
    return known.findings


def remember(path: Path, findings: Findings) -> None:
    """Keep the findings for a file that has since been installed, so that the next task need not read it again."""
    _keep(path, _Remembered(identity_of(path), findings))


def open_inspected(path: Path) -> tuple[maxminddb.Reader, Findings]:
    """A reader of a file that has been read before, even if it is replaced meanwhile. Raises as `inspect` does."""
    for _ in range(OPENINGS):
        before = identity_of(path)
        findings = findings_of(path)
        reader = maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT)
        if identity_of(path) == before:
            return reader, findings
        reader.close()
    raise Unfinished(f"{path} is being written to: put another file in its place by renaming one over it")


def require_file(path: Path) -> os.stat_result:
    """Raise `DatabaseRefused` for anything but a regular file that is not empty: opening a FIFO waits for a writer, and
    a device may never end. (Some files of `/proc` claim to be empty, and wait.)"""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise DatabaseRefused(f"{path} is {KINDS.get(stat.S_IFMT(about.st_mode), 'something else')}, not a file")
    if not about.st_size:
        raise DatabaseRefused(f"{path} is empty")
    return about


def identity_of(path: Path) -> tuple[str, ...]:
    """An identity that changes when the file is replaced or written to. Raises as `require_file`."""
    about = require_file(path)
    numbers = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return (f"{FORMAT}", maxminddb.__version__, *map(str, numbers))


def _inspect_and_remember(path: Path, identity: tuple[str, ...]) -> _Remembered:
    if (size := path.stat().st_size) > LARGE_BYTES:
        log.info("geo_database.reading path=%s mib=%d: once for this file, before it is used", path, size // MIB)
    try:
        known = _Remembered(identity, inspect(path))
    except DatabaseRefused as refused:
        until = time.time() + AGAIN_SECONDS if isinstance(refused, Unfinished) else 0
        known = _Remembered(identity, None, str(refused), until)
    _keep(path, known)
    return known


def _recall() -> dict[str, _Remembered]:
    """The remembered findings, by the path of the file."""
    try:
        return msgspec.json.decode(_memory().read_bytes(), type=dict[str, _Remembered])
    except (OSError, RuntimeError, msgspec.MsgspecError):
        return {}


def _keep(path: Path, known: _Remembered) -> None:
    """Remember findings. Without a folder for them, or when another task writes at the same time, the next task reads
    the file again."""
    before = _recall()
    before.pop(_name(path), None)
    entries = [*before.items(), (_name(path), known)]
    try:
        memory = _memory()
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=memory.parent, prefix=f".{memory.name}-") as folder:
            written = Path(folder) / memory.name
            written.write_bytes(msgspec.json.encode(dict(entries[-REMEMBERED:])))
            written.replace(memory)
    except (OSError, RuntimeError) as unwritable:
        log.warning("geo_database.not_remembered path=%s error=%s", path, unwritable)


def _memory() -> Path:
    """Raises `RuntimeError` for a user without a home."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "stacklens" / "geo-databases.json"


def _name(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]


def _environment() -> dict[str, str]:
    own = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    modules = os.pathsep.join([str(Path(enrichment.__file__).resolve().parents[1]), *filter(None, sys.path)])
    # numpy's threads are of no use here, and each takes address space.
    return own | {"PYTHONPATH": modules, "OPENBLAS_NUM_THREADS": "1"}
