"""Drain, without Kafka; tests/integration/test_drain.py has it with one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.batches.drain import CHUNK_KEYS, SLICE, DistinctKeys, Staged, _chunks, _write_events
from enrichment.batches.staged import EVENT_SCHEMA, EVENTS, REFUSED_SCHEMA, key_schema
from enrichment.enrichers.registry import REGISTRY
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


@pytest.mark.parametrize("field", REGISTRY.keys)
def test_chunk_ends_before_it_has_too_many_keys(field: str) -> None:
    """Each distinct key of a chunk has an answer in memory: those of 50,000 took a task above 400 MB."""
    slices = [keyed(field, range(SLICE * n, SLICE * (n + 1))) for n in range(25)]
    chunks = list(_chunks(slices, messages=50_000, size=10**9))
    assert [part for chunk in chunks for part in chunk] == slices
    assert [sum(part.messages for part in chunk) for chunk in chunks] == [CHUNK_KEYS, CHUNK_KEYS, 5 * SLICE]


def test_chunk_is_as_long_as_the_settings_say_when_keys_come_again() -> None:
    """Three messages to a request are usual: chunks that end early cost time."""
    slices = [keyed("request_id", [row // 3 for row in range(SLICE * n, SLICE * (n + 1))]) for n in range(25)]
    assert [len(chunk) for chunk in _chunks(slices, messages=48_000, size=10**9)] == [25]


def test_keys_that_come_again_in_each_slice_do_not_end_a_chunk() -> None:
    """Two thousand users are in every slice: counted slice by slice they ended a chunk at half its length."""
    slices = [keyed("user_id", [row * 7 % 2_000 for row in range(SLICE * n, SLICE * (n + 1))]) for n in range(25)]
    assert [len(chunk) for chunk in _chunks(slices, messages=48_000, size=10**9)] == [25]


@given(columns=st.lists(st.lists(st.none() | st.integers(0, 9), max_size=8), max_size=12), most=st.integers(0, 30))
def test_distinct_keys_are_never_more_than_it_says(columns: list[list[int | None]], most: int) -> None:
    """After each column: what may not be more is not, and what may be was at least looked at in full once."""
    distinct, together = DistinctKeys(), list[int | None]()
    for column in columns:
        distinct.add(pa.array(column, pa.int64()).cast(pa.string()))
        together += column
        if not distinct.may_be_more_than(most):
            assert len(set(together)) <= most
        elif len(together) == len(set(together)):
            assert len(together) > most


def keyed(field: str, numbers: Iterable[int]) -> Staged:
    """A slice of messages with these keys in a field, and none in the others."""
    keys = pa.Table.from_pylist([{field: f"key-{number}"} for number in numbers], key_schema()).combine_chunks()
    [batch] = keys.to_batches()
    return staged(b"")._replace(keys=batch)
