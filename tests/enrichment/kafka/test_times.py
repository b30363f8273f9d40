"""Times as people write them."""

from __future__ import annotations

import pytest

from enrichment.kafka.times import to_text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (1_705_312_800_123, "2024-01-15T10:00:00.123Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_705_312_800_123_456, "1705312800123456 ms"),
        (2**63 - 1, "9223372036854775807 ms"),
        (-(2**63), "-9223372036854775808 ms"),
    ],
)
def test_time_as_text(milliseconds: int, text: str) -> None:
    """A message may say any time; one that no calendar has is given as it is."""
    assert to_text(milliseconds) == text
