"""The samples of a batch, of a moment, of an hour's check: what the page shows, as numbers with tags."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from enrichment.caches.base import LookupCounts
from enrichment.enrichers import ENRICHERS
from enrichment.health.now import (
    LastBatch,
    Now,
    OpenBreaker,
    PendingSource,
    UnfinishedBatch,
    WaitingPartition,
    recent_of,
)
from enrichment.health.verdict import judge, unknown
from enrichment.metrics import names
from enrichment.metrics.batch import FRESHNESS_SECONDS, BatchFigures, samples_of_batch
from enrichment.metrics.moment import samples_of_breaches, samples_of_moment
from enrichment.metrics.names import Metric, Sample
from enrichment.rollup.rollup import Rollup, StageRow
from enrichment.rollup.service_levels import Breach, Level
from enrichment.settings import load
from enrichment.store.histogram import Histogram

AT = datetime(2026, 1, 15, 10, tzinfo=UTC)
NAME, OTHER = (enricher.name for enricher in ENRICHERS[:2])
SOURCE = ENRICHERS[0].source
FIGURES = BatchFigures(
    lane=1, claimed_at=AT, published_at=AT + timedelta(seconds=2.5),
    messages_read=10, messages_enriched=6, messages_partial=3, messages_dead=1, value_bytes=3_000,
    errors_by_reason={"invalid-json": 1, "user-not-found": 3},
    cache_counts={NAME: LookupCounts(9, 5, 3, 1, 2, 1, 0, 4)},
    lag={},
    stages={
        "drain": StageRow(9, 0.5, peak_rss_bytes=1_000),
        "publish": StageRow(9, 0.25, Histogram.of([0.5, 0.5, 4, 50, 50_000])),
    },
)  # fmt: skip
EMPTY = Now(AT, recent_of(Rollup(), load()))


def found(samples: Iterable[Sample], metric: Metric) -> Any:
    """The values of a metric by its tags, or its one value."""
    values = {tuple(sample.tags.values()): sample.value for sample in samples if sample.metric is metric}
    return values[()] if metric.tags == () and values else values


def of_batch(metric: Metric, **changes: Any) -> Any:
    """Those of the batch."""
    return found(samples_of_batch(msgspec.structs.replace(FIGURES, **changes)), metric)


def of_moment(metric: Metric, **changes: Any) -> Any:
    """Those of a moment that is as it should be but for these."""
    now = msgspec.structs.replace(EMPTY, **changes)
    return found(samples_of_moment(judge(now, load().service_levels), now), metric)


def test_batch_has_the_counts_of_the_ledger() -> None:
    """By what became of its messages, by reason, by who answered."""
    assert of_batch(names.MESSAGES) == {("enriched",): 6, ("partial",): 3, ("dead",): 1}
    assert of_batch(names.ERRORS) == {("invalid-json",): 1, ("user-not-found",): 3}
    assert of_batch(names.ANSWERS) == {(NAME, "memory"): 5, (NAME, "postgres"): 3, (NAME, "source"): 1}
    assert of_batch(names.UNUSUAL_ANSWERS) == {(NAME, "stale"): 2, (NAME, "absent"): 1, (NAME, "failed"): 0}
    assert (of_batch(names.BATCHES), of_batch(names.BATCH_SIZE)) == ({("1",): 1}, {("1",): 10})
    assert of_batch(names.READ) == 3_000


def test_batch_has_its_times_and_memory() -> None:
    """In seconds and bytes; a stage that has recorded no memory has none."""
    assert of_batch(names.LATENCY) == 2.5
    assert of_batch(names.STAGE) == {("drain",): 0.5, ("publish",): 0.25}
    assert of_batch(names.STAGE_PEAK_RSS) == {("drain",): 1_000}


def test_freshness_is_a_cumulative_histogram() -> None:
    """Each bound counts all messages that were at least so fresh: what adds up over batches."""
    counted = of_batch(names.FRESHNESS)
    assert list(counted) == [*((str(bound),) for bound in FRESHNESS_SECONDS), ("inf",)]
    assert list(counted.values()) == [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 5]


def test_batch_without_anything_has_zeros() -> None:
    """Series begin with the first batch, not with the first failure."""
    assert of_batch(names.MESSAGES, messages_enriched=0, messages_partial=0, messages_dead=0) == {
        ("enriched",): 0, ("partial",): 0, ("dead",): 0,
    }  # fmt: skip
    assert of_batch(names.FRESHNESS, stages={"publish": StageRow(1, 1.0, Histogram())})["inf",] == 0


def test_moment_of_a_new_installation_says_that_all_is_well() -> None:
    """A backend keeps the last value of a gauge: what is over must be said."""
    assert of_moment(names.HEALTH) == 0
    assert of_moment(names.OLDEST_WAITING) == 0
    assert of_moment(names.UNPUBLISHED) == {("claimed",): 0, ("drained",): 0, ("failed",): 0}
    assert set(of_moment(names.BREAKER).values()) == set(of_moment(names.PENDING).values()) == {0}
    assert {source for (source,) in of_moment(names.PENDING)} == {enricher.source for enricher in ENRICHERS}
    assert of_moment(names.SINCE_PUBLISHED) == of_moment(names.SOURCE_AGE) == {}


def test_moment_has_what_waits() -> None:
    """By partition, and the age of the oldest; a clock that is ahead makes no negative age."""
    waiting = [WaitingPartition(0, 7, AT - timedelta(seconds=40)), WaitingPartition(1, 0)]
    assert of_moment(names.LAG, backlog=waiting) == {("0",): 7, ("1",): 0}
    assert of_moment(names.OLDEST_WAITING, backlog=waiting) == 40
    ahead = [WaitingPartition(0, 7, AT + timedelta(seconds=40))]
    assert of_moment(names.OLDEST_WAITING, backlog=ahead) == 0


def test_moment_does_not_know_what_the_brokers_do_not_say() -> None:
    """No lag is sent, rather than none at all; the verdict says down."""
    assert of_moment(names.LAG, kafka_error="timed out") == of_moment(names.OLDEST_WAITING, kafka_error="x") == {}
    assert of_moment(names.HEALTH, kafka_error="timed out") == 2


def test_moment_without_a_database_is_down() -> None:
    """Nothing else is known."""
    samples = list(samples_of_moment(unknown(psycopg.OperationalError("no")), None))
    assert [(sample.metric, sample.value) for sample in samples] == [(names.HEALTH, 2)]


def test_moment_has_what_is_wrong() -> None:
    """Breakers by source, whatever address is in their name; pending repairs; batches that are not published."""
    breakers = [OpenBreaker(f"{SOURCE} http://old", "half-open"), OpenBreaker(f"{SOURCE} http://new", "open")]
    assert of_moment(names.BREAKER, breakers=breakers)[SOURCE,] == 2
    assert of_moment(names.BREAKER, breakers=breakers[:1])[SOURCE,] == 1
    pending = [PendingSource(SOURCE, 2, 50, AT), PendingSource("gone", 1, 3, AT)]
    assert of_moment(names.PENDING, pending=pending)[SOURCE,] == 50
    assert of_moment(names.PENDING, pending=pending)["gone",] == 3
    unfinished = [UnfinishedBatch("b", "d", "r", "t", 0, state, 1, AT) for state in ("failed", "claimed")]
    unfinished.append(UnfinishedBatch("b", "d", "r", "t", 1, "failed", 1, AT, alike=7))
    assert of_moment(names.UNPUBLISHED, unfinished=unfinished) == {("claimed",): 1, ("drained",): 0, ("failed",): 8}


@pytest.mark.parametrize(
    ("build", "age"), [(f"GeoLite2-City-{AT.timestamp() - 100:.0f}", 100), ("1.2", None), ("x-99999999999", None)]
)
def test_age_of_a_source_is_that_of_its_build(build: str, age: float | None) -> None:
    """Where the build says when it was made."""
    last = LastBatch("b", "d", "r", AT - timedelta(seconds=5), 1, {NAME: build, "gone": "x-1768471100"})
    assert of_moment(names.SOURCE_AGE, last=last) == ({} if age is None else {(SOURCE,): age})
    assert of_moment(names.SINCE_PUBLISHED, last=last) == 5


def test_hour_has_every_level() -> None:
    """1 where it was missed."""
    values = found(samples_of_breaches([Breach(Level.LAG, 2, 1), Breach(f"keyless-{OTHER}", 1, 0)]), names.BREACHED)
    assert values.keys() == {*((level,) for level in Level), *((f"keyless-{e.name}",) for e in ENRICHERS)}
    assert {level for (level,), missed in values.items() if missed} == {"lag", f"keyless-{OTHER}"}
