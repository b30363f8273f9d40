"""What stops the local stack: one line for a person, saying what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

TAIL_LINES, LINE_CHARACTERS = 15, 240


class StackError(Exception):
    """Something about this machine or its settings is in the way; the message says what to do about it."""


class ComponentDied(StackError):
    """A component ended while it was being started; the message ends with what its log said last."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__(f"{name} died while it was being started; its log is {log}\n{tail(log)}")
        self.name = name
        self.log = log


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, indented; says so when there is none."""
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"    {line[:LINE_CHARACTERS]}" for line in text[-lines:]) or "    (the log is empty)"


def root_cause(error: BaseException) -> str:
    """What was underneath: clients wrap a refused connection in sentences of several lines."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__
