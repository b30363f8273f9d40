"""Where staged files lie: in a folder or an object store. A file appears only when it is complete.

Staged files hold messages. In a folder they are readable by their owner only, and a folder of another user is neither
written nor read: anybody may make one below `/tmp`. For an object store its own policies decide who reads it.
"""

from __future__ import annotations

import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

# How much of a file a task holds in memory, and the size of a part of a multipart upload (5 MB or more).
BLOCK_BYTES = 8 * 1024**2
FOLDER_MODE, FILE_MODE = 0o700, 0o600
OTHERS = 0o077


class StoragePath(Protocol):
    """The part of Airflow's `ObjectStoragePath` that staging needs; a `pathlib.Path` will do in its place."""

    @property
    def protocol(self) -> str:
        """`file`, `s3` and the like."""

    @property
    def path(self) -> str:
        """The path within the file system, a bucket's name included."""

    @property
    def fs(self) -> Any:
        """The file system (fsspec's), with the credentials of the path's connection."""


class UnfinishedFile(Protocol):
    """A file that is being written, invisible until it is finished."""

    @property
    def sink(self) -> Any:
        """The stream to write to."""

    def finish(self) -> None:
        """Make it visible under its name, replacing an earlier file."""

    def discard(self) -> None:
        """Remove it."""


class StagingArea(Protocol):
    """Holds files by folder and name."""

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """The exceptions for an area that is unusable as configured: another try would not help."""

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """The exceptions for an area that fails; another try may succeed."""

    def create(self, folder: str, name: str) -> UnfinishedFile:
        """Begin to write a file."""

    def open(self, folder: str, name: str) -> Any:
        """A file to read from. Raises `FileNotFoundError` when it is not there."""

    def check(self, folder: str) -> None:
        """Raise one of `refusals` where a file is not found because the whole area is missing."""

    def remove(self, folder: str) -> None:
        """Remove a folder with its files, if it exists."""


def area_of(root: Path | StoragePath) -> StagingArea:
    """The area below a path."""
    if isinstance(root, Path):
        return Disk(root)
    if root.protocol in ("", "file", "local"):
        return Disk(Path(root.path))
    return ObjectStore(root.fs, root.path)


class Disk:
    """A folder of this machine, or one that all workers have mounted."""

    refusals: tuple[type[Exception], ...] = (PermissionError, FileExistsError, NotADirectoryError)
    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, folder: str, name: str) -> UnfinishedFile:
        """See `StagingArea`."""
        for made in (self._root, self._root / folder):
            made.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self._refuse_foreign(folder)
        for wide in (self._root, self._root / folder):
            _make_private(wide)
        return _FileOnDisk(self._root / folder / name)

    def open(self, folder: str, name: str) -> Any:
        """See `StagingArea`."""
        self._refuse_foreign(folder)
        return (self._root / folder / name).open("rb")

    def check(self, folder: str) -> None:
        """See `StagingArea`: folders are made when they are first needed, so none has to exist."""

    def remove(self, folder: str) -> None:
        """See `StagingArea`."""
        with suppress(FileNotFoundError):
            self._refuse_foreign(folder)
            for file in (self._root / folder).iterdir():
                file.unlink(missing_ok=True)
            (self._root / folder).rmdir()

    def _refuse_foreign(self, folder: str) -> None:
        """Raise `PermissionError` unless both folders are ours; the root may be the administrator's."""
        me = os.geteuid()
        for path, owners in ((self._root, {me, 0}), (self._root / folder, {me})):
            link, target = path.lstat(), path.stat()
            if not {link.st_uid, target.st_uid} <= owners:
                raise PermissionError(
                    f"{path} belongs to user {target.st_uid}, and this task runs as user {me}: staged files hold "
                    "messages, so they are kept in folders of their own user; all workers must run as the same one"
                )


class _FileOnDisk:
    """A file beside its final one, under a name unique to its writer: an abandoned writer may still be writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        self.sink: IO[bytes] = os.fdopen(
            os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb"
        )

    def finish(self) -> None:
        """See `UnfinishedFile`."""
        self.sink.close()
        self._unfinished.replace(self._path)

    def discard(self) -> None:
        """See `UnfinishedFile`."""
        with suppress(OSError):  # a full disk takes no last bytes, either
            self.sink.close()
        self._unfinished.unlink(missing_ok=True)


class ObjectStore:
    """A prefix of a bucket. It has no folders, and what a killed task did not finish never appears."""

    def __init__(self, file_system: Any, path: str) -> None:
        self._fs = file_system
        self._path = path.rstrip("/")
        self.refusals, self.failures = _errors(file_system)

    def create(self, folder: str, name: str) -> UnfinishedFile:
        """See `StagingArea`."""
        return _ObjectInParts(self._fs, f"{self._path}/{folder}/{name}", self.failures)

    def open(self, folder: str, name: str) -> Any:
        """See `StagingArea`."""
        self._fs.invalidate_cache()  # listings that this process has seen: another one may have written since
        return self._fs.open(f"{self._path}/{folder}/{name}", "rb", block_size=BLOCK_BYTES)

    def check(self, folder: str) -> None:
        """See `StagingArea`: a missing bucket cannot be listed."""
        self._fs.find(f"{self._path}/{folder}")

    def remove(self, folder: str) -> None:
        """See `StagingArea`."""
        self._fs.invalidate_cache()
        for file in self._fs.find(f"{self._path}/{folder}"):
            self._fs.rm_file(file)  # one by one: of many at once, some stores do not say which they refused


class _ObjectInParts:
    """An object, sent at once when it is small, else as a multipart upload; its last request makes it visible."""

    def __init__(self, file_system: Any, path: str, failures: tuple[type[Exception], ...]) -> None:
        self.sink = file_system.open(path, "wb", block_size=BLOCK_BYTES)
        self._failures = failures

    def finish(self) -> None:
        """See `UnfinishedFile`."""
        self.sink.close()

    def discard(self) -> None:
        """See `UnfinishedFile`."""
        with suppress(*self._failures):  # what is left of it stays invisible
            self.sink.discard()
        self.sink.closed = True  # or it would be completed when it is collected


def _make_private(folder: Path) -> None:
    found = folder.stat()
    # What has the sticky bit is a place for everybody, such as `/tmp`; there the batch's own folder is what counts.
    if found.st_uid == os.geteuid() and found.st_mode & OTHERS and not found.st_mode & stat.S_ISVTX:
        folder.chmod(FOLDER_MODE)


def _errors(file_system: Any) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """The permanent errors of an object store's client, and all of its errors."""
    refusals, failures = (PermissionError, FileNotFoundError), (OSError,)
    if "s3" in file_system.protocol:
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        return (*refusals, ParamValidationError), (*failures, BotoCoreError, ClientError)
    return refusals, failures
