"""What the headers of an output say: its origin, its version, and the replay that made it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple, cast

from confluent_kafka import Message

from enrichment.codec.headers import split_origin
from enrichment.codec.records import Header
from enrichment.messages import (
    HEADER_OWN,
    HEADER_PREFIX,
    HEADER_REPLAY,
    HEADER_REVISION,
    REDRIVE_HEADERS,
)


class Origin(NamedTuple):
    """The input position that an output names."""

    topic: str
    partition: int
    offset: int


def headers_of(message: Message) -> list[Header]:
    """A message's headers, in order. The client builds them again for each call."""
    return cast(list[Header], message.headers() or [])


class Parts(NamedTuple):
    """An output's headers: the input's own, whether a mark counts them, and the content of the pipeline's after them:
    the version (1 unless a number stands directly before the origin), the replay that made it (None: live draining),
    whether it was a dead letter, and its origin and batch (None and empty: it is no output)."""

    own: list[Header]
    marked: bool
    revision: int
    replay: str | None
    redriven: bool
    origin: Origin | None
    batch_id: str


def parts_of(headers: list[Header]) -> Parts:
    """Take an output's headers apart, from the last one on; the mark says where the input's own end."""
    before, said = split_origin(headers)
    last = (None, "") if said is None else (Origin(said.topic, said.partition, said.offset), said.batch_id)
    end = len(before)
    for name, _ in before:
        if name.startswith(HEADER_PREFIX):
            break
    else:  # of nearly all: none of the pipeline's
        return Parts(before, False, 1, None, False, *last)
    marks = [place for place, (name, value) in enumerate(headers) if name == HEADER_OWN and value == b"%d" % place]
    first = marks[-1] + 1 if marks else 0
    before = headers[first:end]
    name, value = before[-1] if before else ("", None)
    # A number that no revision can be is one of the input's own, from before such were marked.
    stated = name == HEADER_REVISION and value is not None and value.isdigit() and len(value) < 10
    revision = int(value or b"") if stated else 1
    if revision > 1 or (stated and marks):
        before = before[:-1]
    redriven = tuple(name for name, _ in before[-len(REDRIVE_HEADERS) :]) == REDRIVE_HEADERS
    replay = (before[-1][1] or b"").decode(errors="replace") if before and before[-1][0] == HEADER_REPLAY else None
    added = len(REDRIVE_HEADERS) if redriven else int(replay is not None)
    own = headers[: first - 1] if marks else before[: len(before) - added]
    return Parts(own, bool(marks), revision, replay, redriven, *last)


def origin_of(message: Message) -> Origin | None:
    """The origin of an output; None of any other message."""
    return parts_of(headers_of(message)).origin


def sequence_of(parts: Parts) -> str:
    """The sequence in which an output has its order: all of live draining, or one window of a replay."""
    return "" if parts.replay is None else parts.batch_id.rsplit("/", 2)[0]  # without its lane and number


def window_of(batch_id: str) -> tuple[int, int]:
    """The window of the replay that made an output, to the second, as its batch names it: milliseconds. Raises
    `ValueError` where it names none."""
    start, end = batch_id.split("/")[-3].split("-") if batch_id.count("/") > 2 else ("", "")
    first, last = (datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) for at in (start, end))
    return round(first.timestamp() * 1000), round(last.timestamp() * 1000)
