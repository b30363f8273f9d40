"""The number of lanes is the group's: with two numbers, two publishers of a partition would not fence each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from enrichment import sql
from enrichment.batch import REPLAY, Batch, OffsetRange, Purpose
from enrichment.batches.publish import route, utc_now
from enrichment.batches.staged import Drained
from enrichment.errors import ChangeRefused, LanesChanged, PublishRefused, SettingsError
from enrichment.group import lanes as group_lanes
from enrichment.group.lanes import change
from enrichment.kafka.offsets import read_committed
from enrichment.kafka.sink import GroupPosition, LanePublisher, Transaction
from enrichment.resources import Resources
from enrichment.store.lanes import LaneCount
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message
from tests.fixtures.postgres import MakeDatabase

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture
def two(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline of two lanes."""
    return make_pipeline(KAFKA_LANES="2")


def worker(monkeypatch: pytest.MonkeyPatch, lanes: int) -> None:
    """What runs from now on is on a worker with this number of lanes."""
    monkeypatch.setenv("KAFKA_LANES", str(lanes))


def recorded(pipeline: Pipeline) -> LaneCount | None:
    """What the ledger has of the group."""
    with pipeline.resources() as r:
        return r.ledger.lanes.get(r.settings.kafka.consumer_group)


def set_lanes(pipeline: Pipeline, lanes: int, *, despite_open: bool = False) -> None:
    """Change the number, as the command does."""
    with pipeline.resources() as r:
        change(r.clients, r.ledger.lanes, lanes, despite_open=despite_open)


def in_all_lanes(pipeline: Pipeline, run_id: str) -> list[Drained]:
    """A run's batches, staged."""
    return [pipeline.stage(batch) for batch in pipeline.claim(run_id)]


def conserved(pipeline: Pipeline, count: int) -> None:
    """Each message was published once."""
    report = pipeline.check()
    assert report.ok, report.summary()
    assert report.read == count


@contextmanager
def publishing(r: Resources, drained: Drained) -> Iterator[None]:
    """A publisher in the middle of its transaction, which it commits at the end of the block."""
    with LanePublisher(r.clients.for_batch(drained.batch), drained.batch) as publisher:
        assert publisher.standing() is GroupPosition.AT_START
        with publisher.transaction() as transaction:
            send(r, drained, publisher, transaction)
            yield


def send_all(r: Resources, drained: Drained, publisher: LanePublisher) -> None:
    """A whole transaction."""
    with publisher.transaction() as transaction:
        send(r, drained, publisher, transaction)


def send(r: Resources, drained: Drained, publisher: LanePublisher, transaction: Transaction) -> None:
    """Send what became of a batch's messages."""
    for routed in route(r.staging, drained.batch, publisher, frozenset(), utc_now):
        transaction.send(r.settings.kafka.output_topic, routed.analytics)
        transaction.send(r.settings.kafka.dlq_topic, routed.dead_letters)


def test_worker_with_another_number_claims_nothing(two: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first claim records the number; a claim with another one fails and names both."""
    two.produce([message(n) for n in range(40)])
    assert [batch.lanes for batch in two.claim("first")] == [2, 2]
    assert recorded(two) == LaneCount(2)
    worker(monkeypatch, 4)
    with pytest.raises(SettingsError, match=r"KAFKA_LANES=4, but group .* in 2 lanes.*set-lanes 4"):
        two.claim("second")
    with pytest.raises(SettingsError, match=r"KAFKA_LANES=4"):
        two.claim("dry", dry_run=True)
    worker(monkeypatch, 2)
    two.run("third")
    conserved(two, 40)


def test_worker_with_another_number_publishes_nothing(two: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the batch was claimed by one with the right number."""
    two.produce([message(n) for n in range(40)])
    first, second = in_all_lanes(two, "first")
    worker(monkeypatch, 4)
    with pytest.raises(SettingsError, match="KAFKA_LANES=4, but group"):
        two.publish(first)
    worker(monkeypatch, 2)
    assert two.publish(first).produced
    assert two.publish(second).produced
    conserved(two, 40)


CHANGES = [(2, 4), (4, 2), (4, 1)]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_zombie_of_the_old_number_is_fenced_by_the_change(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    """A publisher in the middle of its transaction, then another number of lanes: what it sent is aborted by the change
    and its commit is refused, and the publishers of the new number publish each message once. (The last of four lanes
    is none of two: nobody else would fence it.)"""
    pipeline = make_pipeline(KAFKA_LANES=str(before))
    pipeline.produce([message(n) for n in range(40)])
    old = in_all_lanes(pipeline, "old")
    with pipeline.resources() as zombie, ExitStack() as dying:
        dying.enter_context(publishing(zombie, old[-1]))
        set_lanes(pipeline, after, despite_open=True)
        worker(monkeypatch, after)
        new = in_all_lanes(pipeline, "new")
        assert [d.batch.lane for d in new] == list(range(after))
        assert all(pipeline.publish(drained).produced for drained in new)
        with pytest.raises(PublishRefused):
            dying.close()
    conserved(pipeline, 40)
    assert not any(pipeline.publish(drained).produced for drained in old)
    conserved(pipeline, 40)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_zombie_that_passed_its_check_before_the_change_is_fenced(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    """It has fenced its lane and compared the numbers, and begins its transaction only after the change."""
    pipeline = make_pipeline(KAFKA_LANES=str(before))
    pipeline.produce([message(n) for n in range(40)])
    old = in_all_lanes(pipeline, "old")[-1]
    with (
        pipeline.resources() as zombie,
        LanePublisher(zombie.clients.for_batch(old.batch), old.batch) as publisher,
    ):
        assert publisher.standing() is GroupPosition.AT_START
        set_lanes(pipeline, after, despite_open=True)
        with pytest.raises(PublishRefused):
            send_all(zombie, old, publisher)
    worker(monkeypatch, after)
    pipeline.run("new")
    conserved(pipeline, 40)


def test_publisher_that_comes_after_the_change_is_refused(two: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of the old number publishes nothing, on a worker of either number."""
    two.produce([message(n) for n in range(40)])
    old = in_all_lanes(two, "old")
    set_lanes(two, 4, despite_open=True)
    with pytest.raises(SettingsError, match=r"KAFKA_LANES=2, but group .* in 4 lanes"):
        two.publish(old[0])
    worker(monkeypatch, 4)
    for drained in old:
        with pytest.raises(LanesChanged, match=r"claimed with 2 lanes, and group .* has 4 by now"):
            two.publish(drained)
    two.run("new")
    conserved(two, 40)


@pytest.mark.parametrize("lanes", [1, 3])
def test_change_that_died_leaves_the_group_unpublished(
    two: Pipeline, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    """Between its first step and its last neither number publishes; run again, with either, it is done."""
    two.produce([message(n) for n in range(40)])
    old = in_all_lanes(two, "old")

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(group_lanes, "fence_all", dies)
        with pytest.raises(KeyboardInterrupt):
            set_lanes(two, lanes, despite_open=True)
    assert recorded(two) == LaneCount(2, lanes)
    for number in (2, lanes):
        worker(monkeypatch, number)
        with pytest.raises(LanesChanged, match=f"being changed from 2 to {lanes}"):
            two.publish(old[0])
        with pytest.raises(LanesChanged, match=f"being changed from 2 to {lanes}"):
            two.claim(f"claim-{number}")
    set_lanes(two, 2, despite_open=True)
    assert recorded(two) == LaneCount(2)
    worker(monkeypatch, 2)
    assert all(two.publish(drained).produced for drained in old)
    conserved(two, 40)


def test_change_is_refused_while_a_batch_is_open(two: Pipeline) -> None:
    """A batch that is claimed may be published any moment: by default it is not cut off. One that the group has come
    past, though the ledger does not know, is open no more."""
    two.produce([message(n) for n in range(40)])
    batches = in_all_lanes(two, "first")
    two.publish(batches[0])  # and it dies before its record
    with pytest.raises(ChangeRefused, match=r"1 batches of group .* are open: dag/first/1.*--despite-open-batches"):
        set_lanes(two, 4)
    assert recorded(two) == LaneCount(2)
    two.publish(batches[1])
    set_lanes(two, 4)
    assert recorded(two) == LaneCount(4)


def test_change_is_refused_for_a_group_that_never_drained(two: Pipeline) -> None:
    """Most likely its name is wrong: the number would be recorded for nobody, and the right group keeps its own."""
    with pytest.raises(ChangeRefused, match=r"no lanes recorded and no offsets of topic .*: is that its name"):
        set_lanes(two, 4)
    assert recorded(two) is None


def test_two_changes_at_once_do_not_both_succeed(two: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was begun first says that it is not done; run again, either number is the group's for sure."""
    two.run("first")
    fence = group_lanes.fence_all
    with monkeypatch.context() as patch:

        def meanwhile(*how: Any, **more: Any) -> None:
            patch.setattr(group_lanes, "fence_all", fence)
            set_lanes(two, 4)
            fence(*how, **more)

        patch.setattr(group_lanes, "fence_all", meanwhile)
        with pytest.raises(ChangeRefused, match="somebody else changes the lanes"):
            set_lanes(two, 3)
    assert recorded(two) == LaneCount(4)
    set_lanes(two, 4)
    assert recorded(two) == LaneCount(4)


def test_new_number_stands_beside_the_offsets(two: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change leaves the group where it is, and the next batches are published in the new number."""
    two.produce([message(n) for n in range(40)])
    two.run("first")
    set_lanes(two, 4)
    with two.resources() as r, r.clients.offsets_reader() as reader:
        committed = read_committed(reader, two.input_topic, range(PARTITIONS), 20)
    assert [(c.offset, c.stamp.lanes if c.stamp else None) for c in committed.values()] == [(10, 4)] * PARTITIONS
    worker(monkeypatch, 4)
    two.produce([message(n) for n in range(40)])
    assert len(two.run("second")) == 4
    conserved(two, 80)


def test_installation_with_another_database_is_refused_by_the_offsets(
    two: Pipeline, postgres_server: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two Airflows, each with a database of its own and another number, publish for one group: what is beside the
    group's offsets tells the second one."""
    two.produce([message(n) for n in range(40)])
    two.run("first", max_messages=10)
    elsewhere = Pipeline(two.bootstrap_servers, postgres_server(), two.user_service_url, two.folder, two.environment)
    with psycopg.connect(elsewhere.dsn) as connection:
        connection.execute("SELECT set_config('demo.requests', '10', false)")
        connection.execute(sql.load("demo/business"))
    worker(monkeypatch, 4)
    with pytest.raises(LanesChanged, match="published to partition 0 with 2"):
        elsewhere.publish(in_all_lanes(elsewhere, "theirs")[0])
    worker(monkeypatch, 2)
    two.run("second")
    conserved(two, 40)


def of_earlier_release(drained: Drained) -> Drained:
    """A batch whose manifest knows neither lanes nor the topic's id."""
    return msgspec.structs.replace(drained, batch=msgspec.structs.replace(drained.batch, lanes=None, topic_id=None))


def test_batch_of_an_earlier_release_is_published_in_its_lane(two: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was claimed before the number was recorded: what publishes it first records it, and it must fit."""
    two.produce([message(n) for n in range(40)])
    old = [of_earlier_release(drained) for drained in in_all_lanes(two, "old")]
    with psycopg.connect(two.dsn) as connection:
        connection.execute("TRUNCATE enrichment_lanes, enrichment_positions")
    assert two.publish(old[0]).produced
    assert recorded(two) == LaneCount(2)
    set_lanes(two, 3, despite_open=True)
    worker(monkeypatch, 3)
    with pytest.raises(LanesChanged, match=r"claimed with another number of lanes, and group .* has 3"):
        two.publish(old[1])
    two.run("new")
    conserved(two, 40)


def test_first_claim_after_an_upgrade_fences_earlier_releases(two: Pipeline) -> None:
    """Whoever still publishes with another number, and checks nothing, is fenced before the number is recorded."""
    two.produce([message(n) for n in range(20)])
    two.run("first")
    two.produce([message(n) for n in range(20)])
    old = of_earlier_release(in_all_lanes(two, "old")[1])
    with two.resources() as zombie, ExitStack() as dying:
        dying.enter_context(publishing(zombie, old))
        with psycopg.connect(two.dsn) as connection:
            connection.execute("TRUNCATE enrichment_lanes")
        two.run("new")
        with pytest.raises(PublishRefused):
            dying.close()
    conserved(two, 40)


def test_dry_run_records_no_number(two: Pipeline) -> None:
    """It changes nothing."""
    two.produce([message(n) for n in range(40)])
    two.run("dry", dry_run=True)
    assert recorded(two) is None


def test_replay_keeps_the_lanes_of_its_plan(two: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batches, lanes and all, are fixed once: whoever publishes one of them has the same lane, whatever its own
    number."""
    two.produce([message(n) for n in range(40)])
    two.run("first")
    set_lanes(two, 4)
    worker(monkeypatch, 4)
    planned = Batch("b", two.input_topic, "window", 1, (OffsetRange(3, 0, 1),), purpose=Purpose(kind=REPLAY))
    with two.resources() as r:
        r.clients.check_lanes(planned)
        assert r.ledger.lanes.get("window") is None


def test_command_changes_the_number(two: Pipeline) -> None:
    """As a person runs it, with the settings of the environment or the group by name."""
    two.produce([message(n) for n in range(40)])
    two.claim("first")
    arguments = ["set-lanes", "--bootstrap-servers", two.bootstrap_servers, "--database", two.dsn]
    environment = {**os.environ, **two.environment, "PYTHONPATH": str(PLUGINS)}

    def command(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "enrichment.group", *arguments, *more],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    refused = command("4")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("2 batches of group")
    done = command("4", "--despite-open-batches")
    assert done.returncode == 0, done.stderr
    assert "is published in 4 lanes (before: 2). Set KAFKA_LANES=4" in done.stdout
    assert recorded(two) == LaneCount(4)
    assert "partitions" not in done.stdout
    assert (
        f"has {PARTITIONS} partitions: the lanes from {PARTITIONS} on have none"
        in command("6", "--despite-open-batches").stdout
    )
    assert command("0").returncode == 2
