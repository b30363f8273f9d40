"""Progress on the terminal: a bar where there is one, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(what: str, total: int | None, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Show how far `what` has come: call the yielded function with the number done so far. `total` may be unknown."""
    screen = console or Console(file=sys.stderr)
    if screen.is_terminal:
        with _bar(screen) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        lines = _Lines(screen, what, total)
        yield lines.advance
        lines.show()


def _bar(screen: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=screen)


class _Lines:
    """A line at first, then one every few seconds, and one at the end."""

    def __init__(self, screen: Console, what: str, total: int | None) -> None:
        self._screen = screen
        self._what = what
        self._of_total = "" if total is None else f" of {total:,}"
        self._done = 0
        self._shown: int | None = None
        self._due_at = 0.0

    def advance(self, done: int) -> None:
        self._done = done
        if time.monotonic() >= self._due_at:
            self.show()

    def show(self) -> None:
        if self._shown != self._done:
            self._screen.print(f"{self._what}: {self._done:,}{self._of_total}", highlight=False, soft_wrap=True)
            self._shown, self._due_at = self._done, time.monotonic() + SECONDS_BETWEEN_LINES
