"""A message's headers: which are its own and which the pipeline's, even where its own names look like the pipeline's.

The pipeline's headers follow all others, and consumers know them by name and place. An own header whose name begins
like the pipeline's would make that ambiguous, so such headers are followed by a mark that counts them, and the
revision is stated even for a first version.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.codec.buffers import Flags, parts_of
from enrichment.codec.records import LENGTHS, Header, pack_headers, unpack_headers
from enrichment.messages import (
    HEADER_ORIGIN,
    HEADER_OWN,
    HEADER_PREFIX,
    HEADER_REPLAY,
    HEADER_REVISION,
    REDRIVE_HEADERS,
    MessageOrigin,
)

# Beyond this many the Kafka client silently reads none of a message's headers.
READABLE_HEADERS = 100_000
# How many the pipeline may add: mark, redrive, replay, revision, origin.
_ROOM = 8
FIRST_VERSION: Header = (HEADER_REVISION, b"1")
# Earlier versions said where a message came from in a header each; there are messages that they have published.
FORMER_ORIGIN = (
    "stacklens-source-topic", "stacklens-source-partition", "stacklens-batch-id", "stacklens-source-offset",
)  # fmt: skip
_decode_origin = msgspec.json.Decoder(MessageOrigin).decode


def split_origin(headers: Sequence[Header]) -> tuple[list[Header], MessageOrigin | None]:
    """An output's headers before its origin, and the origin; all headers, and None, of any other message."""
    name, value = headers[-1] if headers else ("", None)
    former = headers[-len(FORMER_ORIGIN) :]
    try:
        if name == HEADER_ORIGIN:
            return list(headers[:-1]), _decode_origin(value or b"")
        if tuple(name for name, _ in former) == FORMER_ORIGIN:
            return list(headers[: -len(former)]), _former_origin(*(value or b"" for _, value in former))
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: what is no number, or not UTF-8
        pass
    return list(headers), None


def _former_origin(topic: bytes, partition: bytes, batch_id: bytes, offset: bytes) -> MessageOrigin:
    if not (partition.isdigit() and offset.isdigit()):
        raise ValueError("partition and offset are written in digits")
    said = {"topic": topic.decode(), "batch_id": batch_id.decode(), "partition": int(partition), "offset": int(offset)}
    return msgspec.convert(said, MessageOrigin)


def origin_header(origin: MessageOrigin) -> Header:
    """The last header of an output."""
    return HEADER_ORIGIN, msgspec.json.encode(origin)


def origin_endings(offset: int) -> tuple[bytes, bytes]:
    """How the packed headers of an output end whose origin has this offset: one of these."""
    return b'"offset":%d}' % offset, pack_headers([(FORMER_ORIGIN[-1], b"%d" % offset)])


def mark_own(column: pa.Array, behind: int) -> tuple[pa.Array, Flags]:
    """Packed headers, with the mark after a message's own headers that could be taken for the pipeline's; which rows
    have it. The last `behind` headers are the pipeline's already."""
    marked = np.zeros(len(column), dtype=bool)
    content, ends = parts_of(column)
    if HEADER_PREFIX.encode() not in content[ends[0] : ends[-1]].tobytes():  # nearly always: a look at all at once
        return column, marked
    suspects = pc.fill_null(pc.match_substring(column, HEADER_PREFIX), False).to_numpy(zero_copy_only=False)
    packed = column.to_pylist()
    for row in np.flatnonzero(suspects).tolist():
        headers = unpack_headers(packed[row])
        own = headers[: len(headers) - behind]
        if any(name.startswith(HEADER_PREFIX) for name, _ in own):
            packed[row] = pack_headers([*own, (HEADER_OWN, b"%d" % len(own)), *headers[len(own) :]])
            marked[row] = True
    return (pa.array(packed, pa.binary()) if marked.any() else column), marked


def marked_own(headers: Sequence[Header]) -> int | None:
    """How many of an output's headers are the message's own, by the last mark: any mark before it is one of these."""
    for place in range(len(headers) - 1, -1, -1):
        name, value = headers[place]
        if name == HEADER_OWN:
            return place if value == b"%d" % place else None
    return None


def pipelines_own(headers: Sequence[Header], *, redriven: bool) -> list[Header]:
    """The pipeline's headers of an output that is not a correction: origin and purpose. `redriven` says that those of a
    redrive are among them."""
    own = marked_own(headers)
    if own is not None:
        return [header for header in headers[own + 1 :] if header != FIRST_VERSION]
    start = len(headers) - 1
    if redriven:
        start -= len(REDRIVE_HEADERS)
    elif start and headers[start - 1][0] == HEADER_REPLAY:
        start -= 1
    return list(headers[start:])


def unreadable(column: pa.Array) -> dict[int, str]:
    """The rows whose headers no output could keep, and why: the client did not read them (null), or they are so many
    that it would not read those of the output."""
    most = READABLE_HEADERS - _ROOM
    _, ends = parts_of(column)
    if not column.null_count and ends[-1] - ends[0] <= most * LENGTHS.size:  # nearly always
        return {}
    found = dict.fromkeys(
        np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist(),
        f"more than {READABLE_HEADERS} headers, which the Kafka client does not read",
    )
    large = pc.fill_null(pc.greater(pc.binary_length(column), most * LENGTHS.size), False)
    for row in np.flatnonzero(large.to_numpy(zero_copy_only=False)).tolist():
        count = len(unpack_headers(column[row].as_py()))
        if count > most:
            found[row] = f"{count} headers; {most} at most, or the Kafka client does not read those of the output"
    return found
