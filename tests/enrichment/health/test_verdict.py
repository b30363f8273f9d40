"""The verdict on a moment: what is found, how bad it is, and what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from enrichment.batch import OffsetRange
from enrichment.errors import SettingsError
from enrichment.health.now import (
    LastBatch,
    Now,
    OpenBreaker,
    PendingSource,
    Recent,
    UnfinishedBatch,
    WaitingPartition,
    recent_of,
)
from enrichment.health.verdict import Health, HealthVerdict, judge, unknown
from enrichment.rollup.rollup import Rollup
from enrichment.rollup.service_levels import Breach
from enrichment.settings import ServiceLevelSettings, load

AT = datetime(2026, 1, 15, 10, tzinfo=UTC)
LEVELS = ServiceLevelSettings(max_freshness_sec=120)


def ago(**time: float) -> datetime:
    """A moment before."""
    return AT - timedelta(**time)


def recent(**fields: Any) -> Recent:
    """Minutes in which nothing came, but for these fields."""
    return replace(recent_of(Rollup(), load()), **fields)


def batch(**fields: Any) -> UnfinishedBatch:
    """A batch that is under way."""
    return replace(
        UnfinishedBatch("b-1", "stacklens_enrichment", "run-1", "in", 2, "claimed", 0, ago(seconds=5)), **fields
    )


LAST = LastBatch("b-0", "stacklens_enrichment", "run-0", ago(seconds=4), 10)
WAITING = [WaitingPartition(0, 0), WaitingPartition(1, 1_500, ago(minutes=10)), WaitingPartition(2, 3)]


def verdict(**fields: Any) -> HealthVerdict:
    """Of a moment at which all is well, but for these fields."""
    return judge(replace(Now(AT, recent(), last=LAST), **fields), LEVELS)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"last": None}, "nothing was published yet; nothing has come in"),
        ({"last": None, "backlog": [WaitingPartition(0, 7, ago(seconds=2))]}, "7 messages wait for the first run"),
        ({}, "nothing waits; the last batch was published 4 s ago"),
        ({"backlog": [WaitingPartition(0, 7, ago(seconds=2))]}, "7 messages wait; the last batch"),
        ({"recent": recent(messages=1_200, fully_enriched=0.991)}, "1,200 messages in the last 5 minutes, 99.1% fully"),
        ({"unfinished": [batch()]}, "nothing waits"),
        ({"last": replace(LAST, published_at=ago(days=3))}, "the last batch was published 3 days ago"),
    ],
    ids=["new", "first messages", "idle", "some wait", "at work", "a batch under way", "idle for days"],
)
def test_what_is_well_is_said_in_a_sentence(fields: dict[str, Any], said: str) -> None:
    """Nothing is found where nothing is the matter, on a new installation, too."""
    found = verdict(**fields)
    assert (found.health, found.findings) == (Health.HEALTHY, [])
    assert said in found.summary


LIVE = {"stacklens_enrichment"}


@pytest.mark.parametrize(
    ("fields", "health", "said", "started"),
    [
        ({"kafka_error": "Connection refused"}, Health.DOWN, "do not say what waits: Connection refused", set()),
        ({"backlog": WAITING, "last": replace(LAST, published_at=ago(minutes=4))}, Health.DOWN,
         "1,503 messages wait, the oldest is of 10 min ago, and nothing was published for 4 min", LIVE),
        ({"backlog": WAITING, "last": None}, Health.DOWN, "nothing was ever published", LIVE),
        ({"unfinished": [batch(state="failed", error="BatchRefused: too large")]}, Health.DOWN,
         "batch b-1 of lane 2 has failed, and its lane waits: BatchRefused: too large", LIVE),
        ({"unfinished": [batch(state="failed", error="a bug", alike=1_001)]}, Health.DOWN,
         "batch b-1 of lane 2 has failed like 1,000 before it, and its lane waits: a bug", LIVE),
        ({"backlog": WAITING}, Health.DEGRADED, "1,503 messages wait, the oldest is of 10 min ago: more than 120 s",
         LIVE),
        ({"unfinished": [batch(error="no broker", attempts=3)]}, Health.DEGRADED,
         "batch b-1 of lane 2 is tried again, it failed 3 times: no broker", set()),
        ({"recent": recent(breaches=[Breach("lag", 9, 5)])}, Health.DEGRADED,
         "in the last 5 minutes 9 messages left behind a claim", LIVE),
        ({"unfinished": [batch(state="drained", error="business: SettingsError: no file", alike=3)]}, Health.DOWN,
         "batch b-1 of lane 2 fails like 2 before it, and its lane waits: business: SettingsError: no file", set()),
        ({"breakers": [OpenBreaker("user-profile http://users", "open", ago(minutes=7))]}, Health.DEGRADED,
         "user-profile http://users is not asked, its circuit breaker is open for 7 min", {"stacklens_repair"}),
        ({"breakers": [OpenBreaker("of somebody", "half-open")]}, Health.DEGRADED, "is half-open", set()),
        ({"pending": [PendingSource("user-profile", 2, 40, ago(hours=3))]}, Health.DEGRADED,
         "40 published messages lack user-profile until they are repaired, since 3 h", {"stacklens_repair"}),
    ],
    ids=[
        "no broker", "stalled", "never moved", "failed", "failed again", "late", "tried again", "stands still",
        "breach", "breaker", "other breaker", "pending",
    ],
)  # fmt: skip
def test_what_is_the_matter_is_found(fields: dict[str, Any], health: Health, said: str, started: set[str]) -> None:
    """Each with what helps in words, and the DAG of which a run does, if any."""
    found = verdict(**fields)
    [finding] = found.findings
    assert (found.health, finding.health) == (health, health)
    assert said in finding.text
    assert found.summary == finding.text
    assert all(remedy.text for remedy in finding.remedies)
    assert finding.remedies
    assert {remedy.dag_id for remedy in finding.remedies} - {""} == started


def test_failed_batch_leads_to_its_run_and_to_its_square() -> None:
    """Where its log is."""
    [finding] = verdict(unfinished=[batch(state="failed", ranges=(OffsetRange(1, 5, 9),))]).findings
    where = (finding.tab, finding.dag_id, finding.run_id, finding.label)
    assert where == ("batch?id=b-1", "stacklens_enrichment", "run-1", "lane 2: p1 5-8")


@pytest.mark.parametrize(
    "failed", [SettingsError("KAFKA_LANES=x"), psycopg.OperationalError("no route")], ids=["setting", "database"]
)
def test_what_cannot_be_judged_says_what_helps(failed: Exception) -> None:
    """There are no figures, and a way on all the same."""
    [finding] = unknown(failed).findings
    assert (finding.health, str(failed) in finding.text) == (Health.DOWN, True)
    assert all(remedy.text for remedy in finding.remedies)
    assert finding.remedies


def test_worst_comes_first() -> None:
    """The sentence says what is worst, and that there is more."""
    pending = [PendingSource("user-profile", 2, 40, ago(hours=3))]
    found = verdict(pending=pending, unfinished=[batch(state="failed")])
    assert [finding.health for finding in found.findings] == [Health.DOWN, Health.DEGRADED]
    assert found.health is Health.DOWN
    assert found.summary.endswith("its task log says why, and 1 more")


def test_old_messages_that_are_being_enriched_are_late_and_not_down() -> None:
    """Who plays last year's log sees that it moves."""
    found = verdict(backlog=[WaitingPartition(0, 9, ago(days=400))])
    assert found.health is Health.DEGRADED
