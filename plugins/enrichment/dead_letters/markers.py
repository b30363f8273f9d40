"""Which dead letters have been sent in again: a topic of markers, read and written here and nowhere else.

A marker's key is the partition and offset of its dead letter; a header has Kafka's id of the dead-letter topic, since a
recreated topic has other dead letters at the same offsets. Markers are written in the transaction that publishes the
outcome of their dead letters, and every redrive of a topic has the same transactional id. So a publisher first fences
all others, then reads the markers, and they are final.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from enrichment.batch import Batch
from enrichment.codec.records import Chunk, Header, pack_headers, unpack_headers
from enrichment.dead_letters.reader import Position
from enrichment.errors import OffsetsMoved, PublishRefused, RedriveRefused, SettingsError
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import held_ranges
from enrichment.kafka.refusals import Refusals
from enrichment.kafka.retention import now_in_milliseconds
from enrichment.kafka.settled import advice, await_stable
from enrichment.kafka.sink import GroupPosition, LanePublisher, Transaction
from enrichment.kafka.source import read_ranges
from enrichment.kafka.topics import describe_topics, read_topic_id
from enrichment.messages import HEADER_LETTER_OFFSET, HEADER_LETTER_PARTITION, HEADER_LETTER_TOPIC_ID

_MARKER_KEY = re.compile(rb"([0-9]{1,10}):([0-9]{1,19})")
Redriven = Mapping[Position, str]  # letters that are done, and the batch that did it


def read_markers(clients: Clients) -> dict[Position, str]:
    """The dead letters that have been sent in again, each with the batch that did it. Raises `SettingsError` when the
    topic of the markers is missing or does not keep them all, `RedriveRefused` when some are of another dead-letter
    topic.

    Markers hidden by an open transaction are not seen: a publisher calls `check_settled` first.
    """
    check_topic(clients)
    topic = clients.settings.redriven_topic
    await_stable(clients, topic)
    redriven, topic_id = {}, read_topic_id(clients, clients.settings.dlq_topic)
    of: Counter[str | None] = Counter()
    for chunk in read_ranges(clients, topic, held_ranges(clients, topic)):
        for key, value, headers in zip(chunk.keys, chunk.values, chunk.headers, strict=True):
            position = position_of(key or b"")
            # No redrive writes tombstones, and they undo nothing: what was sent in again stays so.
            if position is not None and value is not None:
                redriven[position] = value.decode(errors="replace")
                of[topic_id_of(headers)] += 1
    check_markers(clients, of, topic_id)
    return redriven


def check_markers(clients: Clients, of: Mapping[str | None, int], topic_id: str | None) -> None:
    """Raise `RedriveRefused` when some of the markers, counted by topic id, belong to another topic than the present
    one. Markers of earlier releases have no topic id."""
    earlier = sum(count for id_, count in of.items() if None not in (id_, topic_id) and id_ != topic_id)
    if earlier:
        settings = clients.settings
        raise RedriveRefused(
            f"{settings.dlq_topic} was deleted and recreated (its id is {topic_id} now), and {earlier} markers in "
            f"{settings.redriven_topic} are of the earlier one: they would hide new dead letters at the same offsets. "
            f"Delete {settings.redriven_topic} and let `python -m enrichment.kafka` recreate it. If dead letters were "
            "copied from the earlier topic, some of them have been sent in again before, and would be doubled: leave "
            "them out with the form's `Set aside since`."
        )


def check_settled(clients: Clients) -> None:
    """Raise `PublishRefused` when markers are hidden by an open transaction. After fencing all other redrives it cannot
    be one of theirs."""
    topic = clients.settings.redriven_topic
    for hidden in await_stable(clients, topic).get(topic, ()):
        raise PublishRefused(
            f"a transaction of somebody else is open on {topic} and hides markers: nothing but a redrive may write "
            f"there. It is tried again. {advice(topic, hidden.partition)}"
        )


def check_topic(clients: Clients) -> None:
    """Raise `SettingsError` when a marker could be deleted before its dead letter, or their topic is missing."""
    topic = clients.settings.redriven_topic
    try:
        [config] = describe_topics(clients, topic)
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        raise SettingsError(
            f"there is no topic {topic}: create it with cleanup.policy=compact before dead letters are redriven"
        ) from refused
    deletes = "delete" in config["cleanup.policy"].value
    if deletes and any(int(config[name].value) != -1 for name in ("retention.ms", "retention.bytes")):
        raise SettingsError(
            f"topic {topic} forgets: a letter whose marker is gone would be sent in twice. Set its cleanup.policy to "
            "compact, or retention.ms and retention.bytes to -1"
        )


def topic_id_of(headers: bytes | None) -> str | None:
    """The id of the dead-letter topic that a marker is for, by its headers; None where they do not say."""
    said = dict(unpack_headers(headers or b"")).get(HEADER_LETTER_TOPIC_ID)
    return None if said is None else said.decode(errors="replace")


def position_of(key: bytes) -> Position | None:
    """The position of the dead letter that a marker's key names; None for a key of another form."""
    named = _MARKER_KEY.fullmatch(key)
    return None if named is None else (int(named[1]), int(named[2]))


class RedrivePublisher(LanePublisher):
    """Publishes the outcome of dead letters. Their markers take the place of the group's offsets."""

    def __init__(self, clients: Clients, batch: Batch, refusals: Refusals | None = None) -> None:
        super().__init__(clients, batch, refusals)
        self._redriven: Redriven = {}

    def standing(self) -> GroupPosition:
        """Whether this batch has written its markers. Markers of other batches concern single dead letters."""
        check_settled(self._clients)
        self._check_topic()
        self._redriven = read_markers(self._clients)
        done = self._batch.batch_id in self._redriven.values()
        return GroupPosition.PAST_END if done else GroupPosition.AT_START

    def _begun(self, producer: Producer) -> Transaction:
        return RedriveTransaction(
            super()._begun(producer), self._batch, self._clients.settings.redriven_topic, self._redriven
        )

    def _send_progress(self, producer: Producer) -> None:
        """Nothing: each message was sent with the marker of its dead letter."""


class RedriveTransaction:
    """Sends with each message the marker of its dead letter."""

    def __init__(self, transaction: Transaction, batch: Batch, topic: str, redriven: Redriven) -> None:
        self._transaction = transaction
        self._batch_id = batch.batch_id
        of = [] if batch.topic_id is None else [(HEADER_LETTER_TOPIC_ID, batch.topic_id.encode())]
        self._headers = pack_headers(of)
        self._topic = topic
        self._redriven = redriven

    def send(self, topic: str, messages: Chunk) -> None:
        """Send messages and their markers. Raises `OffsetsMoved` when another batch has sent one of them in again."""
        letters = [letter_of(unpack_headers(packed)) for packed in messages.headers]
        for letter in letters:
            if letter in self._redriven:
                raise OffsetsMoved(
                    f"dead letter {letter[0]}:{letter[1]} was sent in again by {self._redriven[letter]} while batch "
                    f"{self._batch_id} was running. Nothing was published. Clear the batch's `drain` with everything "
                    "downstream: it takes the dead letters that are left."
                )
        self._transaction.send(topic, messages)
        now = now_in_milliseconds()
        markers = Chunk.of(
            [partition for partition, _ in letters],
            [offset for _, offset in letters],
            [now] * len(letters),
            [b"%d:%d" % letter for letter in letters],
            [self._headers] * len(letters),
            [self._batch_id.encode()] * len(letters),
        )
        self._transaction.send(self._topic, markers)


def letter_of(headers: list[Header]) -> Position:
    """The position of a redriven message's dead letter."""
    said: dict[str, Any] = dict(headers)  # of several the last: the message's own stand before ours
    return int(said[HEADER_LETTER_PARTITION]), int(said[HEADER_LETTER_OFFSET])
