"""Frames between tasks."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from enrichment.errors import StagingMissing
from enrichment.store.staging import Staging

BATCH = "stacklens_enrichment/scheduled__2024-01-15T10:00:00+00:00/0"


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    """A staging area in an empty folder."""
    return Staging(tmp_path)


def chunk(*numbers: int) -> pa.RecordBatch:
    """A chunk with two columns."""
    return pa.record_batch({"number": pa.array(numbers, pa.int64()), "text": [f"n{n}" for n in numbers]})


def test_chunks_come_back_as_they_were_written(staging: Staging) -> None:
    """A file is read in the chunks in which it was written, in order."""
    with staging.write(BATCH, "events") as file:
        file.write(chunk(1, 2))
        file.write(chunk(3))
    assert [c.to_pydict() for c in staging.read(BATCH, "events")] == [chunk(1, 2).to_pydict(), chunk(3).to_pydict()]


def test_only_named_columns_are_read(staging: Staging) -> None:
    """A task that needs one column reads one column."""
    with staging.write(BATCH, "events") as file:
        file.write(chunk(1))
    assert [c.to_pydict() for c in staging.read(BATCH, "events", ["text"])] == [{"text": ["n1"]}]


def test_file_without_chunks_reads_as_none(staging: Staging) -> None:
    """A batch whose range held no message is staged and read like any other."""
    with staging.write(BATCH, "events"):
        pass
    assert list(staging.read(BATCH, "events")) == []


def test_file_that_was_not_finished_is_not_there(staging: Staging, tmp_path: Path) -> None:
    """A writer that fails leaves neither a file nor a part of one."""

    def write() -> None:
        with staging.write(BATCH, "events") as file:
            file.write(chunk(1))
            file.write(pa.record_batch({"other": [1]}))

    with pytest.raises(pa.ArrowInvalid):
        write()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_file_written_again_replaces_the_first(staging: Staging) -> None:
    """A task that runs a second time leaves what it wrote the second time."""
    for number in (1, 2):
        with staging.write(BATCH, "events") as file:
            file.write(chunk(number))
    assert [c.to_pydict()["number"] for c in staging.read(BATCH, "events")] == [[2]]


def test_file_of_another_drain_is_not_read(staging: Staging) -> None:
    """A file says which drain it goes back to; one without chunks fits to any."""
    with staging.write(BATCH, "events", "first") as file:
        file.write(chunk(1))
    with staging.write(BATCH, "none", "first"):
        pass
    assert (staging.drain_of(BATCH, "events"), staging.drain_of(BATCH, "none")) == ("first", "")
    assert len(list(staging.read(BATCH, "events", ["text"], "first"))) == 1
    assert list(staging.read(BATCH, "none", drain="second")) == []
    with pytest.raises(StagingMissing, match=r"events does not fit .*clear the batch's `drain` task"):
        list(staging.read(BATCH, "events", drain="second"))


def test_missing_file_says_what_to_clear(staging: Staging) -> None:
    """Reading what is not staged names the file, the batch and the task to clear."""
    with pytest.raises(StagingMissing, match=r"events is not staged .*clear the batch's `drain` task"):
        list(staging.read(BATCH, "events"))


def test_remove_leaves_other_batches_alone(staging: Staging, tmp_path: Path) -> None:
    """Cleaning a batch removes its folder and nothing else, and may be done twice."""
    for batch_id in (BATCH, "other"):
        with staging.write(batch_id, "events") as file:
            file.write(chunk(1))
    staging.remove(BATCH)
    staging.remove(BATCH)
    assert [p.name for p in tmp_path.iterdir()] == ["other"]
