"""Frames between tasks: what holds of a folder and of a bucket alike."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from enrichment.errors import StagingMissing, StagingUnavailable
from enrichment.orchestration.staging import staging_root
from enrichment.store import staging_areas
from enrichment.store.staging import Staging
from tests.fixtures.object_store import S3Server

pytestmark = pytest.mark.processes

BATCH = "stacklens_enrichment/scheduled__2024-01-15T10:00:00+00:00/0"
REPOSITORY = Path(__file__).parents[3]
# What is read of a file at once: files of a few of these are still being read, or sent, when something happens to them.
BLOCK_BYTES = 5 * 1024**2
# Writes a whole file, then half of another one, and dies.
DIE = """
import os, signal, sys
from enrichment.orchestration.staging import staging_root
from enrichment.store.staging import Staging
from tests.enrichment.store.test_staging import large
staging = Staging(staging_root(sys.argv[1]))
with staging.write(sys.argv[2], "whole") as file:
    file.write(large(0))
with staging.write(sys.argv[2], "half") as file:
    file.write(large(0))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True)
class Area:
    """An empty staging area, its URL, and what is in it."""

    url: str
    files: Callable[[], list[str]]

    @property
    def staging(self) -> Staging:
        """As a task opens it: each call is another task's."""
        return Staging(staging_root(self.url))


@pytest.fixture(params=["disk", "s3"])
def area(request: pytest.FixtureRequest, tmp_path: Path) -> Area:
    """Both kinds."""
    if request.param == "disk":
        root = tmp_path / "staging"
        return Area(f"file://{root}", lambda: sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()))
    url: str = request.getfixturevalue("s3_url")
    server: S3Server = request.getfixturevalue("object_store")
    bucket = url.split("@")[1].split("/", maxsplit=1)[0]
    return Area(url, lambda: sorted(key.removeprefix("staging/") for key in server.keys(bucket)))


@pytest.fixture
def staging(area: Area) -> Staging:
    """A task's staging area."""
    return area.staging


def chunk(*numbers: int) -> pa.RecordBatch:
    """A chunk with two columns."""
    return pa.record_batch({"number": pa.array(numbers, pa.int64()), "text": [f"n{n}" for n in numbers]})


def large(number: int) -> pa.RecordBatch:
    """A chunk of a block and more."""
    return pa.record_batch({"number": pa.array(np.full(BLOCK_BYTES // 8 + 1, number))})


def write(staging: Staging, batch_id: str, name: str, *chunks: pa.RecordBatch, drain: str = "") -> None:
    """Write a file."""
    with staging.write(batch_id, name, drain) as file:
        for each in chunks:
            file.write(each)


def numbers(staging: Staging, batch_id: str, name: str) -> list[int]:
    """What stands in a file."""
    return [number for read in staging.read(batch_id, name) for number in read["number"].to_pylist()]


def test_chunks_come_back_as_they_were_written(staging: Staging) -> None:
    """A file is read in the chunks in which it was written, in order."""
    write(staging, BATCH, "events", chunk(1, 2), chunk(3))
    assert [c.to_pydict() for c in staging.read(BATCH, "events")] == [chunk(1, 2).to_pydict(), chunk(3).to_pydict()]


def test_only_named_columns_are_read(staging: Staging) -> None:
    """A task that needs one column reads one column."""
    write(staging, BATCH, "events", chunk(1))
    assert [c.to_pydict() for c in staging.read(BATCH, "events", ["text"])] == [{"text": ["n1"]}]


def test_file_without_chunks_reads_as_none(staging: Staging) -> None:
    """A batch whose range held no message is staged and read like any other."""
    write(staging, BATCH, "events")
    assert list(staging.read(BATCH, "events")) == []


def test_file_is_not_there_before_it_is_whole(area: Area) -> None:
    """Another task sees nothing of a file until its writer has finished it."""
    with area.staging.write(BATCH, "events") as file:
        for _ in range(3):
            file.write(large(1))
        with pytest.raises(StagingMissing):
            next(area.staging.read(BATCH, "events"))
    assert sum(c.num_rows for c in area.staging.read(BATCH, "events")) == 3 * large(1).num_rows


@pytest.mark.parametrize("first", [chunk(1), large(1)], ids=["small", "large"])
def test_file_that_was_not_finished_is_not_there(area: Area, first: pa.RecordBatch) -> None:
    """A writer that fails leaves neither a file nor a part of one."""
    with pytest.raises(pa.ArrowInvalid):
        write(area.staging, BATCH, "events", first, first, pa.record_batch({"other": [1]}))
    assert area.files() == []


def test_file_of_a_killed_writer_is_not_there_and_what_is_left_of_it_is_removed(area: Area) -> None:
    """`kill -9` in the middle of a file: it is missing, those before it are whole, and the clean-up takes all."""
    killed = subprocess.run(
        [sys.executable, "-c", DIE, area.url, BATCH], cwd=REPOSITORY, check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'plugins'}:{REPOSITORY}"},
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    with pytest.raises(StagingMissing, match="half is not staged"):
        numbers(area.staging, BATCH, "half")
    assert numbers(area.staging, BATCH, "whole") == [0] * large(0).num_rows
    area.staging.remove(BATCH)
    assert area.files() == []


def test_file_written_again_replaces_the_first(area: Area) -> None:
    """A task that runs a second time leaves what it wrote the second time, and only that."""
    for number in (1, 2):
        write(area.staging, BATCH, "events", chunk(number))
    assert numbers(area.staging, BATCH, "events") == [2]
    assert len(area.files()) == 1


def test_two_writers_of_one_file_do_not_mix(area: Area) -> None:
    """A task that was given up may still write beside its successor: the file is of one of them, whole."""
    with area.staging.write(BATCH, "events") as successor:
        with area.staging.write(BATCH, "events") as given_up:
            for _ in range(2):
                successor.write(large(2))
                given_up.write(large(1))
        assert {*numbers(area.staging, BATCH, "events")} == {1}
    assert numbers(area.staging, BATCH, "events") == [2] * 2 * large(2).num_rows
    assert len(area.files()) == 1


def test_file_replaced_while_it_is_read_does_not_mix(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads while another try writes gets the first file to its end, or is told so."""
    monkeypatch.setattr(staging_areas, "BLOCK_BYTES", BLOCK_BYTES)
    write(area.staging, BATCH, "events", *[large(1)] * 4)
    reader = area.staging.read(BATCH, "events")
    seen = {*next(reader)["number"].to_pylist()}
    write(area.staging, BATCH, "events", *[large(2)] * 4)
    try:
        for rest in reader:
            seen |= {*rest["number"].to_pylist()}
    except StagingUnavailable:
        assert area.url.startswith("s3:")
    assert seen == {1}


def test_file_of_another_drain_is_not_read(staging: Staging) -> None:
    """A file says which drain it goes back to; one without chunks fits to any."""
    write(staging, BATCH, "events", chunk(1), drain="first")
    write(staging, BATCH, "none", drain="first")
    assert (staging.drain_of(BATCH, "events"), staging.drain_of(BATCH, "none")) == ("first", "")
    assert len(list(staging.read(BATCH, "events", ["text"], "first"))) == 1
    assert list(staging.read(BATCH, "none", drain="second")) == []
    with pytest.raises(StagingMissing, match=r"events does not fit .*clear the batch's `drain` task"):
        list(staging.read(BATCH, "events", drain="second"))


@pytest.mark.parametrize("read", [Staging.drain_of, lambda *of: list(Staging.read(*of))], ids=["drain", "chunks"])
def test_missing_file_says_what_to_clear_and_what_workers_share(
    staging: Staging, read: Callable[[Staging, str, str], object]
) -> None:
    """Reading what is not staged names the file, the batch, the task to clear, and the setting that may be wrong."""
    with pytest.raises(StagingMissing, match=r"events is not .*`drain` .* all workers share ENRICHMENT_STAGING_URL"):
        read(staging, BATCH, "events")


def test_remove_leaves_other_batches_alone(area: Area) -> None:
    """Cleaning a batch removes what is its own and nothing else, and may be done twice, or where nothing was staged."""
    area.staging.remove(BATCH)
    for batch_id in (f"{BATCH}1", "other"):
        write(area.staging, batch_id, "events", chunk(1))
    others = area.files()
    write(area.staging, BATCH, "events", chunk(1))
    task = area.staging
    task.remove(BATCH)
    task.remove(BATCH)
    area.staging.remove(BATCH)
    assert len(others) == 2
    assert area.files() == others


def test_what_another_task_wrote_and_removed_is_seen(area: Area) -> None:
    """No listing is believed that may be old: files of other tasks are there when they are, and gone when they are."""
    task = area.staging
    task.remove(BATCH)
    write(area.staging, BATCH, "events", chunk(1))
    assert numbers(task, BATCH, "events") == [1]
    write(area.staging, BATCH, "keys", chunk(2))
    task.remove(BATCH)
    assert area.files() == []
    write(area.staging, BATCH, "events", chunk(3))
    area.staging.remove(BATCH)
    with pytest.raises(StagingMissing):
        numbers(task, BATCH, "events")


def test_reader_that_is_closed_early_leaves_nothing_open(staging: Staging) -> None:
    """A task that fails in the middle of a file closes it; the next one reads it from the start."""
    write(staging, BATCH, "events", chunk(1), chunk(2))
    reader: Iterator[pa.RecordBatch] = staging.read(BATCH, "events")
    assert next(reader)["number"].to_pylist() == [1]
    reader.close()  # type: ignore[attr-defined]
    assert numbers(staging, BATCH, "events") == [1, 2]
