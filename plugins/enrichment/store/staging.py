"""Frames between tasks: Arrow streams in a folder per batch, one record batch per chunk, on any object storage.

A file is written under another name and moved into place when it is whole, so a task that was killed leaves nothing
that its successor could take for data, and a task that runs again replaces what it wrote. Each file says which drain of
its batch it goes back to: another one has other chunks, so that its files do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa

from enrichment.errors import StagingMissing

SUFFIX = ".arrow"
DRAIN = b"drain"  # in the metadata of a stream's schema


class StoragePath(Protocol):
    """The part of `pathlib.Path`, `upath.UPath` and Airflow's `ObjectStoragePath` that staging needs."""

    def __truediv__(self, name: str) -> Any: ...


class ChunkWriter:
    """Writes the chunks of one file, in order."""

    def __init__(self, sink: Any, drain: str) -> None:
        self._sink = sink
        self._drain = drain
        self._stream: pa.RecordBatchStreamWriter | None = None

    def write(self, chunk: pa.RecordBatch) -> None:
        """Append a chunk; all chunks of a file have one schema."""
        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._sink, chunk.schema.with_metadata({DRAIN: self._drain}))
        self._stream.write_batch(chunk)

    def close(self) -> None:
        """End the stream; a file without chunks is empty."""
        if self._stream is not None:
            self._stream.close()


class Staging:
    """The staged files of all batches under one root."""

    def __init__(self, root: StoragePath) -> None:
        self._root = root

    def folder(self, batch_id: str) -> Any:
        """The folder of a batch. Its name keeps only characters that every storage takes."""
        return self._root / re.sub(r"[^A-Za-z0-9._=-]", "_", batch_id)

    @contextmanager
    def write(self, batch_id: str, name: str, drain: str = "") -> Iterator[ChunkWriter]:
        """Write a file chunk by chunk; it is there only when the block ends well. `drain` is what it goes back to."""
        folder = self.folder(batch_id)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{name}{SUFFIX}.part"
        try:
            with unfinished.open("wb") as sink:
                writer = ChunkWriter(sink, drain)
                yield writer
                writer.close()
            unfinished.replace(folder / f"{name}{SUFFIX}")
        finally:
            unfinished.unlink(missing_ok=True)

    def read(
        self, batch_id: str, name: str, columns: Sequence[str] | None = None, drain: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The chunks of a file, in order, with all its columns or those named.

        Raises `StagingMissing` where it is not there, or goes back to another drain than `drain` (if given).
        """
        with self._open(batch_id, name) as source:
            if not _is_empty(source):
                if drain is not None and _drain_of(source) != drain:
                    raise _missing(batch_id, f"{name} does not fit to the batch's latest drain")
                yield from _chunks(source, columns)

    def drain_of(self, batch_id: str, name: str) -> str:
        """Which drain a file goes back to; empty where it has no chunks. Raises `StagingMissing`."""
        with self._open(batch_id, name) as source:
            return "" if _is_empty(source) else _drain_of(source)

    def _open(self, batch_id: str, name: str) -> Any:
        path = self.folder(batch_id) / f"{name}{SUFFIX}"
        try:
            return path.open("rb")
        except FileNotFoundError as missing:
            raise _missing(batch_id, f"{name} is not staged (any more)") from missing

    def remove(self, batch_id: str) -> None:
        """Remove all that a batch staged; nothing happens when there is nothing."""
        folder = self.folder(batch_id)
        if folder.exists():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def _missing(batch_id: str, what: str) -> StagingMissing:
    return StagingMissing(f"{what}, batch {batch_id}: clear the batch's `drain` task and those behind it")


def _is_empty(source: Any) -> bool:
    return not source.seekable() or source.seek(0, 2) == 0


def _drain_of(source: Any) -> str:
    source.seek(0)
    metadata = pa.ipc.open_stream(source).schema.metadata or {}
    return str(metadata.get(DRAIN, b"").decode())


def _chunks(source: Any, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    source.seek(0)
    included = None
    if columns is not None:
        schema = pa.ipc.open_stream(source).schema
        included = [schema.get_field_index(column) for column in columns]
        source.seek(0)
    options = pa.ipc.IpcReadOptions(included_fields=included) if included is not None else None
    yield from pa.ipc.open_stream(source, options=options)
