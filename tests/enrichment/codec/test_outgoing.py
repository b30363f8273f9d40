"""Where a published message says it came from."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enrichment.batch import REDRIVE, Batch, OffsetRange, Purpose, RedriveFilter
from enrichment.codec.headers import (
    READABLE_HEADERS,
    marked_own,
    origin_endings,
    pipelines_own,
    split_origin,
    unreadable,
)
from enrichment.codec.outgoing import in_order, origin_headers
from enrichment.codec.records import Chunk, Header, pack_headers, unpack_headers
from enrichment.conservation.origins import parts_of as parts_of_headers
from enrichment.messages import (
    HEADER_ORIGIN,
    HEADER_OWN,
    HEADER_REPLAY,
    HEADER_REVISION,
    REDRIVE_HEADERS,
    MessageOrigin,
)
from enrichment.repair.corrections import revised
from tests.fixtures.origins import former_origin, origin_header, said_origin

BATCH = Batch(
    "dag/run/0", "stacklens-enriched", "group", 0, (OffsetRange(0, 0, 1),), purpose=Purpose(headers=(("p", "1"),))
)
REDRIVEN = Purpose(REDRIVE, letters=RedriveFilter("stacklens-enriched", (), 3, 1_000_000))
SENT_IN: list[Header] = list(zip(REDRIVE_HEADERS, (b"1", b"analytics-dlq", b"0", b"9"), strict=True))
offsets = st.integers(0, 2**63 - 1)
headers = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2)


def chunk_of(places: list[tuple[int, int]], own: list[bytes] | None = None) -> Chunk:
    """Messages at these partitions and offsets."""
    count = len(places)
    return Chunk.of(
        [p for p, _ in places], [o for _, o in places], [0] * count, [None] * count, own or [b""] * count, [b""] * count
    )


@given(st.lists(st.tuples(st.integers(0, 9), offsets, headers)), st.text(max_size=9), st.text(max_size=9))
@example([(0, 0, []), (1, 9, []), (0, 10, []), (0, 2**63 - 1, [("a", None)])], "stacklens-enriched", "dag/run/0")
@example([(0, 7, [])], '"\\', '\n\x00é😀"offset":7}%d')
def test_origin_stands_behind_all_other_headers(
    messages: list[tuple[int, int, list[Header]]], topic: str, batch_id: str
) -> None:
    """Each message's own, those of the purpose, and its topic, partition, batch and offset."""
    batch = msgspec.structs.replace(BATCH, topic=topic, batch_id=batch_id)
    chunk = chunk_of([(p, o) for p, o, _ in messages], [pack_headers(own) for *_, own in messages])
    found = [unpack_headers(packed) for packed in origin_headers(chunk.columns, batch).to_pylist()]
    assert [headers[:-1] for headers in found] == [[*own, ("p", b"1")] for *_, own in messages]
    assert [said_origin(headers) for headers in found] == [
        MessageOrigin(topic, partition, batch_id, offset) for partition, offset, _ in messages
    ]


@given(headers, st.text("a-.Ü", min_size=1, max_size=9), st.integers(0, 2**31 - 1), st.text(max_size=9), offsets)
def test_origin_is_read_as_it_was_written(
    own: list[Header], topic: str, partition: int, batch_id: str, offset: int
) -> None:
    """By this version, and by earlier ones; packed, it ends as a search expects."""
    said = MessageOrigin(topic, partition, batch_id, offset)
    for written in ([(HEADER_ORIGIN, msgspec.json.encode(said))], former_origin(topic, partition, batch_id, offset)):
        assert split_origin([*own, *written]) == (own, said)
        assert pack_headers([*own, *written]).endswith(origin_endings(offset))


GOOD = '{"topic":"t","partition":0,"batch_id":"b","offset":0}'
FORMER = former_origin("t", 0, "b", 0)


@pytest.mark.parametrize(
    "odd",
    [
        [], [("h", b"1")], [(HEADER_ORIGIN, GOOD.encode()), ("h", b"1")],
        [(HEADER_ORIGIN, None)], [(HEADER_ORIGIN, b"")], [(HEADER_ORIGIN, b"7")], [(HEADER_ORIGIN, b"\xff")],
        [(HEADER_ORIGIN, b'{"x":' + b"[" * 100_000)],
        *([(HEADER_ORIGIN, GOOD.replace(now, other).encode())] for now, other in [
            ('"b"', "1"), (',"offset":0', ""), ('"offset":0', '"offset":-1'), ('"offset":0', '"offset":1e3'),
            ('"offset":0', f'"offset":{2**63}'), ('"partition":0', f'"partition":{2**31}'),
        ]),
        FORMER[1:], [*FORMER, ("h", b"1")], FORMER[::-1], [*FORMER[:3], (FORMER[3][0], None)],
        *([*FORMER[:3], (FORMER[3][0], number)] for number in (b"1" * 5_000, b"%d" % 2**63, b" 1", b"1e3", b"5.0")),
        [(FORMER[0][0], b"\xff"), *FORMER[1:]], [FORMER[0], (FORMER[1][0], b"-1"), *FORMER[2:]],
    ],
)  # fmt: skip
def test_other_headers_are_no_origin(odd: list[Header]) -> None:
    """Anybody can write to an output topic: what does not say it as the pipeline does is not taken for it."""
    assert split_origin(odd) == (odd, None)


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), offsets)), min_size=1))
def test_letters_are_put_in_order(parts: list[list[tuple[int, int]]]) -> None:
    """Refused early or late, in whatever slice: each partition's by their offsets."""
    together = in_order([chunk_of(places) for places in parts])
    assert list(zip(together.partitions, together.offsets, strict=True)) == sorted(p for part in parts for p in part)


RESERVED = [HEADER_REVISION, HEADER_REPLAY, HEADER_OWN, *REDRIVE_HEADERS, HEADER_ORIGIN, "stacklens-anything"]


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("value", [b"5", b"1" * 5_000, b"x", b"", None], ids=["5", "digits", "x", "empty", "null"])
def test_own_headers_named_like_ours_are_marked(name: str, value: bytes | None) -> None:
    """They stay where and what they are; behind them stands how many there are, and the version is said."""
    own: list[Header] = [("a", b"1"), (name, value)]
    for purpose, behind in ((BATCH.purpose, []), (REDRIVEN, SENT_IN)):
        batch = msgspec.structs.replace(BATCH, purpose=purpose)
        read = chunk_of([(0, 7)], [pack_headers([*own, *behind])])
        headers = unpack_headers(origin_headers(read.columns, batch)[0].as_py())
        assert headers == [
            *own, (HEADER_OWN, b"2"), *behind, *purpose_headers(purpose), (HEADER_REVISION, b"1"),
            origin_header("stacklens-enriched", 0, "dag/run/0", 7),
        ]  # fmt: skip
        assert marked_own(headers) == 2
        corrected = revised(revised(headers))
        assert corrected == [*headers[:-2], (HEADER_REVISION, b"3"), headers[-1]]


def purpose_headers(purpose: Purpose) -> list[Header]:
    """What a batch of this purpose adds."""
    return [(name, text.encode()) for name, text in purpose.headers]


def test_redriven_headers_alone_are_no_reason_for_a_mark() -> None:
    """Those of a redrive are the pipeline's; so is a header whose value only names one."""
    batch = msgspec.structs.replace(BATCH, purpose=REDRIVEN)
    own: list[Header] = [("a", b"stacklens-revision")]
    read = chunk_of([(0, 7)], [pack_headers([*own, *SENT_IN])])
    headers = unpack_headers(origin_headers(read.columns, batch)[0].as_py())
    assert headers[:-1] == [*own, *SENT_IN]


names = st.text(max_size=3) | st.sampled_from(RESERVED)
many = st.lists(st.tuples(names, st.none() | st.sampled_from([b"0", b"1", b"2", b"3", b"x"])), max_size=4)


@given(st.lists(st.tuples(many, st.integers(0, 3)), max_size=6), st.booleans())
def test_own_headers_can_always_be_told(messages: list[tuple[list[Header], int]], redriven: bool) -> None:
    """Whatever they are, and whatever the pipeline adds: the check's reader finds them, and so does a redrive's."""
    batch = msgspec.structs.replace(BATCH, purpose=REDRIVEN if redriven else Purpose(headers=((HEADER_REPLAY, "r"),)))
    packed = [pack_headers([*own, *(SENT_IN if redriven else [])]) for own, _ in messages]
    read = chunk_of([(partition, n) for n, (_, partition) in enumerate(messages)], packed)
    for (own, _), found in zip(messages, origin_headers(read.columns, batch).to_pylist(), strict=True):
        headers = unpack_headers(found)
        for revision in (1, 2, 3):
            parts = parts_of_headers(headers)
            assert (parts.own, parts.revision, parts.redriven) == (own, revision, redriven)
            assert parts.replay == (None if redriven else "r")
            headers = revised(headers)
        assert pipelines_own(unpack_headers(found), redriven=redriven) == [
            *(SENT_IN if redriven else [(HEADER_REPLAY, b"r")]), unpack_headers(found)[-1]
        ]  # fmt: skip


def test_headers_that_nobody_could_read_are_told() -> None:
    """Not read, or as many as would leave no room for ours; large ones alone are none of these."""
    most = READABLE_HEADERS - 8
    column = pa.array(
        [None, b"", pack_headers([("", None)] * most), pack_headers([("", None)] * (most + 1)),
         pack_headers([("n" * 500_000, b"v" * 500_000)])]
    )  # fmt: skip
    found = unreadable(column)
    assert list(found) == [0, 3]
    assert "more than 100000" in found[0]
    assert "99993 headers; 99992 at most" in found[3]
