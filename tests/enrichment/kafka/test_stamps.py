"""What publishing writes beside the offsets that it commits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from enrichment.batch import Batch, OffsetRange
from enrichment.errors import LanesChanged
from enrichment.kafka.stamps import Committed, Stamp, check_lanes, is_published, stamped

BATCH = Batch("dag/lauf-ü/0", "in", "group", 0, (OffsetRange(0, 2, 9), OffsetRange(2, 0, 5)), topic_id="id-1", lanes=2)


def test_stamp_is_read_back() -> None:
    """Each range's end has the batch, the topic's id and the number of lanes beside it."""
    for offset, end in zip(stamped(BATCH), (9, 5), strict=True):
        assert (offset.topic, offset.offset) == ("in", end)
        assert Stamp.read(offset.metadata, end) == Stamp(end, BATCH.batch_id, "id-1", 2)


@pytest.mark.parametrize("metadata", [None, "", "by hand", "{}", '{"end": "9"}', "[]"])
def test_metadata_of_others_is_no_stamp(metadata: str | None) -> None:
    """Tools leave nothing, or what they like."""
    assert Stamp.read(metadata, 9) is None


def test_stamp_of_another_offset_is_none() -> None:
    """A tool that copies groups to another cluster keeps the metadata and translates the offsets."""
    assert Stamp.read(Stamp(9, "b").to_metadata(), 8) is None


def committed(offset: int | None, stamp: Stamp | None = None) -> dict[int, Committed]:
    """A group at the end of partition 2, and somewhere in partition 0."""
    return {0: Committed(offset, stamp), 2: Committed(5, Stamp(5, BATCH.batch_id))}


@pytest.mark.parametrize(
    ("found", "published"),
    [
        (committed(9, Stamp(9, BATCH.batch_id)), True),
        (committed(20, Stamp(20, "a later one")), True),
        (committed(9), False),
        (committed(20), False),
        (committed(2, Stamp(2, "an earlier one")), False),
        (committed(None), False),
    ],
    ids=["itself", "gone on", "moved to its end", "moved past its end", "before it", "never"],
)
def test_group_that_was_moved_past_a_batch_has_not_published_it(found: dict[int, Committed], published: object) -> None:
    """Only a stamp tells that the group came there by publishing."""
    assert is_published(BATCH, found) is published


def test_batch_of_an_earlier_release_is_judged_by_its_offsets() -> None:
    """It may have been published by a release that stamped nothing."""
    assert is_published(msgspec.structs.replace(BATCH, topic_id=None), committed(9))


@pytest.mark.parametrize("lanes", [{"lanes": 4}, {"lanes": 1}])
def test_group_that_is_published_in_other_lanes_is_refused(lanes: dict[str, Any]) -> None:
    """Kafka itself tells, also where the other publisher has another database."""
    found = committed(9, Stamp(9, "theirs", "id-1", **lanes))
    with pytest.raises(LanesChanged, match=rf"claimed with 2 lanes, but theirs .* with {lanes['lanes']}:"):
        check_lanes(BATCH, found)
    check_lanes(BATCH, committed(9, Stamp(9, "ours", "id-1", 2)))
    check_lanes(BATCH, committed(9, Stamp(9, "unknown")))
    check_lanes(msgspec.structs.replace(BATCH, lanes=None), found)
