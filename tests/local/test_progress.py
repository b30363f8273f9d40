"""Progress where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from include.local.progress import progress


@pytest.mark.parametrize(
    ("total", "lines"),
    [(30, ["Sent: 1 of 30", "Sent: 30 of 30"]), (None, ["Sent: 1", "Sent: 30"])],
    ids=["known", "unknown"],
)
def test_progress_is_a_few_lines_when_there_is_no_terminal(total: int | None, lines: list[str]) -> None:
    """One line at the start and one at the end of what is quick, whether the total is known or not."""
    output = io.StringIO()
    with progress("Sent", total, Console(file=output)) as advance:
        for done in (1, 2, 3, 30):
            advance(done)
    assert output.getvalue().splitlines() == lines
