"""Drain, without Kafka; tests/integration/test_drain.py has it with one."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from enrichment.batches.drain import Staged, _write_events
from enrichment.batches.staged import EVENT_SCHEMA, EVENTS, REFUSED_SCHEMA, key_schema
from enrichment.store.staging import Staging


def staged(value: bytes) -> Staged:
    event = dict.fromkeys(EVENT_SCHEMA.names) | {"value": value}
    return Staged(
        pa.RecordBatch.from_pylist([event], EVENT_SCHEMA),
        pa.RecordBatch.from_pylist([{}], key_schema()),
        pa.RecordBatch.from_pylist([], REFUSED_SCHEMA),
    )


def test_events_are_not_kept_once_they_are_written(tmp_path: Path) -> None:
    """Slices wait until a chunk of keys is complete: with their values, 30 kB each, that would be gigabytes."""
    with Staging(tmp_path).write("batch", EVENTS, "drain") as file:
        [left] = _write_events([staged(b"x" * 30_000)], file)
    assert left.events.num_rows == 0
    assert left.messages == 1
    held = [buffer.size for column in left.events.columns for buffer in column.buffers() if buffer is not None]
    assert sum(held) < 1_000
