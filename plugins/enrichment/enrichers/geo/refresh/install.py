"""Replaces the database in use with a newer one: fetched beside it, verified, compared, renamed over it.

Everything before the rename may fail and leaves the database in use as it is. The rename is within one folder, so it is
atomic, and a task that has the old database open goes on reading it: its lookups are all of one build. A task that is
tried again has the newer build for all of its lookups.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from enrichment.enrichers.geo import GeoSettings
from enrichment.enrichers.geo.database import present_database_path
from enrichment.enrichers.geo.inspector import remember
from enrichment.enrichers.geo.refresh.candidate import Build, build_of, known_addresses, verify
from enrichment.enrichers.geo.refresh.sources import Source
from enrichment.enrichers.geo.refresh.unpacking import MIB, unpack
from enrichment.errors import DatabaseRefused, RefreshFailed, SettingsError

log = logging.getLogger(__name__)

WORKSPACE = ".stacklens-refresh-"
# The errors of a folder that cannot be written to: another try would not help.
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.EISDIR)
READABLE = 0o644
# Clocks differ, but not by more. A build time later than that is comparable with nothing.
FUTURE_SECONDS = 86_400


class RefreshOutcome(StrEnum):
    """The outcome of a refresh."""

    INSTALLED = "installed"
    DRY_RUN = "dry-run"  # it would have been installed
    IDENTICAL = "identical"  # the source has what is in use
    OLDER = "older"  # the source has less


class Refreshed(msgspec.Struct, frozen=True):
    """The result of a refresh. `offered` is the source's build, if it was read; `replaced` the build used before."""

    outcome: RefreshOutcome
    source: str
    path: str
    offered: Build | None
    replaced: Build | None


class Age(msgspec.Struct, frozen=True):
    """How old the database in use is; a `problem` where that is unknown."""

    path: str
    version: str = ""
    built_at: int | None = None
    age_days: float | None = None
    max_age_days: float | None = None
    too_old: bool = False
    problem: str = ""


def refresh(
    geo: GeoSettings, source: Source, *, force: bool = False, dry_run: bool = False, now: float | None = None
) -> Refreshed:
    """Install the source's database if it is newer than the one in use; with `force`, at any age.

    Raises `DatabaseRefused` when it is not a City database or fails the checks, `RefreshFailed` when it could not be
    fetched or written, `SettingsError` when only a person can help. Each of these keeps the database in use.
    """
    now = time.time() if now is None else now
    target = install_path(geo)
    present = _present(geo)
    try:
        with _workspace(target) as folder:
            offered = source.fetch(folder, None if force or present is None else Path(present.path))
            if offered is None:
                return Refreshed(RefreshOutcome.IDENTICAL, source.name, str(target), present, present)
            candidate = unpack(offered, folder, geo.max_database_mib * MIB)
            findings = verify(candidate, known_addresses(geo.known_addresses))
            build = Build.of(target, findings)
            outcome = judge(build, present, now, force=force, dry_run=dry_run)
            if outcome is RefreshOutcome.INSTALLED:
                swap(candidate, target)
                remember(target, findings)
    except OSError as failed:
        if failed.errno in UNWRITABLE:
            raise SettingsError(
                f"{target.parent}, the folder of the geo database, is not writable: {failed}"
            ) from failed
        raise RefreshFailed(f"the newer database could not be written to {target.parent}: {failed}") from failed
    log.info("geo_database.%s build=%s source=%s path=%s", outcome, build.version, source.name, target)
    return Refreshed(outcome, source.name, str(target), build, present)


def judge(offered: Build, present: Build | None, now: float, *, force: bool, dry_run: bool) -> RefreshOutcome:
    """The decision on a valid database. Raises `DatabaseRefused` for a build time in the future: every later build
    would be older. A database in use with such a time is replaced by any other."""
    if is_from_future(offered, now) and not force:
        raise DatabaseRefused(
            f"{offered.version} says that it was built {-offered.age_days(now):,.0f} days from now, so no later build"
            " could take its place; the parameter `force` installs it all the same"
        )
    if present is not None and not is_from_future(present, now) and not force:
        if offered.version == present.version:
            return RefreshOutcome.IDENTICAL
        if offered.built_at <= present.built_at:
            return RefreshOutcome.OLDER
    return RefreshOutcome.DRY_RUN if dry_run else RefreshOutcome.INSTALLED


def is_from_future(build: Build, now: float) -> bool:
    """Whether its build time is in the future."""
    return build.built_at > now + FUTURE_SECONDS


def swap(candidate: Path, target: Path) -> None:
    """Replace a file by another one on the same file system, atomically and durably."""
    candidate.chmod(target.stat().st_mode & 0o777 if target.exists() else READABLE)
    with candidate.open("rb+") as file:
        os.fsync(file.fileno())
    candidate.replace(target)
    with suppress(OSError):  # not every file system can; the file is there all the same
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def age(geo: GeoSettings, now: float) -> Age:
    """How old the database in use is; warns in the log when it is too old, missing or unreadable."""
    path = present_database_path(geo.database_path, geo.install_path)
    try:
        build = build_of(path)
    except (DatabaseRefused, OSError) as unreadable:
        log.warning("geo_database.unreadable path=%s error=%s", path, unreadable)
        return Age(path, problem=str(unreadable))
    days = round(build.age_days(now), 2)
    if is_from_future(build, now):
        problem = f"it says that it was built {-days:,.0f} days from now"
        log.warning("geo_database.from_future build=%s path=%s: %s", build.version, path, problem)
        return Age(path, build.version, build.built_at, days, geo.max_age_days, problem=problem)
    too_old = days > geo.max_age_days
    log.log(
        logging.WARNING if too_old else logging.INFO,
        "geo_database.%s build=%s age_days=%.1f max_age_days=%g path=%s",
        "too_old" if too_old else "age", build.version, days, geo.max_age_days, path,
    )  # fmt: skip
    return Age(path, build.version, build.built_at, days, geo.max_age_days, too_old)


def install_path(geo: GeoSettings) -> Path:
    """The path of a newer database: that of the configured one, never the package's."""
    return Path(geo.database_path or geo.install_path).expanduser()


def _present(geo: GeoSettings) -> Build | None:
    """The database in use; None where it is missing or unreadable: any valid one is better."""
    path = present_database_path(geo.database_path, geo.install_path)
    try:
        return build_of(path)
    except (DatabaseRefused, OSError) as unreadable:
        log.warning("geo_database.unreadable path=%s error=%s", path, unreadable)
        return None


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A folder beside the target, for one refresh at a time; the remains of killed ones are removed."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(target.parent / f"{WORKSPACE}lock", timeout=0):
            for left in target.parent.glob(f"{WORKSPACE}*/"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=WORKSPACE, dir=target.parent, ignore_cleanup_errors=True) as folder:
                yield Path(folder)
    except Timeout as busy:
        raise RefreshFailed(f"another refresh is at work in {target.parent}") from busy
