"""Frames between tasks: Arrow streams in a folder per batch, one record batch per chunk, on a disk or an object store.

A file appears only when it is complete, so a killed task leaves nothing that its successor could take for data, and a
task that runs again replaces its file. Each file names the drain of its batch that it derives from: another drain has
other chunks, so files of the two do not fit together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from enrichment.errors import SettingsError, StagingMissing, StagingUnavailable
from enrichment.store.staging_areas import StoragePath, area_of

SUFFIX = ".arrow"
DRAIN = b"drain"  # in the metadata of a stream's schema

Checked = Callable[[], AbstractContextManager[None]]


class ChunkWriter:
    """Writes the chunks of one file, in order."""

    def __init__(self, sink: Any, drain: str, checked: Checked) -> None:
        self._sink = sink
        self._drain = drain
        self._checked = checked
        self._stream: pa.RecordBatchStreamWriter | None = None

    def write(self, chunk: pa.RecordBatch) -> None:
        """Append a chunk; all chunks of a file have one schema."""
        with self._checked():
            if self._stream is None:
                self._stream = pa.ipc.new_stream(self._sink, chunk.schema.with_metadata({DRAIN: self._drain}))
            self._stream.write_batch(chunk)

    def close(self) -> None:
        """End the stream; a file without chunks is empty."""
        if self._stream is not None:
            self._stream.close()


class Staging:
    """The staged files of all batches under one root.

    Every method raises `SettingsError` where `ENRICHMENT_STAGING_URL` names nothing usable, and `StagingUnavailable`
    where another try may succeed.
    """

    def __init__(self, root: Path | StoragePath) -> None:
        self._root = root
        self._area = area_of(root)

    @contextmanager
    def write(self, batch_id: str, name: str, drain: str = "") -> Iterator[ChunkWriter]:
        """Write a file chunk by chunk; it appears only when the block succeeds. It derives from `drain`."""
        with self._checked():
            file = self._area.create(_folder(batch_id), f"{name}{SUFFIX}")
        try:
            writer = ChunkWriter(file.sink, drain, self._checked)
            yield writer
            with self._checked():
                writer.close()
                file.finish()
        except BaseException:
            file.discard()
            raise

    def read(
        self, batch_id: str, name: str, columns: Sequence[str] | None = None, drain: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The chunks of a file, in order, with all its columns or those named.

        Raises `StagingMissing` where it is missing, lacks a column, or derives from another drain than `drain` (if
        given).
        """
        with self._reading(batch_id, name):
            source = self._area.open(_folder(batch_id), f"{name}{SUFFIX}")
        with source:
            with self._reading(batch_id, name):
                if _is_empty(source):
                    return
                if drain is not None and _drain_of(source) != drain:
                    raise _missing(batch_id, f"{name} does not fit to the batch's latest drain")
                if lacking := _lacking(source, columns or ()):
                    raise _missing(batch_id, f"{name} has no {', '.join(lacking)}: it was staged by another release")
                stream = _stream(source, columns)
            while True:
                with self._reading(batch_id, name):
                    try:
                        chunk = stream.read_next_batch()
                    except StopIteration:
                        return
                yield chunk

    def drain_of(self, batch_id: str, name: str) -> str:
        """The drain that a file derives from; empty where it has no chunks. Raises `StagingMissing`."""
        with self._reading(batch_id, name), self._area.open(_folder(batch_id), f"{name}{SUFFIX}") as source:
            return "" if _is_empty(source) else _drain_of(source)

    def remove(self, batch_id: str) -> None:
        """Remove all that a batch staged; nothing happens when there is nothing."""
        with self._checked():
            self._area.remove(_folder(batch_id))

    @contextmanager
    def _reading(self, batch_id: str, name: str) -> Iterator[None]:
        with self._checked():
            try:
                yield
            except FileNotFoundError as missing:
                self._area.check(_folder(batch_id))
                raise _missing(batch_id, f"{name} is not staged (any more)") from missing

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except self._area.refusals as refused:
            raise SettingsError(f"ENRICHMENT_STAGING_URL={self._root}: {refused}") from refused
        except self._area.failures as failed:
            raise StagingUnavailable(f"ENRICHMENT_STAGING_URL={self._root}: {failed}") from failed


def _folder(batch_id: str) -> str:
    """The name of a batch's folder, in characters that every storage accepts."""
    return re.sub(r"[^A-Za-z0-9._=-]", "_", batch_id)


def _missing(batch_id: str, what: str) -> StagingMissing:
    return StagingMissing(
        f"{what}, batch {batch_id}: clear the batch's `drain` task with everything downstream; where tasks run on "
        "several machines, all workers share ENRICHMENT_STAGING_URL: a folder that all have mounted, or object storage"
    )


def _is_empty(source: Any) -> bool:
    return not source.seekable() or source.seek(0, 2) == 0


def _drain_of(source: Any) -> str:
    source.seek(0)
    metadata = pa.ipc.open_stream(source).schema.metadata or {}
    return str(metadata.get(DRAIN, b"").decode())


def _lacking(source: Any, columns: Sequence[str]) -> list[str]:
    source.seek(0)
    names = pa.ipc.open_stream(source).schema.names
    return [column for column in columns if column not in names]


def _stream(source: Any, columns: Sequence[str] | None) -> pa.RecordBatchStreamReader:
    source.seek(0)
    included = None
    if columns is not None:
        schema = pa.ipc.open_stream(source).schema
        included = [schema.get_field_index(column) for column in columns]
        source.seek(0)
    options = pa.ipc.IpcReadOptions(included_fields=included) if included is not None else None
    return pa.ipc.open_stream(source, options=options)
