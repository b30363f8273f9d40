"""Messages through the real broker in bulk: each part of each message as it was, and the clients stay usable."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from enrichment.codec.records import Chunk, Header, pack_headers, unpack_headers
from enrichment.kafka.bulk import FetchQueue, Outbox, PartitionEvent
from enrichment.kafka.clients import READING
from tests.fixtures.kafka import MakeTopic, free_ports

HEADERS: list[list[Header]] = [
    [],
    [("one", b"1")],
    [("null", None), ("empty", b""), ("same", b"a"), ("same", b"b"), ("", b"no name"), ("é", b"\0\xff")],
    [(f"name-{n}", b"v" * n) for n in range(40)],
]
KEYS: list[bytes | None] = [None, b"", b"key", b"\0\xff"]
TIME = 1_705_312_800_000


def messages(values: Sequence[bytes | None]) -> Chunk:
    """Messages with every kind of key and headers, for partition 0, and a time of their own each."""
    count = range(len(values))
    return Chunk.of(
        [0] * len(values), count, [TIME + n for n in count], [KEYS[n % len(KEYS)] for n in count],
        [pack_headers(HEADERS[n % len(HEADERS)]) for n in count], values,
    )  # fmt: skip


@contextmanager
def fetching(kafka: str, topic: str, partitions: Sequence[int] = (0,), start: int = 0) -> Iterator[FetchQueue]:
    """What a consumer fetches of these partitions."""
    config = {"bootstrap.servers": kafka, "group.id": "g", **READING}
    with closing(Consumer(config)) as consumer, closing(FetchQueue(consumer)) as queue:
        queue.take_over(topic, partitions)
        consumer.assign([TopicPartition(topic, partition, start) for partition in partitions])
        yield queue


def read(queue: FetchQueue, partitions: int = 1, count: int = 1_000) -> tuple[Chunk, list[PartitionEvent]]:
    """All messages up to the end of that many partitions, and what else was said."""
    polled: list[pa.RecordBatch] = []
    said: list[PartitionEvent] = []
    while len(said) < partitions:
        found, events = queue.poll(count, 2**24, 10)
        assert found.num_rows or events, "nothing came within 10 s"
        assert found.num_rows <= count
        polled.append(found)
        said += events
    return Chunk(pa.concat_batches(polled)), said


def send(kafka: str, topic: str, sent: Chunk) -> None:
    """Produce them in bulk."""
    producer = Producer({"bootstrap.servers": kafka})
    outbox = Outbox(producer, topic, sent.columns["partition"].to_numpy(), sent)
    assert outbox.produce(0, len(sent)) == len(sent)
    producer.flush(20)
    producer.close()


def test_every_part_of_a_message_is_kept(kafka: str, topic: MakeTopic) -> None:
    """Null, empty and large; any headers, several of one name; times: written and read in bulk, all is the same."""
    name = topic()
    sent = messages([b"", b"value", None, b"v" * 200_000] * 3)
    send(kafka, name, sent)
    with fetching(kafka, name) as queue:
        found, events = read(queue)
    assert found == sent
    assert [(event.error.code(), event.partition, event.offset) for event in events] == [
        (KafkaError._PARTITION_EOF, 0, 12)
    ]


def test_bulk_and_single_messages_are_the_same_to_each_other(kafka: str, topic: MakeTopic) -> None:
    """What confluent-kafka writes one by one is read in bulk, tombstones too; what is written in bulk, it reads."""
    one_by_one, in_bulk = topic(), topic()
    sent = messages([b"a", None, b"", b"d"])
    producer = Producer({"bootstrap.servers": kafka})
    for key, packed, value, timestamp in zip(sent.keys, sent.headers, sent.values, sent.timestamps, strict=True):
        own: Any = unpack_headers(packed)
        producer.produce(one_by_one, value, key, 0, timestamp=timestamp, headers=own)
    producer.flush(20)
    producer.close()
    with fetching(kafka, one_by_one) as queue:
        assert read(queue)[0] == sent

    send(kafka, in_bulk, sent)
    with closing(Consumer({"bootstrap.servers": kafka, "group.id": "g", "enable.auto.commit": False})) as consumer:
        consumer.assign([TopicPartition(in_bulk, 0, 0)])
        single = [consumer.poll(10) for _ in sent.values]
    parts: list[Any] = [(m.key(), m.headers() or [], m.value(), m.timestamp()[1]) for m in single if m is not None]
    expected = zip(sent.keys, map(unpack_headers, sent.headers), sent.values, sent.timestamps, strict=True)
    assert parts == list(expected)


def test_header_names_need_not_be_text(kafka: str, topic: MakeTopic) -> None:
    """Kafka does not ask for it, and one such message must not end a drain: confluent-kafka cannot even read it."""
    name = topic()
    sent = Chunk.of([0], [0], [TIME], [None], [pack_headers([("\udcff", b"1")])], [b"x"])
    send(kafka, name, sent)
    with fetching(kafka, name) as queue:
        assert read(queue)[0] == sent


def test_times_are_kept_as_they_are(kafka: str, topic: MakeTopic) -> None:
    """A message without a time (-1) stays without one; 0, which the client would take for now, is a millisecond off."""
    name = topic()
    times = [-1, 0, TIME, 1, -5]
    send(kafka, name, Chunk.of([0] * 5, range(5), times, [None] * 5, [b""] * 5, [b"x"] * 5))
    with fetching(kafka, name) as queue:
        assert read(queue)[0].timestamps == [-1, 1, TIME, 1, -5]
        assert not queue.appended


def test_times_of_appending_are_told(kafka: str, topic: MakeTopic) -> None:
    """Where the broker sets the time, the queue says that these are no times of messages."""
    name = topic(message_timestamp_type="LogAppendTime")
    send(kafka, name, messages([b"x"]))
    with fetching(kafka, name) as queue:
        assert read(queue)[0].timestamps[0] > TIME
        assert queue.appended


@pytest.mark.parametrize(("count", "is_read"), [(100_000, True), (100_001, False)])
def test_headers_that_the_client_does_not_read_are_null(
    kafka: str, topic: MakeTopic, count: int, is_read: bool
) -> None:
    """It reads no header of a message that has more than 100,000, and says nothing: these must not look like none."""
    name = topic(max_message_bytes="4000000")
    packed = pack_headers([("h", None)] * count)
    send(kafka, name, Chunk.of([0] * 2, [0, 1], [TIME] * 2, [None] * 2, [packed, b""], [b"x"] * 2))
    with fetching(kafka, name) as queue:
        assert read(queue)[0].headers == [packed if is_read else None, b""]


def test_polls_are_bounded(kafka: str, topic: MakeTopic) -> None:
    """By messages exactly, by bytes up to what the client hands out at once; each partition in its order."""
    name = topic(partitions=2)
    sent = messages([b"v" * 1_000] * 900)
    placed = Chunk(sent.columns.set_column(0, "partition", pa.array([n % 2 for n in range(900)], pa.int32())))
    send(kafka, name, placed)
    with fetching(kafka, name, (0, 1)) as queue:
        found, _ = read(queue, partitions=2, count=70)
    for partition in (0, 1):
        own = [row for row, p in enumerate(found.partitions) if p == partition]
        assert [found.timestamps[row] for row in own] == [TIME + n for n in range(partition, 900, 2)]
        assert [found.offsets[row] for row in own] == list(range(450))
    with fetching(kafka, name, (0, 1)) as queue:
        few, _ = queue.poll(900, 10_000, 10)
    assert few.num_rows <= 101


@pytest.mark.parametrize("part", ["key", "headers", "value"])
def test_bytes_of_every_part_count(kafka: str, topic: MakeTopic, part: str) -> None:
    """A poll ends when it has enough, whichever part of the messages is large."""
    name = topic()
    large: dict[str, Any] = {"key": b"k", "headers": pack_headers([("h", b"h")]), "value": b"v"}
    large[part] = pack_headers([("h", b"v" * 20_000)]) if part == "headers" else b"v" * 20_000
    key, headers, value = ([large[name]] * 300 for name in ("key", "headers", "value"))
    send(kafka, name, Chunk.of([0] * 300, range(300), [TIME] * 300, key, headers, value))
    with fetching(kafka, name) as queue:
        few, _ = queue.poll(300, 20_000, 10)
    assert few.num_rows <= 101


def test_full_queue_takes_no_more_and_loses_nothing(kafka: str, topic: MakeTopic) -> None:
    """The first row without room is named; from there it goes on, each message once."""
    name = topic()
    sent = messages([b"%d" % n for n in range(500)])
    producer = Producer({"bootstrap.servers": kafka, "queue.buffering.max.messages": 100})
    outbox = Outbox(producer, name, np.zeros(500, np.int32), sent)
    row, stops = 0, 0
    while row < 500:
        row = outbox.produce(row, 500)
        stops += row < 500
        producer.poll(0.02)
    producer.flush(20)
    producer.close()
    assert stops >= 4
    with fetching(kafka, name) as queue:
        assert read(queue)[0].values == sent.values


def test_message_that_the_client_refuses_is_an_error(topic: MakeTopic, kafka: str) -> None:
    """As from the client itself; what stood before it is on its way."""
    producer = Producer({"bootstrap.servers": kafka, "message.max.bytes": 1_000})
    outbox = Outbox(producer, topic(), np.zeros(2, np.int32), messages([b"small", b"v" * 2_000]))
    with pytest.raises(KafkaException) as refused:
        outbox.produce(0, 2)
    assert refused.value.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert producer.flush(20) == 0
    producer.close()


def test_offsets_that_are_gone_are_said(kafka: str, topic: MakeTopic) -> None:
    """An error of a partition comes as an event, with its place."""
    with fetching(kafka, topic(), start=7) as queue:
        _, [event] = queue.poll(10, 1_000, 10)
    assert (event.error.code(), event.partition) == (KafkaError._AUTO_OFFSET_RESET, 0)


def test_closed_clients_are_refused(kafka: str, topic: MakeTopic) -> None:
    """Never a pointer to what is gone."""
    producer = Producer({"bootstrap.servers": kafka})
    outbox = Outbox(producer, topic(), np.zeros(1, np.int32), messages([b"x"]))
    producer.close()
    with pytest.raises(RuntimeError, match="closed"):
        outbox.produce(0, 1)
    with fetching(kafka, topic()) as queue:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        queue.poll(1, 1, 0)


CALLED_BACK = """
import sys, time
from contextlib import closing
from confluent_kafka import Consumer, TopicPartition
from enrichment.kafka.bulk import FetchQueue
heard = []
with closing(Consumer({"bootstrap.servers": sys.argv[1], "group.id": "g", "error_cb": heard.append})) as consumer:
    with closing(FetchQueue(consumer)) as queue:
        queue.take_over("t", [0])
        consumer.assign([TopicPartition("t", 0, 0)])
        deadline = time.monotonic() + 20
        while not heard and time.monotonic() < deadline:
            queue.poll(10, 1_000, 0.2)
            consumer.poll(0)
print(len(heard))
"""


def test_callbacks_are_left_to_the_client() -> None:
    """confluent-kafka ends the process when one of its callbacks runs outside its own methods: none does here."""
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    done = subprocess.run(
        [sys.executable, "-c", CALLED_BACK, nobody], env={"PYTHONPATH": "plugins"}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
