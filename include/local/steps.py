"""Says what the stack is doing: a line for each thing that is done, and on a terminal what is being waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Lock
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status


class Steps(AbstractContextManager["Steps"]):
    """Steps that may run side by side, in several threads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = Status("", console=console)
        self._open: list[str] = []
        self._lock = Lock()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show `what` as under way, then how long it took; a step that fails says nothing, its error does."""
        started = time.monotonic()
        self._change(lambda steps: steps.append(what))
        try:
            yield
            self._console.print(f"  {escape(what):<34} {time.monotonic() - started:5.1f} s", highlight=False)
        finally:
            self._change(lambda steps: steps.remove(what))

    def warn(self, text: str) -> None:
        """Say what somebody should know about, though all goes on."""
        self._console.print(f"  warning: {escape(text)}", style="yellow", highlight=False)

    def say(self, text: str) -> None:
        """Tell something about a step that is under way."""
        self._console.print(f"  {escape(text)}", highlight=False)

    def _change(self, change: Callable[[list[str]], None]) -> None:
        with self._lock:
            change(self._open)
            self._status.update(escape(", ".join(self._open)))
