"""What brokers refuse: whether a message is at fault, and how a batch is published without such messages.

A broker that refuses one message refuses the set that it was sent in, and with it the transaction. The batch is then
published again, without those that the broker has named; where it named none, in sets of one message each. A message
becomes a dead letter only through its own fault: an error of topic, broker, lane or permissions never makes it one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException, Producer

from enrichment.batch import Batch
from enrichment.codec.headers import split_origin
from enrichment.codec.records import unpack_headers
from enrichment.errors import BatchRefused, PublishRefused
from enrichment.kafka.deliveries import Failure
from enrichment.kafka.topic_limits import TopicLimits
from enrichment.messages import Reason

log = logging.getLogger(__name__)
T = TypeVar("T")

# The broker's errors about a message itself. Any other error is not the message's fault.
MESSAGE_FAULTS = frozenset(
    {
        KafkaError.INVALID_MSG,  # corrupt; some brokers answer this to a message without a key
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.POLICY_VIOLATION,
    }
)


@dataclass
class Refusals:
    """What has been refused of a batch so far, and how the next try finds out more.

    A `watched` try takes the delivery reports of each set of messages; `alone` sends each message in a set of its own.
    """

    watched: bool = False
    alone: bool = False
    _known: dict[str, dict[bytes, str]] = field(default_factory=dict)

    def known_to(self, limits: TopicLimits) -> TopicLimits:
        """The limits of a topic, including what it has refused."""
        return replace(limits, known=self._known.get(limits.topic, {}))

    def learn(self, failure: BatchRefused) -> bool:
        """Learn from a failed try; returns whether another one may get further."""
        if not self.watched:
            self.watched = True
            return True
        news = [name for name in failure.blamed if name[1] not in self._known.get(name[0], {})]
        for topic, headers in news:
            self._known.setdefault(topic, {})[headers] = failure.blamed[topic, headers]
        if not news and not self.alone:
            self.alone = True
            return True
        return bool(news)


def publish_around(publish: Callable[[Refusals], T], seconds: float) -> T:
    """Publish a batch, and again without what brokers refuse of it, for so many seconds.

    `publish` starts afresh each time: it reads the topics' limits again, and fences any other publisher. Raises what
    it raises, `BatchRefused` only when another try would not help.
    """
    refusals, deadline = Refusals(), time.monotonic() + seconds
    while True:
        try:
            return publish(refusals)
        except BatchRefused as failure:
            if time.monotonic() > deadline or not refusals.learn(failure):
                raise
            log.warning("publish.refused blamed=%d alone=%s %s", len(failure.blamed), refusals.alone, failure)


def cause_of(producer: Producer, refused: KafkaException) -> KafkaError:
    """Why a transaction failed. After the first error the client answers every call with "Erroneous state"; only
    beginning a transaction returns the reason."""
    error: KafkaError = refused.args[0]
    if error.code() != KafkaError._STATE:
        return error
    try:
        producer.begin_transaction()
    except KafkaException as why:
        cause: KafkaError = why.args[0]
        return cause if cause.code() not in (KafkaError._STATE, KafkaError._CONFLICT) else error
    return error


def refusal_of(batch: Batch, error: KafkaError, failures: Sequence[Failure]) -> PublishRefused:
    """The exception for a transaction that failed with this error and these messages."""
    text = f"{Reason.PRODUCER_ERROR}: batch {batch.batch_id}: {error.name()}: {error.str()}"
    if error.code() not in MESSAGE_FAULTS:
        return PublishRefused(text)
    own = [failure for failure in failures if failure.code in MESSAGE_FAULTS]
    blamed = [failure for failure in own if failure.is_blamed]
    suspects = blamed or own
    return BatchRefused(
        f"{text}{_places(batch, suspects)}",
        {(failure.topic, failure.headers): _broker_error(failure.code, failure.topic) for failure in blamed},
        {origin[0] for failure in suspects if (origin := _origin(failure.headers)) is not None},
    )


def _broker_error(code: int, topic: str) -> str:
    error = KafkaError(code)
    return f"{error.name()}: {topic} refuses it, {error.str()}"


def _places(batch: Batch, failures: Iterable[Failure]) -> str:
    """The destinations of the failed messages and, as far as their headers tell, their origins."""
    places: dict[tuple[str, int, int], list[int]] = {}
    for failure in failures:
        source, offset = _origin(failure.headers) or (-1, -1)
        places.setdefault((failure.topic, failure.partition, source), []).append(offset)
    return "".join(
        f"; {topic} [{partition}] refuses {_named(batch.source_topic, source, offsets)}"
        for (topic, partition, source), offsets in sorted(places.items())
    )


def _named(topic: str, partition: int, offsets: Sequence[int]) -> str:
    if partition < 0:
        return f"{len(offsets)} messages"
    first, last = min(offsets), max(offsets)
    return f"{topic} partition {partition} " + (f"offset {first}" if first == last else f"offsets {first} to {last}")


def _origin(packed: bytes) -> tuple[int, int] | None:
    """The origin's partition and offset."""
    _, origin = split_origin(unpack_headers(packed))
    return None if origin is None else (origin.partition, origin.offset)
