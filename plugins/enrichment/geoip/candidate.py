"""What a source gave in, a database that may be used out: unpacked, opened, and asked what we know already."""

from __future__ import annotations

import gzip
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import maxminddb
import msgspec

from enrichment.caches.base import State
from enrichment.enrichers.geo_database import GeoDatabase
from enrichment.errors import DatabaseRefused, RefreshFailed

# Records that are read to see whether the database knows cities. City databases have some among their first hundreds.
SAMPLE_RECORDS = 20_000
CHUNK_BYTES = 1024**2
GZIP = b"\x1f\x8b"


class Build(msgspec.Struct, frozen=True):
    """One build of a database. `version` is what cached places are kept under, `built_at` seconds since the epoch."""

    path: str
    version: str
    built_at: int

    def age_days(self, now: float) -> float:
        """Days since it was built."""
        return (now - self.built_at) / 86_400


def build_of(path: str | Path) -> Build:
    """Read what a database says of itself. Raises `DatabaseRefused` for a file that is none, `OSError`."""
    try:
        with maxminddb.open_database(path, maxminddb.MODE_MMAP_EXT) as reader:
            about = reader.metadata()
    except maxminddb.InvalidDatabaseError as broken:
        raise DatabaseRefused(f"{path} is no database in MaxMind's format, or not all of one: {broken}") from broken
    return Build(str(path), f"{about.database_type}-{about.build_epoch}", about.build_epoch)


def unpack(offered: Path, folder: Path) -> Path:
    """The database in what a source gave, whatever its name: plain, in gzip, or the one `.mmdb` of a tar archive.

    Raises `RefreshFailed` when it is cut off or damaged, `DatabaseRefused` when an archive has no database in it.
    """
    with offered.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    try:
        if tarfile.is_tarfile(offered):
            return _untar(offered, folder / "unpacked.mmdb")
        return _gunzip(offered, folder / "unpacked.mmdb") if packed else offered
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, tarfile.TarError) as damaged:
        raise RefreshFailed(f"what was offered is cut off or damaged: {damaged}") from damaged


def verify(candidate: Path, known: Mapping[str, str], locale: str = "en") -> Build:
    """Open it, look up addresses whose country is known, and see whether a sample of its records has cities.

    Raises `DatabaseRefused` with everything that is wrong.
    """
    build = build_of(candidate)
    database = GeoDatabase(str(candidate), locale)
    wrong = []
    for address, entry in database.fetch_many(list(known)).items():
        found = entry.value.country_code if entry.state is State.FOUND else None
        if found != known[address]:
            wrong.append(f"{address} is in {found or 'no country'} there, not in {known[address]}")
    sample = database.fetch_many(_sample(candidate)).values()
    if unreadable := sum(entry.state is State.FAILED for entry in sample):
        wrong.append(f"{unreadable:,} of {len(sample):,} records cannot be read")
    if not any(entry.value.city for entry in sample if entry.state is State.FOUND):
        wrong.append(f"none of {len(sample):,} records has a city: is it a database of countries?")
    if wrong:
        raise DatabaseRefused(f"{build.version}: {'; '.join(wrong)}")
    return build


def known_addresses(text: str) -> dict[str, str]:
    """Address to country code, as GEO_IP_KNOWN_ADDRESSES has them: `8.8.8.8=US,128.101.101.101=US`."""
    pairs = (pair.strip().partition("=") for pair in text.split(","))
    return {address: country for address, _, country in pairs}


def _sample(candidate: Path) -> list[str]:
    """An address of each of its first networks."""
    try:
        with maxminddb.open_database(candidate, maxminddb.MODE_MMAP_EXT) as reader:
            return [str(network.network_address) for network, _ in islice(reader, SAMPLE_RECORDS)]
    except (maxminddb.InvalidDatabaseError, UnicodeDecodeError) as damaged:
        raise DatabaseRefused(f"{candidate.name}: a record cannot be read: {damaged}") from damaged


def _untar(offered: Path, database: Path) -> Path:
    with tarfile.open(offered) as archive:
        for member in archive:
            inside = archive.extractfile(member) if member.name.endswith(".mmdb") else None
            if inside is not None:
                with inside, database.open("wb") as out:
                    shutil.copyfileobj(inside, out, CHUNK_BYTES)
                return database
    raise DatabaseRefused("the archive that was offered has no .mmdb file in it")


def _gunzip(offered: Path, database: Path) -> Path:
    with gzip.open(offered) as inside, database.open("wb") as out:
        shutil.copyfileobj(inside, out, CHUNK_BYTES)
    return database
