"""In the tab *Search*: what a dead letter's redrive did with it, or is about to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from confluent_kafka import KafkaError, KafkaException
from fastapi import APIRouter, HTTPException, Query, Request, Response

from enrichment.inspection.batches import BatchFate, fates_of
from enrichment.inspection.redrives import Marker, MarkerSearch, find_marker, open_redrives
from enrichment.inspection.scan import FoundMessage
from enrichment.inspection.topics import TopicRole, patient_clients
from enrichment.kafka.clients import Clients
from enrichment.page.messages import Offset, Partition, Topic, positions_text, read_one, read_positions, topic_of
from enrichment.page.reading import Reader, as_json, may_read_messages
from enrichment.page.scans import Slots
from enrichment.statements import Statements


class Redriven(msgspec.Struct, frozen=True):
    """Whether a dead letter was sent in again. Without a `marker` it was not, as far as was looked: the search goes on
    from `next`, which is empty where all was looked at.

    `batches` are that of the marker, if the ledger has it, or the redrives that have chosen it and are not published.
    """

    marker: Marker | None
    batches: list[BatchFate]
    next: str


def search_marker(clients: Clients, letter: FoundMessage, positions: dict[int, int] | None) -> MarkerSearch:
    """As `find_marker`; no marker where nothing was ever sent in again."""
    try:
        return find_marker(clients, letter, positions)
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        return MarkerSearch(None, {}, is_done=True)


def routes(reader: Reader, slots: Slots) -> APIRouter:
    """The routes of this part."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.get("/redriven")
    async def redriven(
        request: Request, topic: Topic, partition: Partition, offset: Offset,
        positions: Annotated[str, Query(max_length=100)] = "",
    ) -> Response:  # fmt: skip
        start = read_positions(positions)

        def work(_: Callable[[], bool]) -> Redriven:
            with reader.resources() as r:
                shown = topic_of(r, topic)
                if shown.role is not TopicRole.DEAD_LETTERS:
                    raise HTTPException(422, f"only dead letters of {r.settings.kafka.dlq_topic} are sent in again")
                letter = read_one(r, shown, partition, offset)
                clients = patient_clients(r)
                found = search_marker(clients, letter, start)
                with reader.connection() as connection:
                    statements = Statements(connection)
                    batches = (
                        open_redrives(statements, clients, letter)
                        if found.marker is None
                        else fates_of(statements, clients.settings, None, [found.marker.batch_id])
                    )
            return Redriven(found.marker, batches, "" if found.is_done else positions_text(found.reached))

        return as_json(await slots.run(request, work))

    return router
