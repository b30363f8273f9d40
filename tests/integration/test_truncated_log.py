"""A log that was truncated under the group, as an unclean election does it: what is sent next has offsets that the
group is past. Nothing of it is skipped in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from enrichment.batch import OffsetRange
from enrichment.conservation.report import Defect
from enrichment.errors import OffsetsMoved
from enrichment.group.accept import accept_offsets
from enrichment.kafka.topics import create_topics
from enrichment.settings import load
from tests.fixtures.kafka import Broker, running_broker
from tests.fixtures.pipeline import PARTITIONS, MakePipeline, Pipeline, message


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that nobody minds to see killed."""
    with running_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def own(make_pipeline: MakePipeline, own_broker: Broker) -> Pipeline:
    """A pipeline on that broker."""
    pipeline = replace(make_pipeline(), bootstrap_servers=own_broker.bootstrap_servers)
    client = {"bootstrap.servers": own_broker.bootstrap_servers}
    create_topics(client, load().kafka, partitions=PARTITIONS, replication_factor=1)
    return pipeline


def send(pipeline: Pipeline, count: int) -> None:
    """Put messages into partition 0; each goes into a batch of records of its own."""
    for _ in range(count):
        pipeline.produce([message(pipeline.messages)], partition=0)


def run(pipeline: Pipeline, run_id: str) -> None:
    """A whole run, recorded."""
    for batch in pipeline.claim(run_id):
        pipeline.finish(pipeline.stage(batch))


def size_of(broker: Broker, topic: str) -> int:
    """Bytes in the log of partition 0."""
    return segment(broker, topic).stat().st_size


def segment(broker: Broker, topic: str) -> Path:
    """The only segment of partition 0."""
    [found] = (broker.data / f"{topic}-0").glob("*.log")
    return found


def truncate(broker: Broker, topic: str, size: int) -> None:
    """Let the broker forget what lies behind this many bytes of partition 0, as if it had never come that far."""
    broker.kill()
    log = segment(broker, topic)
    with log.open("r+b") as file:
        file.truncate(size)
    for path in log.parent.iterdir():
        if path.suffix in {".index", ".timeindex", ".txnindex", ".snapshot"}:  # made anew from the log
            path.unlink()
    broker.start()


@pytest.mark.parametrize(
    ("refilled", "why"),
    [
        (0, "at 6, published to 6, the log has 0 to 2 .*the log ends before that: it was truncated"),
        (3, "at 6, published to 6, the log has 0 to 5 .*the log ends before that: it was truncated"),
        (9, "at 6, published to 6, the log has 0 to 11 .*another message than was published: it was truncated"),
    ],
    ids=["left short", "filled again in part", "filled again past the group"],
)
def test_truncated_log_is_recognised(own: Pipeline, own_broker: Broker, refilled: int, why: str) -> None:
    """Published to 6, truncated to 2: the claim says so before it takes anything, and draining goes on where a person
    says that it shall."""
    send(own, 2)
    kept = size_of(own_broker, own.input_topic)
    send(own, 4)
    run(own, "first")
    truncate(own_broker, own.input_topic, kept)
    send(own, refilled)
    with pytest.raises(OffsetsMoved, match=why) as refused:
        own.claim("second")
    assert "--to-offset" not in str(refused.value)
    assert f" 0={2 + refilled}" in str(refused.value)
    with own.resources() as r:
        accept_offsets(r.clients, r.ledger.positions, {0: 2})
    send(own, 1)
    run(own, "third")
    report = own.check([OffsetRange(0, 2, 2 + refilled + 1)])
    # Where the old log had messages, too, there are outputs of both.
    assert report.defects[Defect.MISSING] == 0, report.summary()
    assert report.read == refilled + 1


def test_log_whose_read_messages_expired_is_not_taken_for_another(own: Pipeline) -> None:
    """The last message that was published has left the log: there is nothing to compare."""
    send(own, 3)
    run(own, "first")
    send(own, 2)
    expired = TopicPartition(own.input_topic, 0, 3)
    admin = AdminClient({"bootstrap.servers": own.bootstrap_servers})
    admin.delete_records([expired])[expired].result()
    run(own, "second")
    report = own.check([OffsetRange(0, 3, 5)])
    assert report.ok, report.summary()
