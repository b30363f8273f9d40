"""Whose fault an error of the broker is, and how what it refuses is learnt."""

from __future__ import annotations

from typing import cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from enrichment.batch import Batch, OffsetRange
from enrichment.codec.records import pack_headers
from enrichment.errors import BatchRefused, PublishRefused
from enrichment.kafka.deliveries import Failure
from enrichment.kafka.refusals import Refusals, cause_of, publish_around, refusal_of
from enrichment.kafka.topic_limits import TopicLimits
from tests.fixtures.origins import origin_header

BATCH = Batch("b", "in", "g", 0, (OffsetRange(0, 0, 9), OffsetRange(3, 0, 9)))


def headers(offset: int, partition: int = 3) -> bytes:
    """Those of a message from there, with one of its own that says otherwise."""
    return pack_headers([origin_header("in", 77, "b", 1), origin_header("in", partition, "b", offset)])


def failure(offset: int, code: int = KafkaError.INVALID_TIMESTAMP, *, is_blamed: bool = False) -> Failure:
    """A message that did not arrive in partition 1 of the output."""
    return Failure("out", 1, code, headers(offset), is_blamed)


@pytest.mark.parametrize(
    "name",
    ["INVALID_TIMESTAMP", "INVALID_RECORD", "MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE", "INVALID_MSG",
     "INVALID_MSG_SIZE", "POLICY_VIOLATION", "UNSUPPORTED_FOR_MESSAGE_FORMAT"],
)  # fmt: skip
def test_what_is_the_messages_fault_makes_dead_letters(name: str) -> None:
    """A message that is blamed is known with the broker's words; error, topic, partition and offset are named."""
    code = getattr(KafkaError, name)
    refused = refusal_of(BATCH, KafkaError(code), [failure(4, code), failure(5, code, is_blamed=True)])
    assert isinstance(refused, BatchRefused)
    words = KafkaError(code).str()
    assert refused.blamed == {("out", headers(5)): f"{name}: out refuses it, {words}"}
    assert refused.partitions == (3,)
    assert str(refused) == f"kafka-producer-error: batch b: {name}: {words}; out [1] refuses in partition 3 offset 5"


@pytest.mark.parametrize(
    "name",
    ["TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
     "GROUP_AUTHORIZATION_FAILED", "UNKNOWN_TOPIC_OR_PART", "NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
     "NOT_LEADER_FOR_PARTITION", "REQUEST_TIMED_OUT", "_MSG_TIMED_OUT", "_TIMED_OUT", "_FENCED", "PRODUCER_FENCED",
     "INVALID_PRODUCER_EPOCH", "INVALID_TXN_STATE", "KAFKA_STORAGE_ERROR", "OUT_OF_ORDER_SEQUENCE_NUMBER",
     "_PURGE_QUEUE", "_STATE", "UNSUPPORTED_COMPRESSION_TYPE", "UNKNOWN", "THROTTLING_QUOTA_EXCEEDED"],
)  # fmt: skip
def test_what_is_not_the_messages_fault_never_makes_a_dead_letter(name: str) -> None:
    """Rights, topics, replicas, time and rivals: nobody is blamed, and the next batch is no smaller."""
    code = getattr(KafkaError, name)
    refused = refusal_of(BATCH, KafkaError(code), [failure(4, code, is_blamed=True)])
    assert isinstance(refused, PublishRefused)
    assert not isinstance(refused, BatchRefused)
    assert f"batch b: {name}: " in str(refused)


def test_where_nobody_is_blamed_all_of_the_set_are_suspects() -> None:
    """Messages that were purged along with them are none."""
    failures = [failure(4), failure(8), failure(2), failure(1, KafkaError._PURGE_QUEUE)]
    refused = refusal_of(BATCH, KafkaError(KafkaError.INVALID_TIMESTAMP), failures)
    assert isinstance(refused, BatchRefused)
    assert (refused.blamed, refused.partitions) == ({}, (3,))
    assert str(refused).endswith("; out [1] refuses in partition 3 offsets 2 to 8")


def test_message_without_an_origin_suspects_no_partition() -> None:
    """Such as a marker: nobody can tell where it came from."""
    lost = Failure("markers", 0, KafkaError.INVALID_RECORD, b"", is_blamed=True)
    refused = refusal_of(BATCH, KafkaError(KafkaError.INVALID_RECORD), [lost])
    assert isinstance(refused, BatchRefused)
    assert refused.partitions == ()
    assert str(refused).endswith("; markers [0] refuses 1 messages")


def test_batch_is_published_around_what_is_refused() -> None:
    """First it is watched who is at fault, then left out; where nobody is named, messages are sent alone; where that
    leads nowhere, the last failure is raised."""
    tries: list[tuple[bool, bool, list[bytes]]] = []
    failures = [
        BatchRefused("unwatched"),
        BatchRefused("one", {("out", b"1"): "no"}),
        BatchRefused("who?"),
        BatchRefused("another", {("out", b"1"): "no", ("out", b"2"): "no"}),
        BatchRefused("the same", {("out", b"2"): "no"}),
    ]

    def publish(refusals: Refusals) -> None:
        known = refusals.known_to(TopicLimits("out", 9)).known
        assert refusals.known_to(TopicLimits("letters", 9)).known == {}
        tries.append((refusals.watched, refusals.alone, list(known)))
        raise failures[len(tries) - 1]

    with pytest.raises(BatchRefused, match="the same"):
        publish_around(publish, 60)
    assert tries == [
        (False, False, []),
        (True, False, []),
        (True, False, [b"1"]),
        (True, True, [b"1"]),
        (True, True, [b"1", b"2"]),
    ]


def test_publishing_around_ends_in_time() -> None:
    """Where more and more is refused, the batch fails in the end, and a smaller one follows."""
    tries = []

    def publish(_: Refusals) -> None:
        tries.append(1)
        raise BatchRefused("again", {("out", b"%d" % len(tries)): "no"})

    with pytest.raises(BatchRefused):
        publish_around(publish, 0)
    assert len(tries) == 1


def test_other_failures_are_raised_at_once() -> None:
    """What is nobody's fault here is for the next try of the task."""

    def publish(_: Refusals) -> None:
        raise PublishRefused("fenced")

    with pytest.raises(PublishRefused, match="fenced"):
        publish_around(publish, 60)


class Erroneous:
    """A producer whose transaction has failed for this."""

    def __init__(self, code: int) -> None:
        self.code = code

    def begin_transaction(self) -> None:
        """Refuses, and says why."""
        raise KafkaException(KafkaError(self.code))


@pytest.mark.parametrize(
    ("said", "reason", "cause"),
    [
        (KafkaError._STATE, KafkaError.INVALID_RECORD, KafkaError.INVALID_RECORD),
        (KafkaError._STATE, KafkaError._STATE, KafkaError._STATE),
        (KafkaError._TIMED_OUT, KafkaError.INVALID_RECORD, KafkaError._TIMED_OUT),
    ],
)
def test_cause_is_what_stands_behind_an_erroneous_state(said: int, reason: int, cause: int) -> None:
    """Any other error says itself what is wrong."""
    producer = cast(Producer, Erroneous(reason))
    assert cause_of(producer, KafkaException(KafkaError(said))).code() == cause
