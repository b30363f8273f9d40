"""Dead letters are sent in again once each, whatever is killed, run twice or run at once; the others stay."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from enrichment.batch import OffsetRange
from enrichment.batches.claim import settle
from enrichment.batches.staged import Drained
from enrichment.conservation.committed import log_ranges, read
from enrichment.dead_letters import markers, redrive
from enrichment.dead_letters.reasons import all_reasons
from enrichment.errors import OffsetsMoved, PublishRefused, RedriveRefused, SettingsError
from enrichment.kafka.topics import await_topics
from enrichment.messages import HEADER_ATTEMPTS, Reason
from enrichment.settings import load
from tests.fixtures.kafka import make_anew
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message
from tests.fixtures.redriven import Redriven

UNKNOWN = 60  # messages whose business context nobody knows
HOPELESS = [b"no JSON", b'{"level": "info"}', None]


@pytest.fixture
def letters(make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch) -> Redriven:
    """A topic of letters: 60 that miss a required source, which is not required any more, and three hopeless ones."""
    pipeline = make_pipeline(KAFKA_CHUNK_SIZE="25", ENRICHMENT_REQUIRED_SOURCES="business-context")
    pipeline.produce([message(n, request_id=f"nobody-{n}") for n in range(UNKNOWN)] + HOPELESS)
    pipeline.run("live")
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "")
    pipeline.environment["ENRICHMENT_REQUIRED_SOURCES"] = ""  # for its processes
    return Redriven(pipeline)


def test_dry_run_counts_by_fingerprint_and_changes_nothing(letters: Redriven) -> None:
    """What is there, grouped by reason and detail, and what would come of it; then a real one still has all to do."""
    [batch], survey = letters.claim("dry", dry_run=True)
    published = letters.pipeline.publish(letters.pipeline.stage(batch))
    assert (published.produced, published.counts.partial, published.counts.dead) == (False, UNKNOWN, 0)
    found = {(g["verdict"], g["reason"], g["detail"]): g["letters"] for g in survey.to_manifest()["groups"]}
    assert found == {
        ("redrive", "business-context-not-found", "the source is required"): UNKNOWN,
        ("left", "invalid-json", "Expecting value: line <n> column <n> (char <n>)"): 1,
        ("left", "missing-field", "required: timestamp, service, message"): 1,
        ("left", "empty-message", "the value is null"): 1,
    }
    assert (survey.scanned, survey.chosen, survey.waiting, survey.left) == (UNKNOWN + 3, UNKNOWN, 0, 3)
    letters.check(analytics=0, dead=UNKNOWN + 3, redriven=0)
    assert letters.run() == (UNKNOWN, 0)


def test_repairable_letters_are_published_and_the_others_stay(letters: Redriven) -> None:
    """Each message of a repairable letter is out once, as it came and with its own origin; a second redrive finds
    nothing."""
    assert letters.run() == (UNKNOWN, 0)
    report = letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)
    assert report.dead_reasons == Counter({Reason.INVALID_JSON: 1, Reason.MISSING_FIELD: 1, Reason.EMPTY_MESSAGE: 1})
    batches, survey = letters.claim("later")
    assert (batches, survey.already_redriven, survey.left) == ([], UNKNOWN, 3)


def test_redrive_has_no_offsets_that_could_expire(letters: Redriven) -> None:
    """Kafka knows nothing of a redrive's group that it could forget: a batch that is published again finds its
    markers."""
    drained = letters.stage()
    assert letters.pipeline.publish(drained).produced
    admin = AdminClient({"bootstrap.servers": letters.pipeline.bootstrap_servers})
    known = {group.group_id for group in admin.list_consumer_groups().result().valid}
    assert redrive.group_of(load().kafka) not in known
    assert not letters.pipeline.publish(drained).produced
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)


def test_letters_between_the_wanted_ones_stay_for_later(letters: Redriven) -> None:
    """A redrive of some letters leaves those in between untouched, and the next one takes exactly them."""
    letters.run("one", source_partition=1)
    letters.run("few", max_letters=7)
    letters.check(analytics=15 + 7, dead=UNKNOWN + 3 - 15 - 7, redriven=15 + 7)
    _, survey = letters.claim("hopeless", reasons=("missing-field",))
    assert (survey.chosen, survey.left) == (1, UNKNOWN + 3 - 15 - 7 - 1)
    letters.run("rest")
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)


def attempts(pipeline: Pipeline) -> Counter[int]:
    """How many enriched messages say that they were tried so often before."""
    topic = load().kafka.output_topic
    outputs = read(pipeline.bootstrap_servers, topic, log_ranges(pipeline.bootstrap_servers, topic))
    return Counter(int(dict(m.headers() or [])[HEADER_ATTEMPTS] or b"0") for m in outputs)


def test_message_that_fails_again_counts_its_tries_until_it_is_parked(
    letters: Redriven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new letter takes the place of the old one, is not met by the redrive that wrote it, and is not sent in for
    ever; whoever allows more tries gets it out."""
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "business-context")
    [batch], _ = letters.claim("first")
    assert letters.pipeline.finish(letters.pipeline.stage(batch)).counts.dead == UNKNOWN
    assert letters.claim("first")[0] == [batch]  # cleared: the same ranges, none of the new letters
    assert not letters.pipeline.publish(letters.pipeline.stage(batch)).produced
    letters.check(analytics=0, dead=UNKNOWN + 3, redriven=UNKNOWN)
    assert letters.run("second") == (0, UNKNOWN)
    batches, survey = letters.claim("third")
    assert (batches, survey.parked) == ([], UNKNOWN)
    assert [g.why for g in survey.groups if g.verdict == "parked"] == ["tried 3 times, 3 at most"]
    letters.check(analytics=0, dead=UNKNOWN + 3, redriven=2 * UNKNOWN)
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "")
    assert letters.run("fourth", max_attempts=4) == (UNKNOWN, 0)
    letters.check(analytics=UNKNOWN, dead=3, redriven=3 * UNKNOWN)
    assert attempts(letters.pipeline) == {3: UNKNOWN}


def test_letters_that_were_chosen_by_hand_are_tried(letters: Redriven) -> None:
    """What is left by default can be named; what is still hopeless is a letter again, as it was."""
    assert letters.run(reasons=all_reasons()) == (UNKNOWN, 3)
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN + 3)


@pytest.mark.parametrize("where", ["mid-transaction", "before-commit"])
def test_redrive_killed_before_its_commit_leaves_the_letters(letters: Redriven, where: str) -> None:
    """`kill -9` with messages and markers on the broker: nothing of it counts, and the retry sends each letter once."""
    staged = letters.stage()
    process = letters.pipeline.publish_in_process(staged, where)
    process.communicate(letters.pipeline.manifest(staged), timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert letters.pipeline.publish(staged).produced
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)


def test_redrive_killed_after_its_commit_is_completed_by_the_retry(letters: Redriven) -> None:
    """A crash between commit and ledger: the batch is known by its markers, whichever of its tasks runs again."""
    staged = letters.stage()
    process = letters.pipeline.publish_in_process(staged, "after-commit")
    process.communicate(letters.pipeline.manifest(staged), timeout=60)
    assert process.returncode == -signal.SIGKILL
    again = letters.pipeline.stage(staged.batch)
    assert again == staged
    published = letters.pipeline.finish(again)
    assert (published.produced, published.counts.partial) == (False, UNKNOWN)
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)


def outcomes(pipeline: Pipeline, staged: Sequence[Drained]) -> list[str]:
    """How each of these publishes ended, all started at once."""

    def outcome(drained: Drained) -> str:
        try:
            return "produced" if pipeline.publish(drained).produced else "done before"
        except (OffsetsMoved, PublishRefused) as refused:
            return type(refused).__name__

    with ThreadPoolExecutor(len(staged)) as pool:
        return list(pool.map(outcome, staged))


def test_same_redrive_twice_at_once_gets_through_once(letters: Redriven) -> None:
    """One of them commits; the others are fenced or find it done."""
    staged = letters.stage()
    ended = outcomes(letters.pipeline, [staged] * 4)
    # All may have fenced each other, one in its commit: whoever tries again alone gets through or finds it done.
    ended += outcomes(letters.pipeline, [staged])
    assert ended.count("produced") <= 1
    assert ended[-1] in ("produced", "done before")
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)


def test_two_redrives_at_once_share_the_letters(letters: Redriven) -> None:
    """Two runs that claimed the same letters: one is overtaken, says by whom, and its cleared drain takes what is
    left."""
    small, large = letters.stage("small", source_partition=2), letters.stage("large")
    outcomes(letters.pipeline, [small, large])
    outcomes(letters.pipeline, [small])  # if they fenced each other, it wins now
    with letters.pipeline.resources() as r:
        [winner] = set(markers.read_markers(r.clients).values())
    [lost] = [drained for drained in (small, large) if drained.batch.batch_id != winner]
    with pytest.raises(OffsetsMoved, match=f"was sent in again by {winner} while batch {lost.batch.batch_id}"):
        letters.pipeline.publish(lost)
    letters.pipeline.finish(letters.pipeline.stage(lost.batch))
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)


def test_redrive_that_was_overtaken_in_all_has_nothing_left_to_do(letters: Redriven) -> None:
    """Every letter was taken by another run: the cleared batch is published, empty."""
    first, second = letters.stage("first"), letters.stage("second")
    letters.pipeline.finish(first)
    with pytest.raises(OffsetsMoved, match="was sent in again by redrive/first/0:0 "):
        letters.pipeline.publish(second)
    assert letters.pipeline.finish(letters.pipeline.stage(second.batch)).counts.total == 0
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)


def test_foreign_messages_among_the_letters_fail_nothing(letters: Redriven) -> None:
    """What is no dead letter is left and reported; it has no part in a batch whose range it stands in."""
    topic = load().kafka.dlq_topic
    producer = Producer({"bootstrap.servers": letters.pipeline.bootstrap_servers})
    for value in (b"hello", None, b'{"original_message": 1}'):
        producer.produce(topic, value, partition=0)
    assert producer.flush(20) == 0
    _, survey = letters.claim("look", dry_run=True)
    assert sum(g.letters for g in survey.groups if g.why.startswith("no dead letter")) == 3
    assert letters.run() == (UNKNOWN, 0)


def test_redrive_refuses_markers_that_could_be_forgotten(letters: Redriven) -> None:
    """Without a topic of markers that keeps them, no letter is sent in: it could be sent in twice."""
    staged = letters.stage()
    admin, topic = AdminClient({"bootstrap.servers": letters.pipeline.bootstrap_servers}), load().kafka.redriven_topic
    admin.delete_topics([topic], operation_timeout=20)[topic].result()
    with pytest.raises(SettingsError, match=r"no topic .*-redriven: create it with cleanup\.policy=compact"):
        letters.claim("other")
    forgetful = NewTopic(topic, 1, config={"cleanup.policy": "delete", "retention.ms": "604800000"})
    admin.create_topics([forgetful], operation_timeout=20)[topic].result()
    await_topics(admin, [topic])
    with pytest.raises(SettingsError, match="forgets"):
        letters.pipeline.publish(staged)
    letters.check(analytics=0, dead=UNKNOWN + 3, redriven=0)


def test_letters_of_a_topic_that_was_made_anew_are_not_taken_for_old_ones(
    letters: Redriven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New letters have the offsets of old ones that are marked: nobody passes them over, and who makes the topic of the
    markers anew, too, gets all of them sent in."""
    letters.run()
    kafka, pipeline = load().kafka, letters.pipeline
    waiting = letters.stage("waiting", reasons=("missing-field",))
    make_anew(pipeline.bootstrap_servers, kafka.dlq_topic, PARTITIONS)
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "business-context")
    before = log_ranges(pipeline.bootstrap_servers, kafka.input_topic)
    pipeline.produce([message(n, request_id=f"nobody-{n}") for n in range(8)])
    pipeline.run("more")
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", "")
    new = [OffsetRange(r.partition, r.end, r.end + 2) for r in before]
    assert pipeline.check(new).dead == 8
    for dry_run in (True, False):
        with pytest.raises(RedriveRefused, match=f"recreated .* {UNKNOWN} markers .* Delete {kafka.redriven_topic}"):
            letters.claim("new", dry_run=dry_run)
    make_anew(pipeline.bootstrap_servers, kafka.redriven_topic, 2, cleanup_policy="compact")
    with pytest.raises(OffsetsMoved, match=f"{kafka.dlq_topic} was deleted and recreated while batch redrive/waiting"):
        pipeline.publish(waiting)
    assert letters.run("new") == (8, 0)
    report = pipeline.check(new)
    assert report.ok, report.summary()
    assert (report.analytics, report.dead) == (8, 0)


def test_redrive_waits_for_a_foreign_transaction_on_the_markers(letters: Redriven) -> None:
    """Markers behind an open transaction cannot be seen: nothing is published until it has ended."""
    staged = letters.stage()
    topic = load().kafka.redriven_topic
    stranger = Producer(
        {"bootstrap.servers": letters.pipeline.bootstrap_servers, "transactional.id": f"{topic}.stranger"}
    )
    stranger.init_transactions(20)
    stranger.begin_transaction()
    stranger.produce(topic, b"", b"0:99999", 0)
    stranger.flush(20)
    with pytest.raises(PublishRefused, match="hides markers"):
        letters.pipeline.publish(staged)
    stranger.abort_transaction(20)
    assert letters.pipeline.publish(staged).produced
    letters.check(analytics=UNKNOWN, dead=3, redriven=UNKNOWN)


def test_ranges_hold_what_was_chosen_and_little_else() -> None:
    """A partition's range goes from its first chosen letter to its last."""
    assert redrive.ranges_over([(2, 5), (0, 3), (2, 9), (0, 4)]) == (OffsetRange(0, 3, 5), OffsetRange(2, 5, 10))
    assert redrive.ranges_over([]) == ()


def test_claim_of_a_stage_cleared_alone(letters: Redriven) -> None:
    """The ledger says what the batch was for, whoever asks later."""
    [batch], _ = letters.claim()
    with letters.pipeline.resources() as r:
        job = r.ledger.get(batch.batch_id)
    assert job is not None
    assert job.batch == batch
    assert settle(job.batch, job) == batch
