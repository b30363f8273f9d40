"""What INPUT and COUNT may be."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from include.local.arguments import DEFAULT_COUNT, Input, input_of
from include.local.errors import StackError

LINE = b'{"message": "m"}\n'


@pytest.mark.parametrize(("count", "expected"), [(None, DEFAULT_COUNT), ("", DEFAULT_COUNT), ("7", 7), ("007", 7)])
def test_count_that_is_one(count: str | None, expected: int) -> None:
    """A number of messages from 1, ten thousand unless another is named."""
    assert input_of(None, count) == Input(None, expected)


@pytest.mark.parametrize("count", ["0", "-5", "1e3", "many", "1.0", "\u00b2"])
def test_count_that_is_none(count: str) -> None:
    """Anything else is refused with the variable's name."""
    with pytest.raises(StackError, match=r"COUNT=.*from 1"):
        input_of(None, count)


def test_count_beside_a_file(tmp_path: Path) -> None:
    """A file is played whole: how many lines of it is not to be asked for."""
    with pytest.raises(StackError, match="INPUT plays a file and COUNT generates"):
        input_of(str(tmp_path), "5")


@pytest.mark.parametrize("name", ["logs.jsonl", "logs.jsonl.gz", "gzip-by-another-name"])
def test_file_that_can_be_played(name: str, tmp_path: Path) -> None:
    """Lines are counted, packed or not, whatever the name; lines that are no messages are the pipeline's to judge."""
    content = b"no json\n" + LINE * 4 + b"\n"
    file = tmp_path / name
    file.write_bytes(content if name.endswith("jsonl") else gzip.compress(content))
    assert input_of(str(file), None) == Input(file, 6)


PACKED = gzip.compress(os.urandom(50_000) + LINE * 1_000)
UNUSABLE = {
    "empty": (b"", "is empty"),
    "empty gzip": (gzip.compress(b""), "is empty"),
    "no JSON": (b"a,b\n1,2\n", "none of its first 2 lines is a JSON object"),
    "JSON, but no objects": (b"1\n[2]\nnull\n", "none of its first 3 lines is a JSON object"),
    "binary": (bytes(range(256)) * 10, "is a JSON object"),
    "cut off": (PACKED[:-20], "cannot be read to its end"),
    "damaged": (PACKED[:300] + bytes(200) + PACKED[500:], "cannot be read to its end"),
    "gzip in name and head only": (PACKED[:2], "cannot be read to its end"),
}


@pytest.mark.parametrize(("content", "why"), UNUSABLE.values(), ids=UNUSABLE)
def test_file_that_cannot_be_played(content: bytes, why: str, tmp_path: Path) -> None:
    """It is refused before anything is started, with its name and what is wrong with it."""
    file = tmp_path / "logs.jsonl.gz"
    file.write_bytes(content)
    with pytest.raises(StackError, match=f"INPUT={file}.*{why}"):
        input_of(str(file), None)


def test_path_that_is_no_file(tmp_path: Path) -> None:
    """Neither what is missing, nor a folder, nor a pipe, which can be read only once."""
    os.mkfifo(tmp_path / "pipe")
    for path, why in ((tmp_path / "none", "no such file"), (tmp_path, "is no file"), (tmp_path / "pipe", "is no file")):
        with pytest.raises(StackError, match=f"INPUT={path}.*{why}"):
            input_of(str(path), None)
