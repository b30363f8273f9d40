"""The tab *Search*: one step of a search through a topic, and the batches that a message was in."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, HTTPException, Query, Request, Response

from enrichment.conservation.origins import Origin
from enrichment.inspection.asked import Search
from enrichment.inspection.batches import MOST_BATCHES, BatchFate, fates_of
from enrichment.page.messages import Offset, Partition, Topic, read_positions, read_time
from enrichment.page.reading import Reader, as_json, encoded, may_read_messages
from enrichment.page.scans import Scans
from enrichment.statements import Statements


class Fates(msgspec.Struct, frozen=True):
    """The batches that had a message, the first claimed first."""

    batches: list[BatchFate]


def read_origin(by: str, value: str) -> Origin | None:
    """The input message by which others are looked for; None for a field's value. Raises `HTTPException`."""
    if by != "origin":
        return None
    topic, _, position = value.rpartition("/")
    topic, _, partition = topic.rpartition("/")
    if not (topic and partition.isdigit() and position.isdigit()):
        raise HTTPException(422, "an origin is the position of an input message: topic/partition/offset")
    return Origin(topic, int(partition), int(position))


def routes(reader: Reader, scans: Scans) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.get("/search")
    async def search(
        request: Request, topic: Topic, by: Annotated[str, Query(min_length=1, max_length=200)],
        value: Annotated[str, Query(min_length=1, max_length=500)],
        positions: Annotated[str, Query(max_length=30_000)] = "", at: Annotated[str, Query(max_length=40)] = "",
    ) -> Response:  # fmt: skip
        step = Search(topic, by, value, read_origin(by, value), read_positions(positions), read_time(at))
        return encoded(await scans.run(step, request))

    @router.get("/fates")
    def fates(
        topic: Topic, partition: Partition, offset: Offset,
        batch_id: Annotated[list[str], Query(max_length=MOST_BATCHES)] = [],  # noqa: B006  FastAPI copies it
    ) -> Response:  # fmt: skip
        with reader.open_resources() as r, reader.connection() as connection:
            origin = Origin(topic, partition, offset)
            return as_json(Fates(fates_of(Statements(connection), r.settings.kafka, origin, batch_id)))

    return router
