"""Topics read page by page and searched step by step, and one message whole: what a browser asks in, what it shows out.

A search is made of steps that a browser asks for, one after the other, each from where the last one has come to: it
shows how far that is, ends when the browser stops, and goes on as far as somebody wants it to.

By a field it goes back from the end of the topic, or from a time. What became of an input message has that message's
time, or is of later: all of it is found from the first message of that time on, most of it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException

from enrichment.conservation.origins import Origin
from enrichment.errors import RunRefused
from enrichment.inspection.answers import SourceAnswer, answers_in
from enrichment.inspection.asked import Browse, NotShown, Search, Whole
from enrichment.inspection.conditions import CameFrom, Everything, HasField, read_filter
from enrichment.inspection.scan import FoundMessage, Scan, ScanLimits, Scanned
from enrichment.inspection.shown import MessageDetail, MessageRow, detail_of, row_of
from enrichment.inspection.topics import ShownTopic, patient_clients, replayed_topics, shown_topics
from enrichment.kafka.times import to_text
from enrichment.resources import Resources

Result = TypeVar("Result")

PAGE = 50  # messages of a list
ONE = ScanLimits(count=1, step=1)
STEP = ScanLimits(count=100, messages=500_000, bytes=512 * 1024**2, seconds=2.0)


class MessageList(msgspec.Struct, frozen=True):
    """A page of a topic; the rest is as in `Scanned`, with positions and time as texts."""

    rows: list[MessageRow]
    older: str
    newer: str
    messages: int
    bytes: int
    oldest_at: str | None
    is_done: bool


class WholeMessage(msgspec.Struct, frozen=True):
    """A message, and what its sources had said, where it is an enriched one."""

    detail: MessageDetail
    answers: list[SourceAnswer]


def browse(r: Resources, asked: Browse, stopped: Callable[[], bool]) -> MessageList:
    """A page of a topic. Raises `NotShown`, and as `Scan` does."""
    shown = topic_of(r, asked.topic)
    scan = Scan(
        patient_clients(r), shown.name, read_filter(asked.text), ScanLimits(PAGE),
        is_newer=asked.is_newer, stopped=stopped,
    )  # fmt: skip
    chosen = None if asked.partition is None else [asked.partition]
    return list_of(in_topic(asked.topic, lambda: scan.run(asked.positions, chosen, asked.at)), shown)


def search(r: Resources, asked: Search, stopped: Callable[[], bool]) -> MessageList:
    """A step of a search. Raises as `browse`."""
    shown, origin = topic_of(r, asked.topic), asked.origin
    if origin is None:
        scan = Scan(
            patient_clients(r), shown.name, HasField(asked.by, asked.value, or_text=True), STEP, stopped=stopped
        )
        return list_of(in_topic(asked.topic, lambda: scan.run(asked.positions, at=asked.at)), shown)
    since = time_of(r, origin) if asked.positions is None else None
    scan = Scan(patient_clients(r), shown.name, CameFrom(origin), STEP, is_newer=True, stopped=stopped)
    return list_of(in_topic(asked.topic, lambda: scan.run(asked.positions, at=since, like=origin.partition)), shown)


def whole(r: Resources, asked: Whole) -> WholeMessage:
    """One message. Raises as `browse`."""
    shown = topic_of(r, asked.topic)
    found = read_one(r, shown, asked.partition, asked.offset)
    return WholeMessage(detail_of(found, shown), answers_in(found.value) if shown.has_outputs else [])


def topic_of(r: Resources, name: str) -> ShownTopic:
    """The topic of that name. Raises `NotShown` for one that is none of the pipeline's."""
    topics = shown_topics(r.settings)
    if name not in topics:
        topics = shown_topics(r.settings, replayed_topics(r))
    if name not in topics:
        raise NotShown(404, f"{name!r} is none of the pipeline's topics, which are {', '.join(topics)}")
    return topics[name]


def in_topic(topic: str, work: Callable[[], Result]) -> Result:
    """Do this work. Raises `NotShown` where the brokers do not have the topic, or it has no such partition."""
    try:
        return work()
    except RunRefused as refused:
        raise NotShown(422, str(refused)) from refused
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        raise NotShown(
            404, f"the brokers have no topic {topic} yet; `python -m enrichment.kafka` creates those of the settings"
        ) from refused


def list_of(scanned: Scanned, topic: ShownTopic) -> MessageList:
    """What a scan found, as it is shown."""
    return MessageList(
        rows=[row_of(message, topic) for message in scanned.found],
        older=positions_text(scanned.older),
        newer=positions_text(scanned.newer),
        messages=scanned.messages,
        bytes=scanned.bytes,
        oldest_at=None if scanned.oldest_at is None else to_text(scanned.oldest_at),
        is_done=scanned.is_done,
    )


def positions_text(positions: dict[int, int]) -> str:
    """Positions as a part of an address: `0:17,1:4`."""
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(positions.items()))


def read_one(r: Resources, topic: ShownTopic, partition: int, offset: int) -> FoundMessage:
    """The message at a position. Raises `NotShown` where there is none."""
    scan = Scan(patient_clients(r), topic.name, Everything(), ONE)
    found = in_topic(topic.name, lambda: scan.run({partition: offset + 1})).found
    if not found or found[0].offset != offset:
        raise NotShown(
            404,
            f"offset {offset} of partition {partition} of {topic.name} holds no message (now): it may have been "
            "deleted, belong to an aborted transaction, or be the mark of one",
        )
    return found[0]


def time_of(r: Resources, origin: Origin) -> int:
    """The time of an input message in milliseconds; 0 where it has none, or has left its topic."""
    try:
        return max(0, read_one(r, topic_of(r, origin.topic), origin.partition, origin.offset).timestamp)
    except NotShown:
        return 0
