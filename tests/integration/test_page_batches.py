"""The page's ledger and its check of one batch, on the real PostgreSQL and Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest
from confluent_kafka import Producer

from enrichment.batch import Batch
from enrichment.conservation import one_batch
from enrichment.conservation.committed import log_ranges, position, read
from enrichment.conservation.one_batch import BatchCheck, CheckVerdict, check_batch, why_unchecked
from enrichment.page.batches import BatchesPage, list_batches, view_batch
from enrichment.repair.pending import PendingState, PendingStore
from enrichment.repair.unrepaired import list_partials
from enrichment.statements import Statements
from enrichment.store.jobs import JobState, Ledger
from tests.fixtures.pipeline import Pipeline, message

AT = datetime(2026, 1, 15, 10, tzinfo=UTC)
FILTERS: dict[str, Any] = dict.fromkeys(
    ("kind", "lane", "topic", "partition", "offset", "state", "dag_id", "run_id", "since", "until", "before_at")
) | {"before_id": ""}


@pytest.fixture(scope="module")
def ledger(postgres_server: Callable[[], str]) -> Iterator[psycopg.Connection[Any]]:
    """A ledger of 300 batches, the first claimed first: every tenth has failed, every hundredth is a replay's. Each has
    ten offsets of a partition and is one of two of its run."""
    with psycopg.connect(postgres_server(), autocommit=True) as connection:
        connection.execute(
            """INSERT INTO enrichment_jobs (batch_id, dag_id, run_id, lane, topic, group_id, ranges, purpose, state,
                   settings_fingerprint, claimed_at, published_at, messages_read, messages_enriched, messages_partial,
                   messages_dead)
            SELECT 'batch-' || n, 'dag', 'run-' || n / 2, n %% 2, 'in', 'group',
                   jsonb_build_array(jsonb_build_object('partition', n %% 4, 'start', n * 10, 'end', n * 10 + 10)),
                   CASE WHEN n %% 100 = 0 THEN '{"kind": "replay"}' ELSE '{}' END::jsonb,
                   CASE WHEN n %% 10 = 5 THEN 'failed' ELSE 'published' END, '0', %(at)s + n * interval '1 minute',
                   CASE WHEN n %% 10 = 5 THEN NULL ELSE %(at)s + n * interval '1 minute' END, 10, 10, 0, 0
            FROM generate_series(1, 300) AS n""",
            {"at": AT},
        )
        connection.execute(
            """INSERT INTO enrichment_pending (batch_id, source, topic, messages, corrected, state, since)
            SELECT 'batch-' || n, 'geo-ip', 'out', 10, 2,
                   CASE n %% 3 WHEN 0 THEN 'open' WHEN 1 THEN 'given-up' ELSE 'repaired' END,
                   %(at)s + n * interval '1 minute'
            FROM generate_series(1, 30) AS n""",
            {"at": AT},
        )
        yield connection


def page(connection: psycopg.Connection[Any], scanned: int = 1000, rows: int = 20, **filters: Any) -> BatchesPage:
    """A page of the ledger."""
    return list_batches(Statements(connection), FILTERS | filters, rows, scanned)


def numbers(listed: BatchesPage) -> list[int]:
    """The batches by their numbers."""
    return [int(one.batch.batch_id.removeprefix("batch-")) for one in listed.batches]


def test_ledger_is_listed_newest_first_page_by_page(ledger: psycopg.Connection[Any]) -> None:
    """Each batch once, to the last, where there is no next page."""
    seen, cursor = [], None
    while True:
        before: dict[str, Any] = {} if cursor is None else msgspec.structs.asdict(cursor)
        listed = page(ledger, rows=70, **before)
        assert not listed.is_cut
        seen += numbers(listed)
        cursor = listed.next
        if cursor is None:
            break
    assert seen == list(range(300, 0, -1))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"state": "failed"}, [295, 285, 275]),
        ({"kind": "replay"}, [300, 200, 100]),
        ({"kind": "live"}, [299, 298, 297]),
        ({"lane": 1}, [299, 297, 295]),
        ({"run_id": "run-7", "dag_id": "dag"}, [15, 14]),
        ({"run_id": "run-7", "dag_id": "other"}, []),
        ({"partition": 3}, [299, 295, 291]),
        ({"partition": 3, "offset": 1999}, [199]),
        ({"partition": 2, "offset": 1999}, []),
        ({"partition": 3, "offset": 2000}, []),
        ({"partition": 3, "offset": 1999, "topic": "other"}, []),
        ({"since": AT + timedelta(minutes=299)}, [300, 299]),
        ({"until": AT + timedelta(minutes=2)}, [1]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_ledger_is_filtered(ledger: psycopg.Connection[Any], filters: dict[str, Any], expected: list[int]) -> None:
    """By what an operator knows of a batch; the end of a range is not in it."""
    assert numbers(page(ledger, rows=3, **filters)) == expected


def test_search_without_an_index_ends_and_goes_on(ledger: psycopg.Connection[Any]) -> None:
    """It looks at so many batches at once, says how far that was, and the next page looks further."""
    first = page(ledger, scanned=120, partition=3, offset=1599)
    assert (numbers(first), first.is_cut) == ([], True)
    assert first.next is not None
    assert first.next.before_id == "batch-181"
    second = page(
        ledger, scanned=120, partition=3, offset=1599, before_at=first.next.before_at, before_id=first.next.before_id
    )
    assert (numbers(second), second.is_cut) == ([159], True)


def test_partials_are_those_that_are_not_repaired(ledger: psycopg.Connection[Any]) -> None:
    """Newest first, with counts by state."""
    statements = Statements(ledger)
    listed = list_partials(statements, rows=3)
    assert [one.batch_id for one in listed.partials] == ["batch-30", "batch-28", "batch-27"]
    assert listed.has_more
    assert [(one.state, one.batches, one.messages) for one in listed.counts] == [("given-up", 10, 80), ("open", 10, 80)]
    last = listed.partials[-1]
    behind = list_partials(statements, PendingState.OPEN, before=(last.since, last.batch_id, last.source))
    assert [one.batch_id for one in behind.partials] == [f"batch-{n}" for n in range(24, 0, -3)]
    assert not behind.has_more


def checked(pipeline: Pipeline, batch: Batch, **how: Any) -> BatchCheck:
    """The check as the page makes it."""
    with pipeline.resources() as r:
        job = r.ledger.get(batch.batch_id)
        assert job is not None
        topics = r.clients.for_batch(job.batch).settings
        return check_batch(
            r.kafka_config(), job.batch, job.claimed_at, topics.output_topic, topics.dlq_topic, topics.redriven_topic,
            **how,
        )  # fmt: skip


def published(pipeline: Pipeline, run_id: str, values: list[bytes]) -> Batch:
    """A batch with these messages."""
    pipeline.produce(values)
    [batch] = pipeline.claim(run_id)
    pipeline.finish(pipeline.stage(batch))
    return batch


def test_batch_is_shown_with_all_that_is_known_of_it(pipeline: Pipeline) -> None:
    """Stages, changes, its label, and that it may be checked."""
    batch = published(pipeline, "run-7", [b"no json", *(message(n) for n in range(1, 10))])
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute("SELECT record_enrichment_metric(%s, 'drain', 10, 0.5, 1000)", [batch.batch_id])
        view = view_batch(Statements(connection), Ledger(connection), PendingStore(connection), batch.batch_id)
        none = view_batch(Statements(connection), Ledger(connection), PendingStore(connection), "another")
    assert none is None
    assert view is not None
    assert (view.job.state, view.job.messages_dead, view.unchecked) == (JobState.PUBLISHED, 1, "")
    assert view.label == "lane 0: p0 0-2, p1 0-2, p2 0-1, p3 0-1"
    assert [(stage.stage, stage.messages, stage.peak_rss_bytes) for stage in view.stages] == [("drain", 10, 1000)]
    assert (view.changes[0].new_state, view.changes[-1].action) == (JobState.PUBLISHED, "INSERT")


def test_check_of_a_batch_holds_among_others(pipeline: Pipeline) -> None:
    """Its own messages alone are counted."""
    published(pipeline, "run-1", [message(n) for n in range(40)])
    batch = published(pipeline, "run-2", [b"no json", *(message(n) for n in range(1, 20))])
    published(pipeline, "run-3", [message(n) for n in range(40)])
    found = checked(pipeline, batch)
    assert (found.verdict, found.read, found.analytics, found.dead) == (CheckVerdict.HOLDS, 20, 19, 1)
    assert found.saw_the_end


def test_check_of_a_batch_finds_what_is_doubled(pipeline: Pipeline) -> None:
    """Somebody copied an output: the check is of the topics, not of what the ledger says."""
    batch = published(pipeline, "run-1", [message(n) for n in range(8)])
    topic = pipeline.environment["KAFKA_OUTPUT_TOPIC"]
    with pipeline.resources() as r:
        [first, *_] = list(read(r.kafka_config(), topic, log_ranges(r.kafka_config(), topic)))
    producer = Producer({"bootstrap.servers": pipeline.bootstrap_servers})
    producer.produce(
        topic, first.value(), first.key(), position(first)[0], timestamp=first.timestamp()[1], headers=first.headers()
    )
    assert producer.flush(30) == 0
    producer.close()
    found = checked(pipeline, batch)
    assert (found.verdict, found.defects) == (CheckVerdict.BROKEN, {"doubled": 1})
    assert "again at" in found.examples["doubled"][0]


def test_check_within_limits_calls_nothing_lost(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies beyond what may be looked through is undecided, and so is what takes too long."""
    batch = published(pipeline, "run-1", [message(n) for n in range(80)])
    monkeypatch.setattr(one_batch, "FIRST_OUTPUTS", -75)  # a window of 5 offsets
    monkeypatch.setattr(one_batch, "MAX_OUTPUTS", 10)
    found = checked(pipeline, batch)
    assert found.verdict is CheckVerdict.UNDECIDED
    assert "60 of 80 outputs are not among" in found.why
    monkeypatch.setattr(one_batch, "MAX_OUTPUTS", 1000)
    found = checked(pipeline, batch)  # grows instead
    assert (found.verdict, found.analytics) == (CheckVerdict.HOLDS, 80)
    assert "took longer" in checked(pipeline, batch, max_seconds=-1).why


def test_check_refuses_what_it_cannot_check(pipeline: Pipeline) -> None:
    """In words."""
    pipeline.produce([message(n) for n in range(8)])
    [dry] = pipeline.claim("run-1", dry_run=True)
    assert why_unchecked(dry, is_published=False) == "a dry run publishes nothing"
    [batch] = pipeline.claim("run-2")
    assert why_unchecked(batch, is_published=False) == "it is not published"
    assert why_unchecked(batch, is_published=True) == ""
