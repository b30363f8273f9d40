"""A source's file in, the database in it out: unpacked by content, not by name, and never beyond its size limit."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from enrichment.errors import DatabaseRefused, RefreshFailed

MIB = 1024**2
CHUNK_BYTES = MIB
# A packed database is a third to a half of its size. What becomes many times larger is no database, or made to harm.
MAX_RATIO = 20
# Small databases, as tests and intranets have them, repeat themselves more.
ALWAYS_ALLOWED = 64 * MIB
PACKED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
OTHER_FORMATS = {b"PK\x03\x04": "a zip archive", b"7z\xbc\xaf": "a 7z archive", b"\x28\xb5\x2f\xfd": "packed by zstd"}
TAKEN = "GEO_IP_UPDATE_SOURCE takes .mmdb, .mmdb.gz and .tar.gz"


class _Bounded(io.RawIOBase):
    """A stream that refuses to return more than so many bytes: a header in an archive may ask for any number."""

    def __init__(self, stream: IO[bytes], limit: int, why: str) -> None:
        self._stream = stream
        self._left = limit
        self._why = why

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises `DatabaseRefused` when there is more to read than is allowed."""
        piece = self._stream.read(min(len(buffer), CHUNK_BYTES))
        self._left -= len(piece)
        if self._left < 0:
            raise DatabaseRefused(self._why)
        buffer[: len(piece)] = piece
        return len(piece)


def unpack(offered: Path, folder: Path, max_bytes: int = 2048 * MIB) -> Path:
    """The database in a source's file: plain, compressed, or the one `.mmdb` of a tar archive.

    Raises `RefreshFailed` when it is cut off or damaged, `DatabaseRefused` when an archive has no database in it, and
    when it becomes larger than `max_bytes` or implausibly larger than its compressed form.
    """
    with offered.open("rb") as file:
        start = file.read(8)
    for magic, what in OTHER_FORMATS.items():
        if start.startswith(magic):
            raise DatabaseRefused(f"what was offered is {what}; {TAKEN}")
    open_packed = next((opener for magic, opener in PACKED.items() if start.startswith(magic)), open)
    limit, why = _limit(offered.stat().st_size, max_bytes)
    database = folder / "unpacked.mmdb"
    try:
        with closing(open_packed(offered, "rb")) as stream:
            bounded = io.BufferedReader(_Bounded(stream, limit, why), CHUNK_BYTES)
            if _begins_archive(bounded.peek(tarfile.BLOCKSIZE)):
                return _untar(bounded, database, limit, why)
            if open_packed is open:
                return offered
            with database.open("wb") as out:
                shutil.copyfileobj(bounded, out, CHUNK_BYTES)
            return database
    except (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, ValueError, OverflowError, OSError) as damaged:
        if isinstance(damaged, OSError) and damaged.errno is not None:
            raise  # the disk's; those of gzip and bz2 have no number
        raise RefreshFailed(f"what was offered is cut off or damaged: {damaged}") from damaged
    except MemoryError as greedy:
        raise DatabaseRefused(f"what was offered takes too much memory to be unpacked; {TAKEN}") from greedy


def _limit(size: int, max_bytes: int) -> tuple[int, str]:
    """How many bytes it may become, and the error text for more."""
    by_ratio = max(MAX_RATIO * size, ALWAYS_ALLOWED)
    if by_ratio < max_bytes:
        return by_ratio, (
            f"what was offered becomes more than {MAX_RATIO} times its {size / MIB:.1f} MiB when it is unpacked, as no"
            " database does; unpack it yourself, and name the .mmdb as the source, if it is one"
        )
    return max_bytes, f"the database is larger than GEO_IP_MAX_DATABASE_MIB={max_bytes / MIB:g} allows"


def _begins_archive(start: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _untar(stream: IO[bytes], database: Path, limit: int, why: str) -> Path:
    """Extract an archive's database, ignoring the paths in the archive."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            inside = archive.extractfile(member) if member.isfile() and member.name.endswith(".mmdb") else None
            if inside is not None:
                # A sparse file is larger than what the archive has of it.
                with inside, database.open("wb") as out:
                    shutil.copyfileobj(_Bounded(inside, limit, why), out, CHUNK_BYTES)
                return database
    raise DatabaseRefused("the archive that was offered has no .mmdb file in it")
