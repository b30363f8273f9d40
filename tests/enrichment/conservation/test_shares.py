"""How the conservation check is shared out."""

from __future__ import annotations

import pytest

from enrichment.batch import OffsetRange
from enrichment.conservation.report import Expected
from enrichment.conservation.shares import CheckedShare, worthwhile_processes

RANGES = [
    OffsetRange(0, 0, 900_000),
    OffsetRange(1, 0, 500_000),
    OffsetRange(1, 600_000, 900_000),
    OffsetRange(2, 5, 9),
]


def share(**changed: object) -> CheckedShare:
    """A check of these ranges."""
    known = {
        "kafka": "broker:9092", "input_topic": "in", "output_topics": ("out", "dlq"), "outputs": ((), ()),
        "redriven": frozenset(), "ranges": RANGES, "content_every": 1, "examples": 5, "timeout": 60.0, "replay": None,
    }  # fmt: skip
    return CheckedShare(**{**known, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_partition_is_in_one_share(count: int) -> None:
    """All ranges of it, and all ranges in some share; the shares are as equal as partitions let them be."""
    parts = share().split(count)
    homes = [{r.partition for r in part.ranges} for part in parts]
    assert sorted(r for part in parts for r in part.ranges) == RANGES
    assert sum(len(home) for home in homes) == 3
    assert all(part.of == count for part in parts)
    if count == 2:
        assert sorted(sum(r.span for r in part.ranges) for part in parts) == [800_004, 900_000]


@pytest.mark.parametrize(
    ("changed", "processes"),
    [
        ({}, 3),
        ({"ranges": [OffsetRange(0, 0, 10_000_000)]}, 1),
        ({"ranges": [OffsetRange(0, 0, 50), OffsetRange(1, 0, 50)]}, 1),
        ({"kafka": {"bootstrap.servers": "broker:9092", "socket.timeout.ms": 5}}, 3),
        ({"kafka": {"bootstrap.servers": "broker:9092", "oauth_cb": print}}, 1),
        ({"replay": Expected("again", 0, 5)}, 3),
        ({"replay": Expected("again", 0, 5, wanted=bool)}, 1),
    ],
    ids=["many", "one partition", "few messages", "plain options", "a callback", "a replay", "a filter"],
)
def test_as_many_processes_as_are_worth_it(
    changed: dict[str, object], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One alone for what is small, or cannot be sent to another."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert worthwhile_processes(share(**changed)) == processes
