"""The tab *Messages*: what is in the topics, newest first, and one message whole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import msgspec
import psycopg
from confluent_kafka import KafkaError, KafkaException
from fastapi import APIRouter, HTTPException, Query, Request, Response

from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import RunRefused
from enrichment.inspection.answers import SourceAnswer, answers_in
from enrichment.inspection.conditions import Everything, read_filter
from enrichment.inspection.scan import FoundMessage, Scan, ScanLimits, Scanned
from enrichment.inspection.shown import MessageDetail, MessageRow, detail_of, row_of
from enrichment.inspection.topics import ShownTopic, patient_clients, replayed_topics, shown_topics
from enrichment.kafka.times import to_text
from enrichment.page.reading import Reader, as_json, may_read_messages
from enrichment.page.scans import Slots
from enrichment.resources import Resources

Result = TypeVar("Result")

PAGE = 50  # messages of a list
ONE = ScanLimits(count=1, step=1)
Topic = Annotated[str, Query(max_length=249)]
Partition = Annotated[int, Query(ge=0, lt=2**31)]
Offset = Annotated[int, Query(ge=0, lt=2**62)]


class TopicList(msgspec.Struct, frozen=True):
    """The topics that may be looked into, and the fields by which a message is searched for. `note` says what may be
    missing."""

    topics: list[ShownTopic]
    fields: tuple[str, ...]
    note: str = ""


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


def topic_of(r: Resources, name: str) -> ShownTopic:
    """The topic of that name. Raises `HTTPException` for one that is none of the pipeline's."""
    topics = shown_topics(r.settings)
    if name not in topics:
        topics = shown_topics(r.settings, replayed_topics(r))
    if name not in topics:
        raise HTTPException(404, f"{name!r} is none of the pipeline's topics, which are {', '.join(topics)}")
    return topics[name]


def in_topic(topic: str, work: Callable[[], Result]) -> Result:
    """Do this work. Raises `HTTPException` with words where the brokers do not have the topic, or it has no such
    partition."""
    try:
        return work()
    except RunRefused as refused:
        raise HTTPException(422, str(refused)) from refused
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        raise HTTPException(
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


def read_positions(text: str) -> dict[int, int] | None:
    """The reverse; None for an empty text. Raises `HTTPException`."""
    try:
        found = {int(p): int(offset) for p, _, offset in (pair.partition(":") for pair in text.split(",") if pair)}
    except ValueError:
        raise HTTPException(422, "positions are partitions with offsets, such as 0:17,1:4") from None
    return found or None


def read_time(text: str) -> int | None:
    """A time in ISO 8601 (UTC where it names no zone) in milliseconds, the whole of the last one included; None for an
    empty text. Raises `HTTPException`."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise HTTPException(422, f"{text!r} is no time such as 2026-01-15T10:00:00Z") from None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0, int(zoned.timestamp() * 1000)) + 1


def read_one(r: Resources, topic: ShownTopic, partition: int, offset: int) -> FoundMessage:
    """The message at a position. Raises `HTTPException` where there is none."""
    scan = Scan(patient_clients(r), topic.name, Everything(), ONE)
    found = in_topic(topic.name, lambda: scan.run({partition: offset + 1})).found
    if not found or found[0].offset != offset:
        raise HTTPException(
            404,
            f"offset {offset} of partition {partition} of {topic.name} holds no message (now): it may have been "
            "deleted, belong to an aborted transaction, or be the mark of one",
        )
    return found[0]


def routes(reader: Reader, slots: Slots) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.get("/topics")
    def topics() -> Response:
        fields, note, replayed = ("trace_id", "span_id", *REGISTRY.keys), "", list[str]()
        with reader.resources() as r:
            try:
                replayed = replayed_topics(r)
            except psycopg.Error as failed:  # what is in Kafka can be looked at without it
                note = f"Topics that replays named themselves are not listed, PostgreSQL does not answer: {failed}"
            return as_json(TopicList(list(shown_topics(r.settings, replayed).values()), fields, note))

    @router.get("/messages")
    async def messages(
        request: Request, topic: Topic, partition: Partition | None = None, offset: Offset | None = None,
        at: Annotated[str, Query(max_length=40)] = "", text: Annotated[str, Query(max_length=500)] = "",
        positions: Annotated[str, Query(max_length=30_000)] = "", *, newer: bool = False,
    ) -> Response:  # fmt: skip
        if offset is not None and partition is None:
            raise HTTPException(422, "an offset is one of a partition: name that, too")
        start = read_positions(positions)
        if start is None and offset is not None and partition is not None:
            start = {partition: offset + 1}
        since = read_time(at)

        def work(stopped: Callable[[], bool]) -> MessageList:
            with reader.resources() as r:
                shown = topic_of(r, topic)
                scan = Scan(
                    patient_clients(r), shown.name, read_filter(text), ScanLimits(PAGE),
                    is_newer=newer, stopped=stopped,
                )  # fmt: skip
                chosen = None if partition is None else [partition]
                return list_of(in_topic(topic, lambda: scan.run(start, chosen, since)), shown)

        return as_json(await slots.run(request, work))

    @router.get("/message")
    def message(topic: Topic, partition: Partition, offset: Offset) -> Response:
        with reader.resources() as r:
            shown = topic_of(r, topic)
            found = read_one(r, shown, partition, offset)
        return as_json(WholeMessage(detail_of(found, shown), answers_in(found.value) if shown.has_outputs else []))

    return router
