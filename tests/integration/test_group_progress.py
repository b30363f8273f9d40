"""A group that is ahead of what was published, a log that ends before it, a topic made anew: nothing is skipped in
silence, and each way to go on is a command."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from enrichment.batch import OffsetRange
from enrichment.batches.staged import Published
from enrichment.errors import ChangeRefused, OffsetsLost, OffsetsMoved, RunRefused, SettingsError
from enrichment.group.accept import accept_offsets
from enrichment.group.progress import find_progress
from enrichment.kafka.offsets import committed_offsets
from enrichment.store.positions import MoveReason, RecordedMove
from tests.fixtures.kafka import MakeTopic, make_anew
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message

PLUGINS = Path(__file__).parents[2] / "plugins"


def send(pipeline: Pipeline, count: int, partition: int = 0) -> None:
    """Put messages into one partition."""
    pipeline.produce([message(n) for n in range(count)], partition=partition)


def run(pipeline: Pipeline, run_id: str, **how: object) -> list[Published]:
    """A whole run, recorded."""
    return [pipeline.finish(pipeline.stage(batch)) for batch in pipeline.claim(run_id, **how)]


def move(pipeline: Pipeline, offset: int, partition: int = 0) -> None:
    """Move the group, as a tool does."""
    with pipeline.resources() as r, r.clients.offsets_reader() as reader:
        reader.commit(offsets=[TopicPartition(pipeline.input_topic, partition, offset)], asynchronous=False)


def group_at(pipeline: Pipeline) -> list[int | None]:
    """Where the group is."""
    with pipeline.resources() as r, r.clients.offsets_reader() as reader:
        return list(committed_offsets(reader, pipeline.input_topic, range(PARTITIONS), 20).values())


def moves(pipeline: Pipeline) -> list[RecordedMove]:
    """How the group was moved other than by publishing."""
    with pipeline.resources() as r:
        kafka = r.settings.kafka
        return r.ledger.positions.moves(kafka.input_topic, kafka.consumer_group)


def accept(pipeline: Pipeline, offsets: dict[int, int]) -> None:
    """Have draining go on there, as the command does."""
    with pipeline.resources() as r:
        accept_offsets(r.clients, r.ledger.positions, offsets)


def run_command(text: str, pipeline: Pipeline) -> str:
    """A command of an error, as a person runs it, with the database's address filled in."""
    [line] = [line for line in text.splitlines() if line.startswith("python -m")]
    command = [sys.executable, *shlex.split(line.replace("<address>", shlex.quote(pipeline.dsn)))[1:]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
    ended = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": str(PLUGINS)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def way(refused: pytest.ExceptionInfo[OffsetsMoved], beginning: str) -> str:
    """The part of a refusal that is about one way to go on."""
    parts = str(refused.value).split("\nto ")
    [found] = [part for part in parts if part.startswith(beginning)]
    return found


def published_once(pipeline: Pipeline, *ranges: OffsetRange, others: int = 0) -> None:
    """Exactly these ranges were published, and so many messages that have left the log by now."""
    report = pipeline.check(ranges)
    assert report.ok, report.summary()
    assert (report.foreign, report.read) == (others, sum(r.span for r in ranges))


@pytest.mark.parametrize("waits", [0, 10], ids=["past the end", "within the log"])
def test_group_ahead_of_what_was_published_is_refused(pipeline: Pipeline, waits: int) -> None:
    """Published to 2, group set to 9, then ten messages sent: a claim refuses by name, whether the log has come to 9
    or not, and all of them are published once the group is where it was."""
    send(pipeline, 2)
    run(pipeline, "first")
    move(pipeline, 9)
    send(pipeline, waits)
    with pytest.raises(OffsetsMoved, match=r"not where it has published to .*partition 0: at 9, published to 2"):
        pipeline.claim("second")
    send(pipeline, 10 - waits)
    move(pipeline, 2)
    run(pipeline, "third")
    published_once(pipeline, OffsetRange(0, 0, 12))
    assert moves(pipeline) == []


def test_claim_looks_at_the_messages_around_the_group(pipeline: Pipeline) -> None:
    """What was published last and what waits first are both seen, though a transaction's marker stands between them,
    and what has left the log is not; of partitions where nothing waits, nothing is read."""
    settings = {"bootstrap.servers": pipeline.bootstrap_servers, "transactional.id": f"odd-{pipeline.input_topic}"}
    producer = Producer(settings)
    producer.init_transactions(20)
    for sent in (1, 2):
        producer.begin_transaction()
        for number in range(2):
            producer.produce(pipeline.input_topic, message(number), b"k", 0, timestamp=sent * 1000 + number)
        producer.commit_transaction(20)
        if sent == 1:
            run(pipeline, "first")
    producer.close()

    def seen(*, needs_first: bool = False) -> dict[tuple[int, int], int]:
        with pipeline.resources() as r:
            found = find_progress(r.clients, r.ledger.positions, dry_run=True, needs_first=lambda: needs_first).seen
        return {position: tail.timestamp for position, tail in found.items()}

    assert seen() == seen(needs_first=True) == {(0, 1): 1001, (0, 3): 2000}
    expired = TopicPartition(pipeline.input_topic, 0, 3)
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers})
    admin.delete_records([expired])[expired].result()
    assert (seen(), seen(needs_first=True)) == ({}, {(0, 3): 2000})  # nothing to compare the first one with
    run(pipeline, "second")
    assert seen(needs_first=True) == {}


def test_group_that_moves_while_a_batch_is_on_its_way_has_not_published_it(pipeline: Pipeline) -> None:
    """A group that somebody moves to the end of a batch, or past it, is no proof that the batch was published: it is
    not recorded as if it were."""
    send(pipeline, 8)
    [batch] = pipeline.claim("first", max_messages=5)
    drained = pipeline.stage(batch)
    for moved in (5, 8):
        move(pipeline, moved)
        with pytest.raises(OffsetsMoved, match=f"batch 0 to 5, group at {moved}"):
            pipeline.publish(drained)
    with pytest.raises(OffsetsMoved, match="partition 0: at 8, published to 0"):
        pipeline.claim("second")
    move(pipeline, 0)
    assert pipeline.finish(drained).produced
    run(pipeline, "third")
    published_once(pipeline, OffsetRange(0, 0, 8))


def test_partition_that_was_quiet_is_watched_too(pipeline: Pipeline) -> None:
    """A group that is set to the end of a partition of which nothing was published yet leaves its messages out."""
    send(pipeline, 2)
    run(pipeline, "first", partitions=[0])
    send(pipeline, 5, partition=3)
    move(pipeline, 5, partition=3)
    with pytest.raises(OffsetsMoved, match="partition 3: at 5, published to 0"):
        pipeline.claim("second")


def test_skip_is_a_command_and_is_kept(pipeline: Pipeline) -> None:
    """Whoever wants to leave messages out runs the command that the refusal has; it counts once, and is recorded."""
    send(pipeline, 2)
    run(pipeline, "first")
    send(pipeline, 10)
    move(pipeline, 9)
    with pytest.raises(OffsetsMoved) as refused:
        pipeline.claim("second")
    said = run_command(way(refused, "go on where the group is"), pipeline)
    assert said == "partition 0: from 9 to 9, 7 offsets left out\n"
    run(pipeline, "third")
    published_once(pipeline, OffsetRange(0, 0, 2), OffsetRange(0, 9, 12))
    [kept] = moves(pipeline)
    assert (kept.published_to, kept.moved_to, kept.skipped, kept.reason) == (2, 9, 7, MoveReason.ACCEPTED)
    send(pipeline, 10)
    move(pipeline, 20)
    with pytest.raises(OffsetsMoved, match="partition 0: at 20, published to 12"):
        pipeline.claim("fourth")


def test_group_that_is_sent_back_publishes_again(pipeline: Pipeline) -> None:
    """Going back is a choice, too: what is published again then goes out, and draining goes on from there."""
    send(pipeline, 6)
    run(pipeline, "first")
    accept(pipeline, {0: 4})
    send(pipeline, 1)
    [published] = run(pipeline, "second")
    assert published.counts.total == 3
    assert group_at(pipeline)[0] == 7
    assert [(m.published_to, m.moved_to, m.skipped) for m in moves(pipeline)] == [(6, 4, 0)]


def test_batch_that_is_on_its_way_is_fenced_by_the_command(pipeline: Pipeline) -> None:
    """A batch that was claimed before the group was moved is not published, nor recorded as if it were."""
    send(pipeline, 6)
    [batch] = pipeline.claim("first")
    drained = pipeline.stage(batch)
    accept(pipeline, {0: 6})
    with pytest.raises(OffsetsMoved, match="batch 0 to 6, group at 6"):
        pipeline.publish(drained)
    assert pipeline.claim("second") == []
    assert [m.skipped for m in moves(pipeline)] == [6]


@pytest.mark.parametrize("offset", [-1, 7, 1000])
def test_command_refuses_what_the_log_does_not_have(pipeline: Pipeline, offset: int) -> None:
    """An offset outside of the log is a mistake: nothing is changed."""
    send(pipeline, 6)
    with pytest.raises(ChangeRefused, match=f"partition 0: {offset} .the log has 0 to 6"):
        accept(pipeline, {0: offset})
    assert group_at(pipeline)[0] is None
    assert moves(pipeline) == []


@pytest.mark.parametrize("failed", [False, True], ids=["under way", "failed before"])
@pytest.mark.parametrize("earlier", [0, 5], ids=["first batch", "later batch"])
def test_group_that_is_deleted_between_publication_and_record_doubles_nothing(
    pipeline: Pipeline, earlier: int, *, failed: bool
) -> None:
    """Its stamp is gone with it, and the ledger does not know: neither another try of the batch nor another claim
    publishes again, and the claim names the batch that may be published."""
    if earlier:
        send(pipeline, earlier)
        run(pipeline, "earlier")
    send(pipeline, 5)
    [batch] = pipeline.claim("first")
    drained = pipeline.stage(batch)
    if failed:
        with pipeline.resources() as r:
            r.ledger.failed(batch.batch_id, "an earlier try of publish")
    pipeline.publish(drained)
    pipeline.forget_group(batch.group_id)
    with pytest.raises(OffsetsMoved, match="group at None"):
        pipeline.publish(drained)
    with pytest.raises(OffsetsMoved, match="It is unknown whether dag/first/0 had been published"):
        pipeline.claim("second")
    accept(pipeline, {0: earlier + 5})
    send(pipeline, 5)
    run(pipeline, "third")
    published_once(pipeline, OffsetRange(0, 0, earlier + 10))


def test_batch_that_others_published_is_not_published_again_once_the_group_is_deleted(pipeline: Pipeline) -> None:
    """Two runs have the same offsets; the group is deleted between their publications."""
    send(pipeline, 5)
    run(pipeline, "earlier")
    send(pipeline, 5)
    drained = [pipeline.stage(batch) for run_id in ("first", "second") for batch in pipeline.claim(run_id)]
    pipeline.finish(drained[1])
    pipeline.forget_group(drained[0].batch.group_id)
    with pytest.raises(OffsetsMoved, match="group at None"):
        pipeline.publish(drained[0])
    published_once(pipeline, OffsetRange(0, 0, 10))


def test_group_of_an_empty_log_is_not_held_up_by_a_batch_that_another_one_published(pipeline: Pipeline) -> None:
    """A run dies, the next one publishes the same messages; then the topic is idle until group and log have expired."""
    send(pipeline, 5)
    [died] = pipeline.claim("died")
    run(pipeline, "next")
    expired = TopicPartition(pipeline.input_topic, 0, 5)
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers})
    admin.delete_records([expired])[expired].result()
    pipeline.forget_group(died.group_id)
    assert pipeline.claim("idle") == []


def anew(pipeline: Pipeline, count: int) -> None:
    """Delete the input topic, make it anew and put messages into it."""
    make_anew(pipeline.bootstrap_servers, pipeline.input_topic, PARTITIONS, max_message_bytes="4194304")
    send(pipeline, count)


@pytest.mark.parametrize(("before", "after"), [(3, 8), (8, 3), (5, 5)], ids=["more", "less", "as many"])
def test_topic_that_was_made_anew_is_recognised(pipeline: Pipeline, before: int, after: int) -> None:
    """Its offsets are others: where the old one was published to would skip messages of the new one. The command starts
    it at its beginning, and all of it is published."""
    send(pipeline, before)
    run(pipeline, "first")
    anew(pipeline, after)
    with pytest.raises(OffsetsMoved, match=rf"at None, published to {before}, .* recreated") as refused:
        pipeline.claim("second")
    assert "--to-offset" not in str(refused.value)
    run_command(way(refused, "start at the log's beginning"), pipeline)
    [published] = run(pipeline, "third")
    assert (published.counts.total, group_at(pipeline)[0]) == (after, after)
    assert pipeline.claim("fourth") == []
    assert [(m.partition, m.skipped) for m in moves(pipeline)] == [(p, 0) for p in range(PARTITIONS)]


@pytest.mark.parametrize("when", ["before it is read", "before it is published", "accepted", "published"])
def test_batch_of_a_topic_that_was_made_anew_publishes_nothing(pipeline: Pipeline, when: str) -> None:
    """It was claimed of the old topic, whose messages are gone or, read already, have the offsets of other ones: it is
    neither published nor taken for published, and the new topic is published once."""
    send(pipeline, 5)
    [batch] = pipeline.claim("first")
    drained = None if when == "before it is read" else pipeline.stage(batch)
    anew(pipeline, 8)
    if when in ("accepted", "published"):
        accept(pipeline, dict.fromkeys(range(PARTITIONS), 0))
    if when == "published":
        run(pipeline, "second")
    with pytest.raises(OffsetsMoved, match="recreated while batch dag/first/0 was running"):
        pipeline.finish(drained or pipeline.stage(batch))
    with pipeline.resources() as r:
        job = r.ledger.get(batch.batch_id)
    assert job is not None
    assert not job.is_published
    if when not in ("accepted", "published"):
        accept(pipeline, dict.fromkeys(range(PARTITIONS), 0))
    run(pipeline, "third")
    published_once(pipeline, OffsetRange(0, 0, 8))


def test_publication_that_was_not_recorded_is_known_by_its_stamp(pipeline: Pipeline) -> None:
    """A publisher that died between its commit and the ledger, however often: the next claim goes on behind it."""
    for number in range(3):
        send(pipeline, 5)
        pipeline.run(f"run-{number}")
    published_once(pipeline, OffsetRange(0, 0, 15))


@pytest.mark.parametrize("lost", ["enrichment_positions", "enrichment_jobs, enrichment_positions, enrichment_lanes"])
def test_ledger_that_is_new_or_restored_refuses_nothing(pipeline: Pipeline, lost: str) -> None:
    """Without a ledger the group goes on from where it is, and from then on it is watched again."""
    send(pipeline, 5)
    run(pipeline, "first")
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute(f"TRUNCATE {lost} CASCADE".encode())
    send(pipeline, 5)
    run(pipeline, "second")
    published_once(pipeline, OffsetRange(0, 0, 10))
    move(pipeline, 0)
    with pytest.raises(OffsetsMoved, match="partition 0: at 0, published to 10"):
        pipeline.claim("third")


def test_ledger_that_is_behind_the_group_refuses_nothing(pipeline: Pipeline) -> None:
    """A database that was restored from a backup knows an earlier position; the group's stamp is later."""
    send(pipeline, 5)
    run(pipeline, "first")
    with pipeline.resources() as r:
        kafka = r.settings.kafka
        backup = r.ledger.positions.get(kafka.input_topic, kafka.consumer_group)
    send(pipeline, 5)
    run(pipeline, "second")
    with pipeline.resources() as r:
        offsets = {p: position.next_offset for p, position in backup.items()}
        r.ledger.positions.put(kafka.input_topic, kafka.consumer_group, backup[0].topic_id, offsets)
    send(pipeline, 5)
    run(pipeline, "third")
    published_once(pipeline, OffsetRange(0, 0, 15))


def test_group_that_is_set_before_its_first_claim_is_not_refused(pipeline: Pipeline) -> None:
    """A stream that is to begin at the present: whoever sets the group before the first run means it, dry runs or not,
    also for partitions that the first run does not take."""
    send(pipeline, 5)
    send(pipeline, 5, partition=1)
    run(pipeline, "dry", dry_run=True)
    move(pipeline, 3)
    move(pipeline, 4, partition=1)
    run(pipeline, "first", partitions=[0])
    run(pipeline, "second")
    published_once(pipeline, OffsetRange(0, 3, 5), OffsetRange(1, 4, 5))
    assert moves(pipeline) == []


def test_partition_that_is_added_is_drained_from_its_start(pipeline: Pipeline) -> None:
    """A topic that grows is no topic that was made anew."""
    send(pipeline, 5)
    run(pipeline, "first")
    grow(pipeline, PARTITIONS + 1)
    send(pipeline, 5, partition=PARTITIONS)
    run(pipeline, "second")
    published_once(pipeline, OffsetRange(0, 0, 5), OffsetRange(PARTITIONS, 0, 5))


def grow(pipeline: Pipeline, partitions: int) -> None:
    """Add partitions to the input topic."""
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers})
    admin.create_partitions([NewPartitions(pipeline.input_topic, partitions)])[pipeline.input_topic].result()
    while len(admin.list_topics(pipeline.input_topic, timeout=10).topics[pipeline.input_topic].partitions) < partitions:
        time.sleep(0.1)


def lose(pipeline: Pipeline, before: int) -> None:
    """Let the log of partition 0 start at an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": pipeline.bootstrap_servers})
    for deleted in admin.delete_records([TopicPartition(pipeline.input_topic, 0, before)]).values():
        deleted.result()


def test_lost_offsets_that_the_policy_passes_are_kept(make_pipeline: MakePipeline) -> None:
    """With the policy `earliest` the group is moved by the claim, which says so in the ledger; a dry run moves nothing,
    and the next claim knows."""
    pipeline = make_pipeline(KAFKA_OFFSETS_LOST_POLICY="earliest")
    send(pipeline, 10)
    run(pipeline, "first", max_messages=2)
    lose(pipeline, 7)
    [dry] = run(pipeline, "dry", dry_run=True)
    assert (dry.counts.total, group_at(pipeline)[0], moves(pipeline)) == (3, 2, [])
    run(pipeline, "second", max_messages=1)
    run(pipeline, "third")
    assert [(m.moved_to, m.skipped, m.reason) for m in moves(pipeline)] == [(7, 5, MoveReason.LOST)]
    published_once(pipeline, OffsetRange(0, 7, 10), others=2)


def test_lost_offsets_can_be_passed_once(pipeline: Pipeline) -> None:
    """Without the policy, the command moves the group over what is lost: this time, and in view."""
    send(pipeline, 10)
    run(pipeline, "first", max_messages=2)
    lose(pipeline, 7)
    with pytest.raises(OffsetsLost, match=r"5 unread offsets.*accept-offsets.* 0=7"):
        pipeline.claim("second")
    accept(pipeline, {0: 7})
    run(pipeline, "third")
    published_once(pipeline, OffsetRange(0, 7, 10), others=2)
    assert [m.skipped for m in moves(pipeline)] == [5]


def test_messages_that_expire_before_the_first_publication_are_not_passed(pipeline: Pipeline) -> None:
    """A group without an offset starts where its first claim found the log's start, not where it is by now."""
    send(pipeline, 10)
    pipeline.claim("first")  # and it fails for good
    lose(pipeline, 7)
    with pytest.raises(OffsetsLost, match=r"committed 0, log starts at 7"):
        pipeline.claim("second")


@pytest.mark.parametrize("partitions", [None, [], [0, 1, 2, 3], [1, 1, 0, 2, 3]])
def test_no_partitions_are_all(pipeline: Pipeline, partitions: Sequence[int] | None) -> None:
    """`{"partitions": []}` is what the form calls empty: all."""
    for partition in range(PARTITIONS):
        send(pipeline, 1, partition)
    [batch] = pipeline.claim("first", partitions=partitions)
    assert [r.partition for r in batch.ranges] == list(range(PARTITIONS))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"partitions": [0, 9]}, r"no partitions \[9\]; it has 0 to 3"),
        ({"partitions": [-1]}, r"no partitions \[-1\]"),
        ({"max_messages": 0}, "max_messages=0"),
        ({"max_messages": -5}, "max_messages=-5"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(pipeline: Pipeline, how: dict[str, object], said: str) -> None:
    """By name, and with what there is; nothing is claimed."""
    send(pipeline, 3)
    with pytest.raises(RunRefused, match=said):
        pipeline.claim("first", **how)
    assert len(pipeline.claim("second")) == 1


def test_topic_that_is_not_there_is_named(make_pipeline: MakePipeline, topic: MakeTopic) -> None:
    """With the variable that names it."""
    pipeline = make_pipeline(KAFKA_INPUT_TOPIC="never-made")
    with pytest.raises(SettingsError, match="KAFKA_INPUT_TOPIC='never-made': the brokers have no such topic"):
        pipeline.claim("first")


def test_status_says_where_the_group_is(pipeline: Pipeline) -> None:
    """Before and after an incident: the log, the group, what is recorded, and how it was moved."""
    send(pipeline, 6)
    run(pipeline, "first")
    accept(pipeline, {0: 4})
    said = run_command(
        f"python -m enrichment.group status --bootstrap-servers {pipeline.bootstrap_servers} --database <address> "
        f"--topic {pipeline.input_topic} --group {pipeline.environment['KAFKA_CONSUMER_GROUP']}",
        pipeline,
    ).splitlines()
    assert "lanes: 1" in said[0]
    assert said[1].startswith("partition 0: log 0 to 6, group at 4, recorded 4 (topic id ")
    assert said[-1].endswith("partition 0 from 6 to 4, 0 offsets left out")


def test_batch_that_was_passed_over_is_not_recorded_as_published(make_pipeline: MakePipeline) -> None:
    """Somebody accepts that its messages are left out while it is on its way, and later ones are published: its own
    publish, cleared, does not take that for its own success. One that was published before the move is completed."""
    pipeline = make_pipeline()
    send(pipeline, 10)
    [early] = [pipeline.stage(batch) for batch in pipeline.claim("early", max_messages=2)]
    published = pipeline.publish(early)
    [passed] = [pipeline.stage(batch) for batch in pipeline.claim("passed", max_messages=3)]
    accept(pipeline, {0: 6})
    run(pipeline, "later")
    with pytest.raises(OffsetsMoved, match="because somebody moved it there"):
        pipeline.finish(passed)
    assert published.produced
    assert not pipeline.finish(early).produced
    with pipeline.resources() as r:
        states = {
            name: job.is_published for name in ("early", "passed", "later") if (job := r.ledger.get(f"dag/{name}/0"))
        }
    assert states == {"early": True, "passed": False, "later": True}
