"""The tab *Messages*: what is in the topics, newest first, and one message whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import psycopg
from fastapi import APIRouter, HTTPException, Query, Request, Response

from enrichment.enrichers.registry import REGISTRY
from enrichment.inspection.asked import Browse, Whole
from enrichment.inspection.topics import ShownTopic, replayed_topics, shown_topics
from enrichment.page.reading import Reader, as_json, encoded, may_read_messages
from enrichment.page.scans import Scans

Topic = Annotated[str, Query(max_length=249)]
Partition = Annotated[int, Query(ge=0, lt=2**31)]
Offset = Annotated[int, Query(ge=0, lt=2**62)]


class TopicList(msgspec.Struct, frozen=True):
    """The topics that may be looked into, and the fields by which a message is searched for. `note` says what may be
    missing."""

    topics: list[ShownTopic]
    fields: tuple[str, ...]
    note: str = ""


def read_positions(text: str) -> dict[int, int] | None:
    """Positions as a part of an address, such as `0:17,1:4`; None for an empty text. Raises `HTTPException`."""
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


def routes(reader: Reader, scans: Scans) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.get("/topics")
    def topics() -> Response:
        scans.start()  # whoever chooses a topic has one read next
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
        return encoded(await scans.run(Browse(topic, start, partition, read_time(at), text, newer), request))

    @router.get("/message")
    async def message(request: Request, topic: Topic, partition: Partition, offset: Offset) -> Response:
        return encoded(await scans.run(Whole(topic, partition, offset), request))

    return router
