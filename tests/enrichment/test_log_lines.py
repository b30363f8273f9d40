"""What a task's log says, as pairs on short lines."""

from __future__ import annotations

import logging

import pytest

from enrichment.log_lines import LINE_CHARACTERS, lines, log_pairs


def test_pairs_when_values_are_nested() -> None:
    """Each number has the names of all that it lies in."""
    said = list(
        lines("stage.counts", {"counts": {"enriched": 3, "by_reason": {"user-not-found": 1}}, "produced": True})
    )
    assert said == ["stage.counts counts.enriched=3 counts.by_reason.user-not-found=1 produced=True"]


def test_lines_when_there_is_much_to_say() -> None:
    """No line is longer than what is seen of it, nothing is left out, and each line names the event."""
    values = {f"reason-{n}": 10**n for n in range(30)}
    said = list(lines("stage.counts", values))
    assert len(said) > 5
    assert all(line.startswith("stage.counts reason-") and len(line) <= LINE_CHARACTERS for line in said)
    assert " ".join(line.removeprefix("stage.counts ") for line in said) == " ".join(
        f"{n}={v}" for n, v in values.items()
    )


@pytest.mark.parametrize("values", [{}, {"counts": {}}])
def test_lines_when_there_is_nothing_to_say(values: dict[str, object]) -> None:
    """The event all the same."""
    assert list(lines("past.forgotten", values)) == ["past.forgotten"]


def test_one_long_value_is_not_cut() -> None:
    """A value that fills more than a line has a line of its own."""
    long = "x" * 200
    assert list(lines("e", {"a": 1, "b": long, "c": 2})) == ["e a=1", f"e b={long}", "e c=2"]


def test_percent_signs_are_only_text(caplog: pytest.LogCaptureFixture) -> None:
    """Values are never read as formats."""
    caplog.set_level(logging.INFO)
    log_pairs(logging.getLogger("enrichment"), "e", {"topic": "100%s"})
    assert caplog.messages == ["e topic=100%s"]
