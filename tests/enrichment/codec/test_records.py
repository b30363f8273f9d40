"""Messages as columns: headers packed and unpacked, sizes, parts as lists."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enrichment.codec.records import (
    FEW,
    RECORD_OVERHEAD,
    Chunk,
    Header,
    message_size,
    message_sizes,
    pack_headers,
    replaced,
    unpack_headers,
    without,
)

names = st.text(st.characters(exclude_categories=["Cs"])) | st.binary().map(
    lambda raw: raw.decode(errors="surrogateescape")
)
headers = st.lists(st.tuples(names, st.none() | st.binary()))


@given(headers)
@example([("same", b""), ("same", None), ("", b"")])
def test_headers_come_back_as_they_were(own: list[Header]) -> None:
    """Null is not empty, names may repeat, and need not even be text."""
    assert unpack_headers(pack_headers(own)) == own


def test_packed_headers_can_be_put_one_behind_the_other() -> None:
    """That is how those of the origin are added."""
    first: list[Header] = [("a", b"1")]
    second: list[Header] = [("b", None)]
    assert unpack_headers(pack_headers(first) + pack_headers(second)) == [*first, *second]


@given(st.lists(st.tuples(st.none() | st.binary(), headers, st.none() | st.binary())))
def test_size_is_that_of_all_parts(parts: list[tuple[bytes | None, list[Header], bytes | None]]) -> None:
    """All at once or one by one; lengths of nothing are nothing."""
    count = len(parts)
    packed = [pack_headers(own) for _, own, _ in parts]
    chunk = Chunk.of([0] * count, range(count), [0] * count, [k for k, _, _ in parts], packed, [v for *_, v in parts])
    sizes = [message_size(value or b"", key, own) for (key, _, value), own in zip(parts, packed, strict=True)]
    assert message_sizes(chunk).tolist() == sizes
    for (key, own, value), size in zip(parts, sizes, strict=True):
        said = sum(len(name.encode(errors="surrogateescape")) + len(content or b"") for name, content in own)
        assert size == RECORD_OVERHEAD + len(key or b"") + len(value or b"") + said + 8 * len(own)


def test_chunk_takes_whole_messages() -> None:
    """A message keeps all of its parts when others are left out."""
    chunk = Chunk.of([0, 1, 0], [5, 6, 7], [10, 11, 12], [b"a", None, b"c"], [b"h", b"i", b"j"], [b"x", b"y", None])
    assert chunk.take([0, 2]) == Chunk.of([0, 0], [5, 7], [10, 12], [b"a", b"c"], [b"h", b"j"], [b"x", None])
    assert chunk.take([0, 1, 2]) is chunk


@given(st.data())
def test_rows_are_left_out(data: st.DataObject) -> None:
    """Those that are named, wherever they stand; the others keep their order and all that they have."""
    offsets = list(range(data.draw(st.integers(0, 40))))
    rows = sorted(data.draw(st.sets(st.sampled_from(offsets)))) if offsets else []
    count = len(offsets)
    chunk = Chunk.of([0] * count, offsets, [0] * count, [b"k"] * count, [b""] * count, [b"%d" % n for n in offsets])
    left = Chunk(without(chunk.columns, rows))
    assert left.offsets == [n for n in offsets if n not in rows]
    assert left.values == [b"%d" % n for n in left.offsets]


@pytest.mark.parametrize("least", [1, FEW + 1])
@given(st.data())
def test_rows_are_replaced(least: int, data: st.DataObject) -> None:
    """Those that are named, by values that may be null, wherever they stand and however many they are."""
    texts = st.none() | st.text(max_size=3)
    given = data.draw(st.lists(texts, min_size=least, max_size=3 * FEW))
    rows = sorted(data.draw(st.sets(st.sampled_from(range(len(given))), min_size=least)))
    values = data.draw(st.lists(texts, min_size=len(rows), max_size=len(rows)))
    wanted = list(given)
    for row, value in zip(rows, values, strict=True):
        wanted[row] = value
    assert replaced(pa.array(given, pa.string()), rows, pa.array(values, pa.string())).to_pylist() == wanted
