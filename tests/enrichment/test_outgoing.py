"""Where a published message says it came from."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from enrichment.columns import Chunk, Header, pack_headers, unpack_headers
from enrichment.messages import Batch, OffsetRange, Purpose
from enrichment.outgoing import in_order, origin_headers

BATCH = Batch(
    "dag/run/0", "stacklens-enriched", "group", 0, (OffsetRange(0, 0, 1),), purpose=Purpose(headers=(("p", "1"),))
)
offsets = st.integers(0, 2**63 - 1)
headers = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=2)


def chunk_of(places: list[tuple[int, int]], own: list[bytes] | None = None) -> Chunk:
    """Messages at these partitions and offsets."""
    count = len(places)
    return Chunk.of(
        [p for p, _ in places], [o for _, o in places], [0] * count, [None] * count, own or [b""] * count, [b""] * count
    )


@given(st.lists(st.tuples(st.integers(0, 9), offsets, headers)))
@example([(0, 0, []), (1, 9, []), (0, 10, []), (0, 2**63 - 1, [("a", None)])])
def test_origin_stands_behind_all_other_headers(messages: list[tuple[int, int, list[Header]]]) -> None:
    """Each message's own, those of the purpose, and its topic, partition, batch and offset."""
    chunk = chunk_of([(p, o) for p, o, _ in messages], [pack_headers(own) for *_, own in messages])
    found = [unpack_headers(packed) for packed in origin_headers(chunk.columns, BATCH).to_pylist()]
    assert found == [
        [*own, ("p", b"1"), ("stacklens-source-topic", b"stacklens-enriched"),
         ("stacklens-source-partition", b"%d" % partition), ("stacklens-batch-id", b"dag/run/0"),
         ("stacklens-source-offset", b"%d" % offset)]
        for partition, offset, own in messages
    ]  # fmt: skip


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), offsets)), min_size=1))
def test_letters_are_put_in_order(parts: list[list[tuple[int, int]]]) -> None:
    """Refused early or late, in whatever slice: each partition's by their offsets."""
    together = in_order([chunk_of(places) for places in parts])
    assert list(zip(together.partitions, together.offsets, strict=True)) == sorted(p for part in parts for p in part)
