"""How long a component is waited for: by a clock that is given, with a log and a process that are real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from include.local.errors import StackError
from include.local.patience import QUIET_SECONDS, SAY_EVERY_SECONDS, Patience, processor_seconds


class Slow:
    """A component whose log grows when it is told to, a clock that is set by hand, and what was said."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, limit: float = 600) -> None:
        self.now, self.worked, self.said = 0.0, 0.0, list[str]()
        self.log = folder / "kafka.log"
        self.log.write_text("")
        monkeypatch.setattr("include.local.patience.processor_seconds", lambda pid: self.worked)
        self.patience = Patience("kafka", self.log, limit, self.said.append, clock=lambda: self.now)

    def after(self, seconds: float, line: str = "", work: float = 0.0) -> None:
        """Let time pass in which the component writes a line and works, and look at it."""
        self.now += seconds
        self.worked += work
        with self.log.open("a") as log:
            log.write(line)
        self.patience.wait(os.getpid())


@pytest.mark.parametrize("sign", [{"line": "Loading\n"}, {"work": 1.0}], ids=["log", "processor"])
def test_wait_when_it_makes_progress(sign: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component that is slow and at work is waited for, far beyond the time in which a quiet one is given up."""
    slow = Slow(tmp_path, monkeypatch)
    for _ in range(8):
        slow.after(QUIET_SECONDS - 1, **sign)  # type: ignore[arg-type]


def test_wait_when_it_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that neither writes nor works is given up, with what it wrote last."""
    slow = Slow(tmp_path, monkeypatch)
    slow.after(5, "Formatting\n", work=2)
    slow.after(QUIET_SECONDS)
    with pytest.raises(StackError, match=r"kafka is not ready and has done nothing for 61 s(.|\n)*Formatting"):
        slow.after(1, work=0.05)


def test_wait_when_the_limit_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is at work for ever is given up at the limit, which the message says how to raise."""
    slow = Slow(tmp_path, monkeypatch, limit=100)
    slow.after(50, work=9)
    slow.after(50, work=9)
    with pytest.raises(StackError, match=r"kafka was not ready after 101 s.*LOCAL_START_TIMEOUT_SEC"):
        slow.after(1, work=9)


def test_wait_says_what_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then, not at every look, with the last line of the log."""
    slow = Slow(tmp_path, monkeypatch)
    for _ in range(4):
        slow.after(SAY_EVERY_SECONDS / 2, "Recovering partition 3\n")
    assert slow.said == [
        "still waiting for kafka (30 s); its log: Recovering partition 3",
        "still waiting for kafka (60 s); its log: Recovering partition 3",
    ]


def test_processor_seconds_when_there_is_no_process() -> None:
    """Processes may be gone when they are looked at; ours has used some time."""
    assert processor_seconds(2**22 + 1) == 0
    assert processor_seconds(os.getpid()) > 0
