"""What helps against each thing that may be the matter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from enrichment.health.now import Recent, recent_of
from enrichment.health.remedies import OF_LEVEL, REDRIVE_DAG, REPAIR_DAG, Remedy, of_breach
from enrichment.rollup.rollup import Rollup
from enrichment.rollup.service_levels import KEYLESS, Breach, Level, thresholds
from enrichment.settings import ServiceLevelSettings, load

AT = datetime(2026, 1, 15, 10, 0, 30, tzinfo=UTC)
LIMITS = ("min_", "max_")


def recent(**fields: Any) -> Recent:
    """Minutes with these rates."""
    return replace(recent_of(Rollup(), load()), **fields)


def of(level: str, **fields: Any) -> list[Remedy]:
    """What helps where this level is missed."""
    return of_breach(Breach(level, 1.0, 0.5), recent(**fields), AT)


def test_every_service_level_has_what_helps() -> None:
    """A level that is added has an entry, and is one that the settings have a limit for."""
    limits = [name for name in ServiceLevelSettings.model_fields if name.startswith(LIMITS)]
    assert set(OF_LEVEL) == set(Level) == set(thresholds(ServiceLevelSettings()))
    assert len(limits) == len(Level)


@pytest.mark.parametrize("level", [*Level, f"{KEYLESS}geo"])
def test_what_helps_is_said_and_leads_somewhere(level: str) -> None:
    """Whatever is missed: words, and a tab or a DAG."""
    remedies = of(level, error_rate=0.3, dead_letter_rate=0.1)
    assert remedies
    assert all(remedy.text and (remedy.tab or remedy.dag_id) for remedy in remedies)


def test_dead_letters_are_sent_in_again_after_a_dry_run() -> None:
    """Those of these minutes, by the reasons that they had; the others would become dead letters again."""
    errors = {"invalid-json": 3, "message-too-large": 1, "message-refused": 2}
    again, at_fault = of(Level.ERROR_RATE, error_rate=0.1, dead_letter_rate=0.1, errors_by_reason=errors)
    assert (again.dag_id, again.tab) == (REDRIVE_DAG, "dead-letters")
    assert again.conf == {
        "reasons": ["message-too-large", "message-refused"], "since": "2026-01-15T09:55:00Z", "dry_run": True,
    }  # fmt: skip
    assert (at_fault.dag_id, at_fault.tab) == ("", "dead-letters")
    errors = {"invalid-json": 3, "invalid-ip": 1}
    assert of(Level.ERROR_RATE, error_rate=0.1, dead_letter_rate=0.1, errors_by_reason=errors) == [at_fault]


def test_partial_messages_are_repaired_where_a_source_failed() -> None:
    """Each source by itself; with dead letters beside them, both."""
    errors = {"geo-ip-lookup-failed": 1, "user-service-error": 5, "user-lookup-timeout": 2, "user-not-found": 1}
    remedies = of(Level.ERROR_RATE, error_rate=0.2, dead_letter_rate=0.0, errors_by_reason=errors)
    assert [(r.dag_id, r.conf, r.tab) for r in remedies] == [
        (REPAIR_DAG, {"source": source}, "partials") for source in ("geo-ip", "user-profile")
    ]
    both = of(Level.ERROR_RATE, error_rate=0.2, dead_letter_rate=0.1, errors_by_reason=errors)
    assert [remedy.dag_id for remedy in both] == [REDRIVE_DAG, REPAIR_DAG, REPAIR_DAG]


def test_answers_that_nobody_knows_are_not_repaired() -> None:
    """A user who does not exist is no outage: no DAG mends that."""
    [remedy] = of(Level.ERROR_RATE, error_rate=0.2, dead_letter_rate=0.0, errors_by_reason={"user-not-found": 9})
    assert (remedy.dag_id, remedy.tab) == ("", "content")
