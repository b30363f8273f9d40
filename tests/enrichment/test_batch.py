"""Batches as manifests: what XComs and the ledger hold, of earlier releases, too."""

from __future__ import annotations

import pytest

from enrichment.batch import Batch, OffsetRange, label_of

QUARANTINED = Batch("b", "in", "group", 0, (), quarantined=True)


def test_manifest_keeps_the_name_of_the_ledgers_column() -> None:
    """A quarantined batch is `set_aside` in XComs and in `enrichment_jobs`, as in earlier releases."""
    manifest = QUARANTINED.to_manifest()
    assert manifest["set_aside"] is True
    assert "quarantined" not in manifest
    assert Batch.from_manifest(manifest) == QUARANTINED


@pytest.mark.parametrize(
    ("kind", "ranges", "label"),
    [
        ("live", [(0, 120, 1120), (2, 80, 81)], "lane 1: p0 120-1119, p2 80-80"),
        ("replay", [(0, 5, 5), (1, 0, 10)], "replay lane 1: p1 0-9"),
        ("redrive", [], "redrive lane 1: no offsets"),
        (
            "live",
            [(p, 0, 1000) for p in range(12)],
            "lane 1: p0 0-999, p1 0-999, p2 0-999, p3 0-999 and 8,000 offsets of 8 more",
        ),
    ],
    ids=["two", "empty-range", "none", "many"],
)
def test_label_names_lane_partitions_and_offsets(kind: str, ranges: list[tuple[int, int, int]], label: str) -> None:
    """The last offset is in it; what there is no room for is counted."""
    assert label_of(kind, 1, [OffsetRange(*r) for r in ranges]) == label


def test_label_has_room_in_airflow() -> None:
    """The largest numbers that Kafka has do not make it longer than its column."""
    ranges = [OffsetRange(2**31 - 1 - p, 2**63 - 9, 2**63 - 1) for p in range(100)]
    assert len(label_of("redrive", 2**31 - 1, ranges)) <= 250
