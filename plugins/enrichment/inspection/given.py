"""The message that is tried out: one that is in no topic, or what a message of a topic was made of."""

from __future__ import annotations

from enrichment.codec.records import NO_HEADERS, NO_TIMESTAMP, pack_headers, unpack_headers
from enrichment.dead_letters.reader import original_value, own_headers
from enrichment.inspection.asked import NotShown, Preview
from enrichment.inspection.browsing import read_one, topic_of
from enrichment.inspection.scan import FoundMessage
from enrichment.inspection.shown import letter_in, told_by
from enrichment.inspection.topics import ShownTopic, TopicRole
from enrichment.resources import Resources


def given(r: Resources, asked: Preview) -> FoundMessage:
    """The message to try out. Raises `NotShown`, and as a scan does."""
    if asked.position is None:
        return FoundMessage(r.settings.kafka.input_topic, 0, 0, NO_TIMESTAMP, None, NO_HEADERS, asked.value)
    topic, partition, offset = asked.position
    return taken(r, topic_of(r, topic), partition, offset)


def taken(r: Resources, topic: ShownTopic, partition: int, offset: int) -> FoundMessage:
    """The message at a position of an input topic, or what one of another topic was made of: of a dead letter the
    message that it holds, else the message that it came from. Raises `NotShown` where there is none."""
    found = read_one(r, topic, partition, offset)
    if not topic.has_outputs:
        return found
    letter = letter_in(found.value) if topic.role in (TopicRole.DEAD_LETTERS, TopicRole.REPLAYED_DEAD) else None
    if letter is not None:
        if letter.original_truncated:
            raise NotShown(422, "this dead letter holds only the beginning of its message")
        headers = own_headers(letter, unpack_headers(found.headers or b""))
        stamp = NO_TIMESTAMP if letter.source_timestamp is None else letter.source_timestamp
        try:
            value = original_value(letter, found.value or b"")
        except ValueError as odd:
            raise NotShown(422, f"this dead letter's message cannot be restored: {odd}") from odd
        key = None if letter.source_key_encoding in ("null", "omitted") else found.key
        return FoundMessage(
            letter.source_topic, letter.source_partition, letter.source_offset, stamp, key, pack_headers(headers), value
        )
    origin = told_by(found, topic).origin
    if origin is None:
        raise NotShown(422, "this message does not say which input message it came from")
    return read_one(r, topic_of(r, origin.topic), origin.partition, origin.offset)
