"""What is recorded of a stage that fails."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from enrichment.batches.stage_clock import StageRecords, timed_stage
from enrichment.errors import BatchUnbalanced, OffsetsMoved, SettingsError


class Told:
    """A ledger that writes down what it is told; without a database it refuses."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._is_down = is_down

    def failed(self, *what: Any) -> None:
        """The batch is at fault."""
        self.calls.append(("failed", *what))

    def noted(self, *what: Any) -> None:
        """Something else is."""
        if self._is_down:
            raise psycopg.OperationalError("connection refused")
        self.calls.append(("noted", *what))


def fail(ledger: Told, error: BaseException) -> None:
    """A stage that ends like this; the error comes out as it was."""
    records = cast(StageRecords, SimpleNamespace(ledger=ledger))
    with pytest.raises(type(error)) as raised, timed_stage(records, "b-1", "business"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (KeyError("x"), [("failed", "b-1", "business: KeyError: 'x'")]),
        (BatchUnbalanced("one too many", {3}), [("failed", "b-1", "business: BatchUnbalanced: one too many", (3,))]),
        (SettingsError("no such file"), [("noted", "b-1", "business: SettingsError: no such file")]),
        (OffsetsMoved("elsewhere"), [("noted", "b-1", "business: OffsetsMoved: elsewhere")]),
        (psycopg.OperationalError("gone"), [("noted", "b-1", "business: OperationalError: gone")]),
        (SystemExit("stopped"), []),
    ],
    ids=["a bug", "unbalanced", "setting", "group", "database", "stopped"],
)
def test_why_a_stage_failed_is_recorded(error: BaseException, calls: list[tuple[Any, ...]]) -> None:
    """The batch itself is suspected only where nothing else can be at fault."""
    ledger = Told()
    fail(ledger, error)
    assert ledger.calls == calls


def test_failure_is_raised_where_it_cannot_be_recorded(caplog: pytest.LogCaptureFixture) -> None:
    """The database that is away is often the failure itself."""
    with caplog.at_level(logging.WARNING):
        fail(Told(is_down=True), SettingsError("no such file"))
    assert "stage.not_noted batch_id=b-1 error=connection refused" in caplog.text
