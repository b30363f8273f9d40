"""Times of messages as people write them."""

from __future__ import annotations

import pytest

from enrichment.kafka.times import to_text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_705_312_800_123, "2024-01-15T10:00:00.123Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_705_312_800_123_000, "1705312800123000 ms since 1970"),
        (2**63 - 1, "9223372036854775807 ms since 1970"),
    ],
    ids=["epoch", "now", "before", "microseconds", "largest"],
)
def test_to_text_of_any_timestamp(milliseconds: int, text: str) -> None:
    """A message may carry any number as its time, and an error message that names it must not fail by it."""
    assert to_text(milliseconds) == text
