"""Replays on the real Kafka: each message of a window once, whatever the order of its times, and nobody else moved."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from msgspec import to_builtins

from enrichment.batch import OffsetRange, ReplayWindow
from enrichment.conservation.committed import log_ranges, read
from enrichment.errors import OffsetsMoved, ReplayRefused, WindowLost
from enrichment.kafka.offsets import read_settled_backlog
from enrichment.messages import HEADER_REPLAY
from enrichment.replay import replay, report, turns
from enrichment.settings import load
from tests.fixtures.origins import publish_as_before
from tests.fixtures.pipeline import PARTITIONS, message
from tests.fixtures.replayer import HOUR, START, Replayer


def test_each_message_is_of_one_window_whatever_the_order_of_times(make_replayer: Callable[..., Replayer]) -> None:
    """Times in no order, stragglers at the end, messages on both edges: the windows share none and drop none, and the
    live group stays where it is."""
    replayer = make_replayer(KAFKA_LANES="2")
    generator = random.Random(4)
    times = [generator.randrange(START - HOUR, START + 4 * HOUR) for _ in range(900)]
    edges = [START + hour * HOUR + off for hour in range(4) for off in (-1, 0, 1, HOUR - 1, HOUR)]
    replayer.produce([*times, *edges, START + 5 * HOUR, START + 7, START + 3 * HOUR])
    assert len(replayer.plan(0)[1]) >= 4
    replayer.replay(0, 2, 1, 3)
    report = replayer.check(0, 4)
    assert report.ok, report.summary()
    assert report.read == len(
        [at for at in [*times, *edges, START + 7, START + 3 * HOUR] if START <= at < START + 4 * HOUR]
    )
    for hour in range(4):
        assert replayer.check(hour).ok
    assert [b.committed for b in backlog(replayer)] == [None] * PARTITIONS
    assert {dict(m.headers())[HEADER_REPLAY] for m in replayer.replayed()} == {b"again"}


def backlog(replayer: Replayer) -> list[Any]:
    """Where the live group is."""
    with replayer.pipeline.resources() as r:
        return read_settled_backlog(r.clients)


def test_window_is_published_once_whoever_replays_it_again(replayer: Replayer) -> None:
    """A repeated plan gives the same batches, a repeated batch publishes nothing, a finished window has none left; a
    message that came later changes nothing."""
    replayer.produce([START + n for n in range(200)])
    _, first = replayer.plan()
    replayer.run(first[0])
    replayer.run(first[1], dies=True)
    replayer.produce([START + 5] * 40)
    _, again = replayer.plan(run_id="another")
    assert again == first
    assert not any(replayer.run(batch).produced for batch in first[:2])
    for batch in again[2:]:
        assert replayer.run(batch).produced
    replayer.replay(0)
    assert replayer.plan()[1] == []
    assert len(replayer.replayed()) == 200
    assert sum(replayer.replay(0, replay_id="third")["counts"].values()) == 240
    assert replayer.check(replay_id="third").ok


def test_batch_before_its_turn_publishes_nothing(replayer: Replayer) -> None:
    """The batches of a lane are published in their order: one that overtakes waits, or fails and leaves no trace."""
    replayer.produce([START + n for n in range(200)], partition=0)
    _, batches = replayer.plan()
    with replayer.pipeline.resources() as r:
        assert [turns.is_next(r.clients, r.ledger, batch) for batch in batches[:2]] == [True, False]
    drained = replayer.pipeline.stage(batches[1])
    with pytest.raises(OffsetsMoved):
        replayer.pipeline.publish(drained)
    for batch in batches:
        replayer.run(batch)
    report = replayer.check()
    assert report.ok, report.summary()


def test_window_that_is_given_up_by_hand_stays_as_it_is(replayer: Replayer) -> None:
    """As the guide says: its batches that are published stay, the others never come, whoever replays it again."""
    replayer.produce([START + n for n in range(200)])
    _, batches = replayer.plan()
    replayer.run(batches[0])
    published = len(replayer.replayed())
    with psycopg.connect(replayer.pipeline.dsn) as connection:
        connection.execute(
            "UPDATE enrichment_replays SET state = 'finished', finished_at = now() WHERE state = 'claimed'"
        )
    assert replayer.replay(0, run_id="another")["state"] == "finished"
    assert 0 < len(replayer.replayed()) == published < 200


def test_gaps_and_empty_windows_are_normal(replayer: Replayer) -> None:
    """Aborted messages and transaction markers are no messages; a window without any is finished at once."""
    servers, topic = replayer.pipeline.bootstrap_servers, replayer.pipeline.input_topic
    producer = Producer({"bootstrap.servers": servers, "transactional.id": f"sender-{topic}"})
    producer.init_transactions(20)
    for number in range(10):
        producer.begin_transaction()
        producer.produce(topic, message(number), b"k", 0, timestamp=START + number % 3 * HOUR)
        producer.flush(20)
        (producer.abort_transaction if number % 2 else producer.commit_transaction)(20)
    producer.close()
    assert [replayer.replay(hour)["selected"] for hour in (0, 1, 2, 3, -1)] == [2, 1, 2, 0, 0]
    report = replayer.check(-1, 5)
    assert report.ok, report.summary()


def test_window_that_left_the_log_says_so(replayer: Replayer) -> None:
    """A window older than the log, or older in part, is refused with where the log begins; what is left of it is
    replayed when that is allowed; later windows do not care."""
    replayer.produce([START + n * HOUR // 10 for n in range(40)], partition=0)
    admin = AdminClient({"bootstrap.servers": replayer.pipeline.bootstrap_servers})
    for deleted in admin.delete_records([TopicPartition(replayer.pipeline.input_topic, 0, 13)]).values():
        deleted.result()
    with pytest.raises(WindowLost, match=r"is older than the log: .*partition 0 begins at .*:18:00.000Z \(offset 13\)"):
        replayer.plan(0, dry_run=True)
    with pytest.raises(WindowLost, match="older than the log in part"):
        replayer.plan(1)
    assert replayer.replay(1, allow_lost=True)["selected"] == 7
    assert "offset 13" in (replayer.plan(1)[0].lost or "")
    assert replayer.replay(2)["lost"] is None
    assert replayer.check(2).ok


def test_dry_run_counts_and_publishes_nothing(replayer: Replayer) -> None:
    """The counts of a dry run are there to be asked for; the window is still to be replayed, also in another way."""
    replayer.produce(
        [START + n * HOUR // 10 for n in range(40)], lambda n: message(n, level="error" if n < 4 else "info")
    )
    counted, batches = replayer.plan(dry_run=True, levels=("error",))
    assert (counted.messages, counted.selected, batches, replayer.replayed()) == (10, 4, [], [])
    with replayer.pipeline.resources() as r:
        said = report.report(r.clients, r.ledger, r.replays, counted.purpose)
    assert (said["state"], said["messages"], said["selected"]) == ("counted", 10, 4)
    assert replayer.replay(0)["selected"] == 10


def test_filters_of_service_and_level_take_no_other_message(replayer: Replayer) -> None:
    """Only messages of the services and levels named; one that cannot be read has neither."""

    def value(n: int) -> bytes | None:
        odd = {3: b"no json", 5: None, 6: b"[1]", 7: b'{"service": 1, "level": {}}'}
        return odd.get(n, message(n, service=f"s{n % 3}", level="error" if n % 2 else "info"))

    replayer.produce([START + n for n in range(120)], value)
    said = replayer.replay(0, services=("s1", "s2"), levels=("error",))

    def wanted(m: Any) -> bool:
        n = int(m.key()[1:])
        return n not in (3, 5, 6, 7) and n % 3 > 0 and n % 2 == 1

    report = replayer.check(wanted=wanted)
    assert report.ok, report.summary()
    assert report.read == said["selected"] < said["messages"] == 120


def test_filter_of_stored_errors_takes_the_last_word(replayer: Replayer) -> None:
    """Only messages whose last published output names the reason or the source: here the addresses that are none."""
    replayer.produce(
        [START + n for n in range(120)], lambda n: message(n, source_ip="nowhere" if n % 10 == 0 else "8.8.8.8")
    )
    for run in ("one", "two"):
        replayer.pipeline.run(run, max_messages=60)
    correct(replayer, number=20)
    assert replay.reasons_of(["geo-ip"]) == ("geo-ip-lookup-failed", "geo-ip-not-found", "invalid-ip")
    said = replayer.replay(0, errors=replay.reasons_of(["geo-ip"]))
    assert (said["messages"], said["selected"]) == (120, 11)
    report = replayer.check(wanted=lambda m: int(m.key()[1:]) % 10 == 0 and m.key() != b"k20")
    assert report.ok, report.summary()


def test_what_an_earlier_version_has_published_is_compared(replayer: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages are known by the former origin, for the filter of stored errors and for the report."""
    replayer.produce(
        [START + n for n in range(60)], lambda n: message(n, source_ip="nowhere" if n % 10 == 0 else "8.8.8.8")
    )
    with monkeypatch.context() as before:
        publish_as_before(before)
        replayer.pipeline.run()
    said = replayer.replay(0, errors=("invalid-ip",))
    assert (said["messages"], said["selected"], said["differences"]["same"]) == (60, 6, 6)
    report = replayer.check(wanted=lambda m: int(m.key()[1:]) % 10 == 0)
    assert report.ok, report.summary()


def correct(replayer: Replayer, number: int) -> None:
    """Publish another output of a message, without an error."""
    servers, topic = replayer.pipeline.bootstrap_servers, load().kafka.output_topic
    with closing(read(servers, topic, log_ranges(servers, topic))) as outputs:
        [first] = [m for m in outputs if m.key() == b"k%d" % number]
    value = json.loads(first.value() or b"") | {"enrichment_errors": None}
    producer = Producer({"bootstrap.servers": servers})
    producer.produce(
        topic,
        json.dumps(value),
        first.key(),
        first.partition() or 0,
        timestamp=first.timestamp()[1],
        headers=first.headers(),
    )
    assert producer.flush(30) == 0
    producer.close()


def test_report_tells_what_differs_from_what_was_published(replayer: Replayer) -> None:
    """Fields that changed since, counted by field, and what is new: also where the replay goes to the live topic."""

    def value(n: int) -> bytes:
        return b"no json" if n == 0 else message(n, request_id="req-000001" if n == 1 else None)

    replayer.produce([START + n for n in range(60)], value, partition=1)
    replayer.pipeline.run()
    replayer.produce([START + 100], partition=1)
    with psycopg.connect(replayer.pipeline.dsn) as connection:
        connection.execute("TRUNCATE business_context_cache")
        connection.execute("UPDATE demo_requests SET amount = amount + 1000000")
    said = replayer.replay(0)["differences"]
    told = {name: said[name] for name in ("replayed", "same", "changed", "new", "recovered", "died")}
    assert told == {"replayed": 61, "same": 59, "changed": 1, "new": 1, "recovered": 0, "died": 0}
    assert "business_amount" in said["fields"]
    assert set(said["fields"].values()) == {1}
    assert said["examples"][0].startswith("1@1: business_")
    with replayer.pipeline.resources() as r:
        stored = r.replays.get(replayer.pipeline.input_topic, ReplayWindow("again", START, START + HOUR))
    assert stored is not None
    assert stored.differences == said
    live = replayer.replay(0, replay_id="live", output=load().kafka.output_topic)["differences"]
    assert live == said
    assert replayer.replay(0, replay_id="more", output=load().kafka.output_topic)["differences"]["same"] == 61
    report = replayer.pipeline.check([OffsetRange(1, 0, 60)])
    assert report.ok, report.summary()


@pytest.mark.parametrize(("before", "now", "told"), [("geo-ip", "", "recovered"), ("", "geo-ip", "died")])
def test_dead_letters_then_and_now_are_told(
    replayer: Replayer, monkeypatch: pytest.MonkeyPatch, before: str, now: str, told: str
) -> None:
    """A message that was a dead letter and is none any more has recovered; the other way round, it has died."""
    replayer.produce([START + n for n in range(20)], lambda n: message(n, source_ip="nowhere" if n < 5 else "8.8.8.8"))
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", before)
    replayer.pipeline.run()
    monkeypatch.setenv("ENRICHMENT_REQUIRED_SOURCES", now)
    differences = replayer.replay(0)["differences"]
    assert (differences["same"], differences[told]) == (15, 5)
    assert replayer.check().ok


def test_what_cannot_be_replayed_is_refused(replayer: Replayer) -> None:
    """A missing topic, the input as output, other parameters for a window that was taken, an overlapping window: each
    is refused with what to change."""
    replayer.produce([START + n for n in range(10)])
    with pytest.raises(ReplayRefused, match=r"there is no topic nowhere\. Create it .*--partitions 4"):
        replayer.plan(output="nowhere")
    with pytest.raises(ReplayRefused, match="may not go to its input"):
        replayer.plan(output=replayer.pipeline.input_topic)
    kafka, own = load().kafka, load().replay.dlq_topic
    for mixed, what in {kafka.dlq_topic: "KAFKA_DLQ_TOPIC", kafka.redriven_topic: "markers", own: "REPLAY_DLQ"}.items():
        with pytest.raises(ReplayRefused, match=f"may not go to .*{what}"):
            replayer.plan(output=mixed)
    replayer.replay(0)
    with pytest.raises(ReplayRefused, match="with other parameters"):
        replayer.plan(levels=("error",))
    with pytest.raises(ReplayRefused, match="overlap this one"):
        replayer.plan(hours=2)
    assert replayer.plan(hours=2, replay_id="other")[1]
    assert json.dumps(to_builtins(replayer.plan()[0]))
