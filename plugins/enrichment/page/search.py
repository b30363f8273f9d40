"""The tab *Search*: one step of a search through a topic, and the batches that a message was in.

A search is made of steps that a browser asks for, one after the other, each from where the last one has come to: it
shows how far that is, ends when the browser stops, and goes on as far as somebody wants it to.

By a field it goes back from the end of the topic, or from a time. What became of an input message has that message's
time, or is of later: all of it is found from the first message of that time on, most of it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response

from enrichment.conservation.origins import Origin
from enrichment.inspection.batches import MOST_BATCHES, BatchFate, fates_of
from enrichment.inspection.conditions import CameFrom, HasField, MessageCondition
from enrichment.inspection.scan import Scan, ScanLimits
from enrichment.inspection.topics import patient_clients
from enrichment.page.messages import (
    MessageList,
    Offset,
    Partition,
    Topic,
    in_topic,
    list_of,
    read_one,
    read_positions,
    read_time,
    topic_of,
)
from enrichment.page.reading import Reader, as_json, may_read_messages
from enrichment.page.scans import Slots
from enrichment.resources import Resources
from enrichment.statements import Statements

STEP = ScanLimits(count=100, messages=500_000, bytes=512 * 1024**2, seconds=2.0)


class Fates(msgspec.Struct, frozen=True):
    """The batches that had a message, the first claimed first."""

    batches: list[BatchFate]


def read_condition(by: str, value: str) -> tuple[MessageCondition, Origin | None]:
    """What is looked for, and the input message that it came from, if that is known. Raises `HTTPException`."""
    if by != "origin":
        return HasField(by, value, or_text=True), None
    topic, _, position = value.rpartition("/")
    topic, _, partition = topic.rpartition("/")
    if not (topic and partition.isdigit() and position.isdigit()):
        raise HTTPException(422, "an origin is the position of an input message: topic/partition/offset")
    origin = Origin(topic, int(partition), int(position))
    return CameFrom(origin), origin


def time_of(r: Resources, origin: Origin) -> int:
    """The time of an input message in milliseconds; 0 where it has none, or has left its topic."""
    try:
        return max(0, read_one(r, topic_of(r, origin.topic), origin.partition, origin.offset).timestamp)
    except HTTPException:
        return 0


def routes(reader: Reader, slots: Slots) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.get("/search")
    async def search(
        request: Request, topic: Topic, by: Annotated[str, Query(min_length=1, max_length=200)],
        value: Annotated[str, Query(min_length=1, max_length=500)],
        positions: Annotated[str, Query(max_length=30_000)] = "", at: Annotated[str, Query(max_length=40)] = "",
    ) -> Response:  # fmt: skip
        condition, origin = read_condition(by, value)
        start, until = read_positions(positions), read_time(at)

        def work(stopped: Callable[[], bool]) -> MessageList:
            with reader.resources() as r:
                shown = topic_of(r, topic)
                is_newer, like, since = origin is not None, None, until
                if origin is not None:
                    like, since = origin.partition, time_of(r, origin) if start is None else None
                scan = Scan(patient_clients(r), shown.name, condition, STEP, is_newer=is_newer, stopped=stopped)
                return list_of(in_topic(topic, lambda: scan.run(start, at=since, like=like)), shown)

        return as_json(await slots.run(request, work))

    @router.get("/fates")
    def fates(
        topic: Topic, partition: Partition, offset: Offset,
        batch_id: Annotated[list[str], Query(max_length=MOST_BATCHES)] = [],  # noqa: B006  FastAPI copies it
    ) -> Response:  # fmt: skip
        with reader.open_resources() as r, reader.connection() as connection:
            origin = Origin(topic, partition, offset)
            return as_json(Fates(fates_of(Statements(connection), r.settings.kafka, origin, batch_id)))

    return router
