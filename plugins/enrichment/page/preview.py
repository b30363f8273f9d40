"""The tab *Preview*: what today's settings would make of a message, pasted or taken from a topic."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Request, Response

from enrichment.codec.records import NO_HEADERS, NO_TIMESTAMP, pack_headers, unpack_headers
from enrichment.dead_letters.reader import original_value, own_headers
from enrichment.inspection.preview import Previewed, preview
from enrichment.inspection.scan import FoundMessage
from enrichment.inspection.shown import letter_in, told_by
from enrichment.inspection.topics import ShownTopic, TopicRole
from enrichment.page.messages import Offset, Partition, Topic, read_one, topic_of
from enrichment.page.reading import Reader, as_json, may_read_messages
from enrichment.page.scans import Slots
from enrichment.resources import Resources

MOST_BYTES = 1_000_000


async def body_of(request: Request) -> bytes:
    """A request's body. Raises `HTTPException` when it is larger than `MOST_BYTES`, without reading the rest."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"a message of more than {MOST_BYTES:,} bytes is not tried out here")
    return bytes(body)


def check_origin(request: Request) -> None:
    """Raise `HTTPException` for a request that another site's page has made: the browser adds its cookie to that, too.
    A program with a token of its own names no page."""
    site, page = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_own = page is None or urlsplit(page).netloc == request.headers.get("host")
    if site not in (None, "same-origin", "none") or (site is None and not is_own):
        raise HTTPException(403, "this is for the StackLens page itself, not for pages of other sites")


def pasted(value: bytes, topic: str) -> FoundMessage:
    """A message that is in no topic."""
    return FoundMessage(topic, 0, 0, NO_TIMESTAMP, None, NO_HEADERS, value)


def taken(r: Resources, topic: ShownTopic, partition: int, offset: int) -> FoundMessage:
    """The message at a position of an input topic, or what one of another topic was made of: of a dead letter the
    message that it holds, else the message that it came from. Raises `HTTPException` where there is none."""
    found = read_one(r, topic, partition, offset)
    if not topic.has_outputs:
        return found
    letter = letter_in(found.value) if topic.role in (TopicRole.DEAD_LETTERS, TopicRole.REPLAYED_DEAD) else None
    if letter is not None:
        if letter.original_truncated:
            raise HTTPException(422, "this dead letter holds only the beginning of its message")
        headers = own_headers(letter, unpack_headers(found.headers or b""))
        stamp = NO_TIMESTAMP if letter.source_timestamp is None else letter.source_timestamp
        try:
            value = original_value(letter, found.value or b"")
        except ValueError as odd:
            raise HTTPException(422, f"this dead letter's message cannot be restored: {odd}") from odd
        key = None if letter.source_key_encoding in ("null", "omitted") else found.key
        return FoundMessage(
            letter.source_topic, letter.source_partition, letter.source_offset, stamp, key, pack_headers(headers), value
        )
    origin = told_by(found, topic).origin
    if origin is None:
        raise HTTPException(422, "this message does not say which input message it came from")
    return read_one(r, topic_of(r, origin.topic), origin.partition, origin.offset)


def routes(reader: Reader, slots: Slots) -> APIRouter:
    """The routes of this tab."""
    router = APIRouter(dependencies=[may_read_messages()])

    @router.post("/preview")
    async def previewed(
        request: Request, topic: Topic | None = None, partition: Partition | None = None, offset: Offset | None = None
    ) -> Response:
        check_origin(request)
        value = await body_of(request)

        def work(_stopped: Callable[[], bool]) -> Previewed:
            with reader.resources() as r:
                if topic is None or partition is None or offset is None:
                    given = pasted(value, r.settings.kafka.input_topic)
                else:
                    given = taken(r, topic_of(r, topic), partition, offset)
                return preview(r, given, lambda: datetime.now(UTC))

        return as_json(await slots.run(request, work))

    return router
