"""Requests to a broker: repeated while it answers with a retriable error, and never long inside one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

T = TypeVar("T")
EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
SLICE_SECONDS = 1.0  # no longer inside a C call: signals (a stop from the UI, a timeout) are only seen between calls
# In about one of ten new clients the first request of an administrator stays where it is for a second, as librdkafka
# misses that the connection is there by now. Asked again it goes out.
FIRST_SECONDS = 0.15


def text_of(failed: Exception) -> str:
    """What an exception says; of Kafka's the text alone, without code and names."""
    return str(failed.args[0].str() if isinstance(failed, KafkaException) else failed).strip()


def with_retries(call: Callable[[float], T], timeout: float, first: float = SLICE_SECONDS) -> T:
    """Repeat `call(seconds)` in short slices, of which one has a length of its own, while the broker answers with a
    retriable error, `timeout` seconds at most.

    A new broker's first `committed()` can answer NOT_COORDINATOR; a `read_committed` one waits while a transaction on
    the offsets is open. Both are over soon or not at all.
    """
    deadline, longest = time.monotonic() + timeout, first
    while True:
        left = deadline - time.monotonic()
        try:
            return call(max(0.1, min(longest, left)))
        except KafkaException as refused:
            error = refused.args[0]
            transient = error.retriable() or error.code() in (
                KafkaError._TIMED_OUT,
                KafkaError._TRANSPORT,
                KafkaError._WAIT_COORD,
                KafkaError.NOT_COORDINATOR,
                KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
                KafkaError.COORDINATOR_NOT_AVAILABLE,
            )
            if not transient or left <= 0:
                raise
            longest = SLICE_SECONDS
            time.sleep(0.05)


def partitions_of(client: Consumer | AdminClient, topic: str, timeout: float) -> list[int]:
    """The topic's partitions in order. Raises `KafkaException` when there is no such topic."""
    metadata = with_retries(lambda seconds: client.list_topics(topic, timeout=seconds), timeout).topics[topic]
    if metadata.error is not None:
        raise KafkaException(metadata.error)
    return sorted(metadata.partitions)


def log_offsets(
    admin: AdminClient, homes: Sequence[TopicPartition], which: OffsetSpec, timeout: float,
    isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
) -> dict[tuple[str, int], int]:  # fmt: skip
    """The start (`EARLIEST`) or end (`LATEST`) of each partition's log, as a reader of this isolation sees it: by one
    request to each broker, however many partitions there are."""

    def ask(seconds: float) -> dict[tuple[str, int], int]:
        asked = dict.fromkeys(homes, which)
        answers = admin.list_offsets(asked, isolation_level=isolation, request_timeout=seconds) if asked else {}
        return {(home.topic, home.partition): answer.result().offset for home, answer in answers.items()}

    try:
        return with_retries(ask, timeout, FIRST_SECONDS)
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError._UNKNOWN_PARTITION:
            raise
        # A client that is kept does not know of a partition that was added since it last looked.
        for topic in {home.topic for home in homes}:
            partitions_of(admin, topic, timeout)
        return with_retries(ask, timeout)
