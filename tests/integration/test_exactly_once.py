"""Whatever is killed, run twice or run at once: every message has exactly one output."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from enrichment.batch import OffsetRange
from enrichment.batches.publish import record
from enrichment.batches.stage_clock import timed_stage
from enrichment.batches.staged import REFUSED, Drained, Published
from enrichment.errors import BatchUnbalanced, OffsetsMoved, PublishRefused, StagingMissing
from enrichment.kafka.offsets import committed_offsets
from enrichment.kafka.settled import await_stable
from enrichment.store.jobs import JobState
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message

MESSAGES = 400
DONE = ("produced", "done before")


@pytest.fixture
def staged(pipeline: Pipeline) -> Drained:
    """A batch of which everything but the publish is done; two of its messages are malformed."""
    pipeline.produce([message(n) for n in range(MESSAGES - 2)] + [b"no JSON", None])
    [batch] = pipeline.claim()
    return pipeline.stage(batch)


def committed(pipeline: Pipeline) -> list[int | None]:
    """The group's committed offsets."""
    with pipeline.resources() as r, r.clients.offsets_reader() as reader:
        return list(committed_offsets(reader, pipeline.input_topic, range(PARTITIONS), 20).values())


def finish(process: subprocess.Popen[str], pipeline: Pipeline, drained: Drained) -> tuple[int, str, str]:
    """Let a publishing process run to its end."""
    out, err = process.communicate(pipeline.manifest(drained), timeout=60)
    return process.returncode, out, err


def test_published_batch_has_one_output_for_every_message(pipeline: Pipeline, staged: Drained) -> None:
    """Enriched, partial and dead together are what was read, and the group is at the end of the ranges."""
    published = pipeline.publish(staged)
    report = pipeline.check()
    assert report.ok, report.summary()
    assert (report.read, report.dead) == (MESSAGES, 2)
    assert published.produced
    assert committed(pipeline) == [r.end for r in staged.batch.ranges]


def test_publish_again_does_nothing(pipeline: Pipeline, staged: Drained) -> None:
    """A retried or cleared publish sees that its range is committed, and counts the same."""
    first, second = pipeline.publish(staged), pipeline.publish(staged)
    assert (first.produced, second.produced) == (True, False)
    assert first.counts == second.counts
    report = pipeline.check()
    assert report.ok, report.summary()


@pytest.mark.parametrize("where", ["mid-transaction", "before-commit"])
def test_publish_killed_before_its_commit_leaves_nothing_visible(
    pipeline: Pipeline, staged: Drained, where: str
) -> None:
    """`kill -9` with messages on the broker: no reader sees them, and the retry publishes each message once."""
    code, _, _ = finish(pipeline.publish_in_process(staged, where), pipeline, staged)
    assert code == -signal.SIGKILL
    assert committed(pipeline) == [0] * PARTITIONS
    assert pipeline.publish(staged).produced
    report = pipeline.check()
    assert report.ok, report.summary()


def test_publish_killed_after_its_commit_is_completed_by_the_retry(pipeline: Pipeline, staged: Drained) -> None:
    """A crash between commit and ledger: the retry publishes nothing and completes the ledger with the right counts."""
    code, _, _ = finish(pipeline.publish_in_process(staged, "after-commit"), pipeline, staged)
    assert code == -signal.SIGKILL
    with pipeline.resources() as r:
        before = r.ledger.get(staged.batch.batch_id)
        published = pipeline.publish(staged)
        record(r.ledger, staged, published)
        after = r.ledger.get(staged.batch.batch_id)
    assert before is not None
    assert after is not None
    assert (before.state, after.state, published.produced) == (JobState.CLAIMED, JobState.PUBLISHED, False)
    assert (after.messages_read, after.messages_dead) == (MESSAGES, 2)
    report = pipeline.check()
    assert report.ok, report.summary()


def outcome(publish: Callable[[], Published]) -> str:
    """How a publish ended."""
    try:
        return "produced" if publish().produced else "done before"
    except (OffsetsMoved, PublishRefused) as refused:
        return type(refused).__name__


def test_same_publish_twice_at_once_gets_through_once(pipeline: Pipeline, staged: Drained) -> None:
    """Two processes with the same batch: one commits, the other is fenced or finds it done."""
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: outcome(lambda: pipeline.publish(staged)), range(4)))
    # All may have fenced each other, and one that was fenced in its commit may have got through: one alone will know.
    outcomes.append(outcome(lambda: pipeline.publish(staged)))
    assert outcomes[-1] in DONE
    assert outcomes.count("produced") <= 1
    report = pipeline.check()
    assert report.ok, report.summary()


def test_overlapping_batches_of_different_runs_cannot_both_get_through(pipeline: Pipeline) -> None:
    """Two runs that claimed the same offsets: the second to commit is refused and says who moved the group."""
    pipeline.produce([message(n) for n in range(100)])
    [small] = pipeline.claim("first")
    pipeline.produce([message(n) for n in range(100, 200)])
    [large] = pipeline.claim("second")
    first, second = pipeline.stage(small), pipeline.stage(large)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda d: outcome(lambda: pipeline.publish(d)), [first, second]))
    outcomes.append(outcome(lambda: pipeline.publish(first)))
    assert outcomes[-1] in DONE
    assert outcomes.count("produced") <= 1
    pipeline.run("third")
    report = pipeline.check()
    assert report.ok, report.summary()
    assert report.read == 200


def test_batch_that_was_overtaken_says_so(pipeline: Pipeline) -> None:
    """A group in the middle of a batch fails its publish, by name, and nothing of it becomes visible."""
    pipeline.produce([message(n) for n in range(100)])
    [whole] = pipeline.claim("whole")
    overtaken = pipeline.stage(whole)
    [part] = pipeline.claim("part", max_messages=40)
    pipeline.publish(pipeline.stage(part))
    with pytest.raises(OffsetsMoved, match=r"moved by somebody else.*partition 0: batch 0 to 25, group at 10"):
        pipeline.publish(overtaken)
    pipeline.run("rest")
    report = pipeline.check()
    assert report.ok, report.summary()


def assert_no_open_transaction(pipeline: Pipeline) -> None:
    """The last stable offset comes to the log's end: an abort, too, returns before its markers are there."""
    with pipeline.resources() as r:
        assert await_stable(r.clients, r.settings.kafka.output_topic) == {}


@pytest.mark.parametrize("how", ["wait", "timeout"], ids=["stopped-from-the-ui", "execution-timeout"])
def test_stopped_publish_aborts_its_transaction_and_ends(pipeline: Pipeline, staged: Drained, how: str) -> None:
    """SIGTERM, as a stop from the UI sends it, or Airflow's timeout: the transaction is ended, not left to its own."""
    with pipeline.publish_in_process(staged, how) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pipeline.manifest(staged))
        process.stdin.close()
        assert process.stdout.readline() == "waiting\n"
        if how == "wait":
            process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 1  # ended by itself, not killed
    assert_no_open_transaction(pipeline)
    assert pipeline.publish(staged).produced
    report = pipeline.check()
    assert report.ok, report.summary()


def test_claim_ends_what_a_dead_publisher_left_open(pipeline: Pipeline, staged: Drained) -> None:
    """Offsets held back by an open transaction do not hold the next run up until the transaction's timeout."""
    code, _, _ = finish(pipeline.publish_in_process(staged, "after-offsets"), pipeline, staged)
    assert code == -signal.SIGKILL
    start = time.monotonic()
    [again] = pipeline.claim("next")
    assert again.ranges == staged.batch.ranges
    assert time.monotonic() - start < 20  # the transaction's own timeout is 300 s
    pipeline.publish(pipeline.stage(again))
    report = pipeline.check()
    assert report.ok, report.summary()


def test_numbers_that_do_not_add_up_fail_before_the_commit(pipeline: Pipeline, staged: Drained) -> None:
    """A batch that lost a message on its way is not committed."""
    with pipeline.resources() as r:
        batch_id = staged.batch.batch_id
        drain = r.staging.drain_of(batch_id, REFUSED)
        kept = [c.slice(0, 0) for c in r.staging.read(batch_id, REFUSED, drain=drain)]
        with r.staging.write(batch_id, REFUSED, drain) as file:
            for chunk in kept:
                file.write(chunk)
    with pytest.raises(BatchUnbalanced, match=f"read {MESSAGES}, but .* = {MESSAGES - 2}"):
        pipeline.publish(staged)
    assert committed(pipeline) == [0] * PARTITIONS
    assert pipeline.check([OffsetRange(0, 0, 1)]).analytics == 0


def test_files_of_two_drains_are_not_published_together(pipeline: Pipeline, staged: Drained) -> None:
    """A drain that ran again may have read the partitions in another order: what was added before does not fit."""
    pipeline.drain(staged.batch)
    with pytest.raises(StagingMissing, match=r"does not fit to the batch's latest drain.*clear the batch's `drain`"):
        pipeline.publish(staged)
    assert committed(pipeline) == [0] * PARTITIONS
    pipeline.enrich(staged.batch)
    assert pipeline.publish(staged).produced
    report = pipeline.check()
    assert report.ok, report.summary()


def test_batch_of_dead_letters_fails_where_a_ceiling_is_set(make_pipeline: MakePipeline) -> None:
    """Above the configured share of dead letters a batch fails instead: suspect the code or the source."""
    pipeline = make_pipeline(ENRICHMENT_DEAD_LETTER_SHARE_FROM="10")
    pipeline.produce([b"no JSON"] * 6 + [message(1)] * 4)
    [batch] = pipeline.claim()
    with pytest.raises(BatchUnbalanced, match="6 of 10 messages would be dead letters with invalid-json"):
        pipeline.publish(pipeline.stage(batch))
    assert committed(pipeline) == [0] * PARTITIONS


@pytest.mark.parametrize("dead", [[b"no JSON"] * 5, [b"no JSON"] * 3 + [b"[]"] * 4], ids=["at the share", "two causes"])
def test_dead_letters_of_several_causes_do_not_fail_a_batch(make_pipeline: MakePipeline, dead: list[bytes]) -> None:
    """Only one cause for more than the share is suspicious: senders make different mistakes."""
    pipeline = make_pipeline(ENRICHMENT_DEAD_LETTER_SHARE_FROM="10")
    pipeline.produce(dead + [message(1)] * (10 - len(dead)))
    assert pipeline.run()[0].counts.dead == len(dead)


def test_dead_letters_of_a_small_batch_do_not_fail_it(pipeline: Pipeline) -> None:
    """A few messages of junk are dead letters, and stop nothing."""
    pipeline.produce([b"no JSON"] * 20)
    assert pipeline.run()[0].counts.dead == 20


@pytest.mark.parametrize("suspected_from", ["1", "3"])
def test_flood_of_junk_does_not_stop_the_topic(make_pipeline: MakePipeline, suspected_from: str) -> None:
    """Batches of junk fail and shrink until they are too small to be suspected, or a message stands alone: then they
    are let through, and what comes behind them is enriched."""
    pipeline = make_pipeline(ENRICHMENT_DEAD_LETTER_SHARE_FROM=suspected_from, KAFKA_BATCH_SIZE="64")
    pipeline.produce([b"no JSON"] * 12, partition=0)
    pipeline.produce([message(n) for n in range(8)], partition=0)
    failed = 0
    for run in range(60):
        for batch in pipeline.claim(f"run-{run}"):
            try:
                with pipeline.resources() as r, timed_stage(r, batch.batch_id, "publish"):
                    drained = pipeline.stage(batch)
                    published = pipeline.publish(drained)
                    record(r.ledger, drained, published)
            except BatchUnbalanced:
                failed += 1
    report = pipeline.check()
    assert report.ok, report.summary()
    assert (report.analytics, report.dead) == (8, 12)
    assert failed > 0


def test_each_stage_may_run_again_after_success(pipeline: Pipeline, staged: Drained) -> None:
    """Clearing and re-running any task of a published batch changes nothing outside."""
    pipeline.publish(staged)
    [claimed] = pipeline.claim()
    assert claimed.ranges == staged.batch.ranges
    again = pipeline.drain(claimed)
    assert again == staged
    pipeline.enrich(again.batch)
    assert not pipeline.publish(again).produced
    report = pipeline.check()
    assert report.ok, report.summary()


def test_publish_without_staged_files_says_what_to_clear(pipeline: Pipeline, staged: Drained) -> None:
    """A publish that is cleared alone after the clean-up names what else to clear, and commits nothing."""
    with pipeline.resources() as r:
        r.staging.remove(staged.batch.batch_id)
    with pytest.raises(StagingMissing, match="clear the batch's `drain` task"):
        pipeline.publish(staged)
    assert committed(pipeline) == [0] * PARTITIONS


def test_dry_run_publishes_and_commits_nothing(pipeline: Pipeline) -> None:
    """A dry run counts what it would have done; the next run reads the same messages."""
    pipeline.produce([message(n) for n in range(50)])
    [published] = pipeline.run("dry", dry_run=True)
    assert (published.produced, published.counts.total) == (False, 50)
    assert committed(pipeline) == [None] * PARTITIONS
    assert pipeline.check([]).foreign == 0
    assert pipeline.run("real")[0].produced


def test_dry_run_after_the_minutes_own_run_has_messages_all_the_same(pipeline: Pipeline) -> None:
    """It takes as many of the last ones as it was asked for, published or not, and changes nothing; by itself it takes
    what waits, or the last ones where nothing does."""
    pipeline.produce([message(n) for n in range(50)])
    pipeline.run("real")
    at = committed(pipeline)
    for run_id, asked, counted in (("ten", 10, 10), ("all", 80, 50), ("some", None, 50)):
        [published] = pipeline.run(run_id, dry_run=True, max_messages=asked)
        assert (published.produced, published.counts.total) == (False, counted)
    pipeline.produce([message(n) for n in range(4)])
    for run_id, asked, counted in (("more", 10, 10), ("waiting", None, 4)):
        assert pipeline.run(run_id, dry_run=True, max_messages=asked)[0].counts.total == counted
    assert committed(pipeline) == at
    [published] = pipeline.run("next")
    assert published.counts.total == 4
    report = pipeline.check()
    assert report.ok, report.summary()


def test_ledger_row_of_a_published_batch_is_complete(pipeline: Pipeline, staged: Drained) -> None:
    """Ranges, counts and settings of a batch are in `enrichment_jobs`."""
    published = pipeline.publish(staged)
    with pipeline.resources() as r:
        record(r.ledger, staged, published, durations={"publish": 1.5}, source_builds={"geo": "GeoLite2-City-1"})
        job = r.ledger.get(staged.batch.batch_id)
    assert job is not None
    assert (job.state, job.ranges) == (JobState.PUBLISHED, staged.batch.ranges)
    assert (
        job.messages_read
        == MESSAGES
        == (job.messages_enriched or 0) + (job.messages_partial or 0) + (job.messages_dead or 0)
    )
    assert job.source_builds["geo"].startswith("GeoLite2-City-")


def test_process_that_publishes_says_what_it_did(pipeline: Pipeline, staged: Drained) -> None:
    """The process that the tests above kill works when nobody kills it."""
    code, out, err = finish(pipeline.publish_in_process(staged), pipeline, staged)
    assert code == 0, err
    assert msgspec.json.decode(out, type=Published).produced


def test_two_lanes_are_published_side_by_side(make_pipeline: MakePipeline) -> None:
    """One batch per lane, each with its own partitions and transactional id."""
    pipeline = make_pipeline(KAFKA_LANES="2")
    pipeline.produce([message(n) for n in range(200)])
    drained = [pipeline.stage(batch) for batch in pipeline.claim()]
    assert [[r.partition for r in d.batch.ranges] for d in drained] == [[0, 2], [1, 3]]
    with ThreadPoolExecutor(2) as pool:
        assert all(p.produced for p in pool.map(pipeline.publish, drained))
    report = pipeline.check()
    assert report.ok, report.summary()


def test_refused_chunk_without_messages_is_balanced(pipeline: Pipeline) -> None:
    """A batch whose chunks hold nothing refused, or nothing else, is published like any other."""
    pipeline.produce([b"x"] * 60, partition=0)
    pipeline.produce([message(n) for n in range(60)], partition=1)
    [published] = pipeline.run()
    assert (published.counts.dead, published.counts.total) == (60, 120)
    report = pipeline.check()
    assert report.ok, report.summary()
