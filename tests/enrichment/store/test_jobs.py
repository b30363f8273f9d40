"""The ledger: what it keeps of a batch, and what it refuses to change."""

from __future__ import annotations

from typing import Any

import msgspec
import psycopg
import pytest

from enrichment.batch import Batch, OffsetRange, Purpose
from enrichment.caches.base import LookupCounts
from enrichment.store.jobs import JobState, Ledger, Outcome, Suspicion

Connection = psycopg.Connection[Any]

BATCH = Batch(
    batch_id="dag/run/0",
    topic="in",
    group_id="group",
    lane=0,
    ranges=(OffsetRange(0, 100, 200), OffsetRange(2, 50, 60)),
    max_bytes=1_000,
)
OUTCOME = Outcome(
    read=110,
    enriched=100,
    partial=7,
    dead=3,
    cache_counts={"geo": LookupCounts(messages=110, memory=90, postgres=10, misses=10)},
    errors_by_reason={"user-not-found": 7, "invalid-json": 3},
    durations={"drain": 0.5, "publish": 1.25},
    source_builds={"geo": "2018-07-03"},
)


@pytest.fixture
def ledger(postgres_connection: Connection) -> Ledger:
    """An empty ledger."""
    return Ledger(postgres_connection)


def claim(ledger: Ledger, batch: Batch = BATCH, run_id: str = "run") -> Batch:
    """Claim a batch for a run of the DAG."""
    return ledger.claim(batch, "dag", run_id, "0123456789ab")


def other(batch_id: str, **changes: Any) -> Batch:
    """The batch under another id, changed."""
    return msgspec.structs.replace(BATCH, batch_id=batch_id, **changes)


def test_get_returns_the_whole_story_when_published(ledger: Ledger) -> None:
    """A batch's row says what was claimed, read and published, from which database and with which settings."""
    claim(ledger)
    ledger.drained(BATCH, read=110, value_bytes=33_000)
    ledger.published(BATCH.batch_id, OUTCOME)
    job = ledger.get(BATCH.batch_id)
    assert job is not None
    assert job.batch == BATCH
    assert (job.dag_id, job.run_id, job.settings_fingerprint) == ("dag", "run", "0123456789ab")
    assert (job.state, job.attempts, job.value_bytes, job.error) == (JobState.PUBLISHED, 1, 33_000, None)
    assert (job.messages_read, job.messages_enriched, job.messages_partial, job.messages_dead) == (110, 100, 7, 3)
    assert job.cache_counts["geo"]["memory"] == 90
    assert job.errors_by_reason == {"user-not-found": 7, "invalid-json": 3}
    assert job.durations == {"drain": 0.5, "publish": 1.25}
    assert job.source_builds == {"geo": "2018-07-03"}
    assert job.drained_at is not None
    assert job.published_at is not None
    assert job.claimed_at <= job.drained_at <= job.published_at


def test_warnings_of_claim_and_publish_are_kept_and_said(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Both stand in the row, in their order and once, whatever is run again; the log has them."""
    for text in ("claimed", "claimed again"):
        ledger.claim(BATCH, "dag", "run", "0123456789ab", warnings=(text,))
    for text in ("published", "published again"):
        ledger.published(BATCH.batch_id, msgspec.structs.replace(OUTCOME, warnings=(text,)))
    job = ledger.get(BATCH.batch_id)
    assert job is not None
    assert job.warnings == ("claimed", "published")
    assert "batch.warning batch_id=dag/run/0 claimed" in caplog.text
    assert "batch.warning batch_id=dag/run/0 published" in caplog.text
    claim(ledger, other("quiet"))
    quiet = ledger.get("quiet")
    assert quiet is not None
    assert quiet.warnings == ()


def test_get_is_none_when_the_batch_is_unknown(ledger: Ledger) -> None:
    """A batch that was never claimed has no row."""
    assert ledger.get("nothing") is None


def positions(ledger: Ledger) -> dict[int, tuple[int, str | None]]:
    """Where the group goes on in the topic."""
    found = ledger.positions.get(BATCH.topic, BATCH.group_id)
    return {partition: (position.next_offset, position.topic_id) for partition, position in found.items()}


def test_draining_goes_on_behind_what_was_published(ledger: Ledger) -> None:
    """By partition, of this topic and group only; batches that are not published, dry ones and replays say nothing."""
    latest = other("latest", ranges=(OffsetRange(0, 200, 300),), topic_id="id-1")
    dry = other("dry", ranges=(OffsetRange(0, 300, 900),), dry_run=True)
    replayed = other("replayed", ranges=(OffsetRange(0, 300, 900),), purpose=Purpose(kind="replay"))
    for batch in (
        BATCH,
        latest,
        other("elsewhere", topic="elsewhere", ranges=(OffsetRange(0, 0, 900),)),
        other("another", group_id="another", ranges=(OffsetRange(0, 0, 900),)),
        dry,
        replayed,
    ):
        claim(ledger, batch)
        ledger.published(batch.batch_id, OUTCOME)
    claim(ledger, other("open", ranges=(OffsetRange(0, 300, 900), OffsetRange(7, 0, 9))))
    assert positions(ledger) == {0: (300, "id-1"), 2: (60, None)}


@pytest.mark.parametrize("topic_id", ["id-1", None], ids=["same-topic", "earlier-release"])
def test_draining_does_not_go_back_when_a_batch_is_recorded_late(ledger: Ledger, topic_id: str | None) -> None:
    """A batch whose publisher died before its record is completed by a retry, after later ones."""
    claim(ledger, other("late", topic_id=topic_id))
    claim(ledger, other("next", ranges=(OffsetRange(0, 200, 300),), topic_id="id-1"))
    ledger.published("next", OUTCOME)
    ledger.published("late", OUTCOME)
    assert positions(ledger) == {0: (300, "id-1"), 2: (60, topic_id)}


def test_batch_of_a_topic_that_is_gone_says_nothing_about_the_new_one(ledger: Ledger) -> None:
    """Offsets of a topic that was deleted and made anew are others."""
    claim(ledger, other("old", topic_id="id-1"))
    ledger.positions.put(BATCH.topic, BATCH.group_id, "id-2", {0: 5})
    ledger.published("old", OUTCOME)
    assert positions(ledger)[0] == (5, "id-2")


def test_claim_returns_the_first_ranges_when_claimed_again(ledger: Ledger) -> None:
    """Ranges that were claimed once do not change, whatever a second claim of the same batch says."""
    assert claim(ledger) == BATCH
    assert claim(ledger, msgspec.structs.replace(BATCH, ranges=(OffsetRange(0, 100, 999),))) == BATCH


def test_find_run_returns_the_batches_of_that_run_when_claimed(ledger: Ledger) -> None:
    """A claim that is retried finds what its run has claimed, by lane, and nothing of other runs."""
    batches = [other("a", lane=1), other("b", lane=0, dry_run=True, max_bytes=None)]
    for batch in batches:
        claim(ledger, batch)
    claim(ledger, other("c"), run_id="another")
    assert ledger.find_run("dag", "run") == [batches[1], batches[0]]
    assert ledger.find_run("dag", "never") == []


def test_drained_keeps_the_final_ranges_when_the_drain_ended_early(ledger: Ledger) -> None:
    """A drain that stopped at the batch's bytes leaves the ranges that it read, and counts as an attempt."""
    claim(ledger)
    shorter = msgspec.structs.replace(BATCH, ranges=(OffsetRange(0, 100, 150),))
    ledger.drained(BATCH, read=110, value_bytes=33_000)
    ledger.drained(shorter, read=50, value_bytes=15_000)
    job = ledger.get(BATCH.batch_id)
    assert job is not None
    assert (job.state, job.attempts, job.batch, job.messages_read) == (JobState.DRAINED, 2, shorter, 50)


def test_published_batch_stays_as_it_is_when_its_tasks_run_again(
    ledger: Ledger, postgres_connection: Connection
) -> None:
    """Whatever is recorded after the publish, by a cleared or repeated task, changes nothing."""
    claim(ledger)
    assert ledger.published(BATCH.batch_id, OUTCOME)
    before, changes = ledger.get(BATCH.batch_id), len(ledger.changes(BATCH.batch_id, 100))
    ledger.drained(msgspec.structs.replace(BATCH, ranges=()), read=1, value_bytes=1)
    ledger.failed(BATCH.batch_id, "a zombie")
    assert not ledger.published(BATCH.batch_id, Outcome(read=1, enriched=1, partial=0, dead=0))
    claim(ledger)
    assert ledger.get(BATCH.batch_id) == before
    assert len(ledger.changes(BATCH.batch_id, 100)) == changes


def test_published_completes_the_ledger_when_only_the_claim_is_there(ledger: Ledger) -> None:
    """A crash after the commit leaves a ledger that the retry completes, from whatever state it was left in."""
    claim(ledger)
    ledger.failed(BATCH.batch_id, "killed after the commit")
    ledger.published(BATCH.batch_id, OUTCOME)
    job = ledger.get(BATCH.batch_id)
    assert job is not None
    assert (job.state, job.error) == (JobState.PUBLISHED, None)


@pytest.mark.parametrize("dry_run", [False, True], ids=["live", "dry"])
def test_published_is_refused_when_the_counts_do_not_add_up(ledger: Ledger, dry_run: bool) -> None:
    """Read equals enriched + partial + dead, or the batch is not recorded as published."""
    claim(ledger, msgspec.structs.replace(BATCH, dry_run=dry_run))
    with pytest.raises(psycopg.errors.CheckViolation, match="enrichment_jobs_balanced"):
        ledger.published(BATCH.batch_id, Outcome(read=10, enriched=8, partial=1, dead=0))
    job = ledger.get(BATCH.batch_id)
    assert job is not None
    assert job.state == JobState.CLAIMED


def test_published_says_dry_run_when_the_batch_is_dry(ledger: Ledger) -> None:
    """A dry batch never counts as published."""
    claim(ledger, msgspec.structs.replace(BATCH, dry_run=True))
    ledger.published(BATCH.batch_id, OUTCOME)
    job = ledger.get(BATCH.batch_id)
    assert job is not None
    assert (job.state, job.published_at, job.messages_read) == (JobState.DRY_RUN, None, 110)


def test_failed_names_the_error_when_a_task_gave_up(ledger: Ledger) -> None:
    """A failed batch says why; a later drain takes it up again."""
    claim(ledger)
    ledger.failed(BATCH.batch_id, "PublishRefused: fenced")
    job = ledger.get(BATCH.batch_id)
    assert job is not None
    assert (job.state, job.error) == (JobState.FAILED, "PublishRefused: fenced")
    ledger.drained(BATCH, read=110, value_bytes=1)
    assert ledger.get(BATCH.batch_id).state == JobState.DRAINED  # type: ignore[union-attr]


def test_suspicions_are_failed_batches_that_reached_over_an_offset(ledger: Ledger) -> None:
    """Failed batches of the topic and group whose ranges hold an offset count; no others do."""
    others: dict[str, dict[str, Any]] = {
        "whole": {},
        "small": {"ranges": (OffsetRange(0, 100, 110),)},
        "dry": {"dry_run": True},
        "lane": {"lane": 1},
        "topic": {"topic": "another"},
        "group": {"group_id": "another"},
        "published": {},
    }
    for batch_id, changes in others.items():
        claim(ledger, other(batch_id, **changes))
        ledger.failed(batch_id, "why")
    claim(ledger, other("claimed"))
    ledger.published("published", OUTCOME)

    def found(**starts: int) -> list[tuple[int, int, int]]:
        partitions = {int(name[1:]): start for name, start in starts.items()}
        suspicions = ledger.suspicions("in", "group", partitions)
        return sorted((s.partition, s.failures, s.span) for s in suspicions.values())

    span = BATCH.span
    assert found(p0=100) == [(0, 4, 10)]
    assert found(p0=109, p3=0) == [(0, 4, 10)]
    assert found(p0=110) == [(0, 3, span)]
    assert found(p0=99) == []
    assert found() == []


def test_suspects_of_a_failed_batch_are_the_partitions_that_it_names(ledger: Ledger) -> None:
    """The others are free of suspicion, and their offsets do not count for how small the batch was."""
    claim(ledger, other("both", ranges=(OffsetRange(0, 0, 50), OffsetRange(1, 0, 30), OffsetRange(2, 0, 4))))
    ledger.failed("both", "why", suspects=[1, 2])
    assert ledger.suspicions("in", "group", {0: 0, 1: 0, 2: 4}) == {1: Suspicion(1, 1, 34)}


@pytest.mark.parametrize(("suspects", "is_alone"), [([], True), ([1], False)], ids=["unexplained", "refused"])
def test_message_that_failed_alone_is_known(ledger: Ledger, suspects: list[int], is_alone: bool) -> None:
    """But not where the broker said which it is: to set it aside would change nothing."""
    claim(ledger, other("one", ranges=(OffsetRange(0, 7, 7), OffsetRange(1, 3, 4))))
    ledger.failed("one", "why", suspects)
    assert ledger.suspicions("in", "group", {0: 7, 1: 3}) == {1: Suspicion(1, 1, 1, is_alone)}


def test_noted_error_suspects_nobody(ledger: Ledger) -> None:
    """Why the broker did not take a batch is kept, its state is not touched; published, it is forgotten."""
    claim(ledger)
    ledger.noted(BATCH.batch_id, "publish: PublishRefused: fenced")
    job = ledger.get(BATCH.batch_id)
    assert job is not None
    assert (job.state, job.error) == (JobState.CLAIMED, "publish: PublishRefused: fenced")
    assert ledger.suspicions("in", "group", {r.partition: r.start for r in BATCH.ranges}) == {}
    ledger.published(BATCH.batch_id, OUTCOME)
    ledger.noted(BATCH.batch_id, "too late")
    assert ledger.get(BATCH.batch_id).error is None  # type: ignore[union-attr]


def test_latest_partitions_are_those_of_the_last_claim(ledger: Ledger) -> None:
    """Of the lane, dry runs and ranges without a message left aside."""
    assert ledger.latest_partitions("in", "group", 0) == set()
    others: dict[str, dict[str, Any]] = {
        "first": {},
        "last": {"ranges": (OffsetRange(4, 1, 2), OffsetRange(5, 1, 1))},
        "dry": {"dry_run": True},
        "lane": {"lane": 1},
    }
    for batch_id, changes in others.items():
        claim(ledger, other(batch_id, **changes))
    assert ledger.latest_partitions("in", "group", 0) == {4}


def test_quarantined_is_kept(ledger: Ledger) -> None:
    """A claim that is asked for again still knows that it is quarantined."""
    claim(ledger, other("aside", quarantined=True))
    [batch] = ledger.find_run("dag", "run")
    assert batch.quarantined


def test_changes_tell_who_changed_what_when_a_batch_goes_through(
    ledger: Ledger, postgres_connection: Connection
) -> None:
    """Every change of a job leaves a row that names the states, the columns, the user and the application."""
    postgres_connection.execute("SET application_name = 'publish-task'")
    claim(ledger)
    ledger.failed(BATCH.batch_id, "why")
    postgres_connection.execute("DELETE FROM enrichment_jobs")
    deleted, updated, inserted = ledger.changes(BATCH.batch_id, 3)
    assert ledger.changes(BATCH.batch_id, 1) == [deleted]
    assert (inserted.action, inserted.old_state, inserted.new_state) == ("INSERT", None, JobState.CLAIMED)
    assert (updated.action, updated.old_state, updated.new_state) == ("UPDATE", JobState.CLAIMED, JobState.FAILED)
    assert updated.changed_columns == ("error", "state")
    assert (deleted.action, deleted.old_state, deleted.new_state) == ("DELETE", JobState.FAILED, None)
    assert {(c.changed_by, c.application_name) for c in (inserted, updated, deleted)} == {("postgres", "publish-task")}
    assert inserted.changed_at < updated.changed_at < deleted.changed_at
