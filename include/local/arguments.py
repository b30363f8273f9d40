"""What `make run` is to play: checked whole before anything is started."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec

from include.local.errors import StackError
from include.local.records import open_file

DEFAULT_COUNT = 10_000
LOOKED_AT = 1_000  # lines among which one must be a JSON object; the others may be anything: the pipeline deals with it

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Input:
    """Where the messages come from, and how many they are: the lines of a file, or generated ones (no path)."""

    path: Path | None
    count: int


def input_of(path: str | None, count: str | None) -> Input:
    """Read the variables INPUT and COUNT. Raises `StackError` that names the one that cannot be used, and why."""
    if path and count:
        raise StackError("INPUT plays a file and COUNT generates messages: give one of them")
    if path:
        return Input(Path(path), _lines(Path(path)))
    if not count:
        return Input(None, DEFAULT_COUNT)
    if not (count.isascii() and count.isdecimal() and int(count)):
        raise StackError(f"COUNT={count!r}: the number of messages to generate, from 1")
    return Input(None, int(count))


def _lines(path: Path) -> int:
    """How many lines a file has. It is read to its end: a damaged archive is known by nothing else."""
    if not path.exists():
        raise StackError(f"INPUT={path}: there is no such file")
    if not path.is_file():
        raise StackError(f"INPUT={path} is no file: name one with a JSON object a line, plain or in gzip")
    try:
        with open_file(path, "rb") as lines:
            head = list(islice(lines, LOOKED_AT))
            count = len(head) + sum(1 for _ in lines)
    except (OSError, EOFError, zlib.error) as unreadable:
        raise StackError(f"INPUT={path} cannot be read to its end: {unreadable}") from unreadable
    if not count:
        raise StackError(f"INPUT={path} is empty")
    if not any(map(_is_object, head)):
        raise StackError(
            f"INPUT={path}: none of its first {len(head):,} lines is a JSON object; it takes one message a line, "
            "with the fields of the topic (README, Message contracts)"
        )
    return count


def _is_object(line: bytes) -> bool:
    try:
        _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
