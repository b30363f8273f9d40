"""The message formats: fields, columns, reasons, headers. No behaviour beyond building and reading them."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, cast

import msgspec


class Event(msgspec.Struct, gc=False):
    """The fields of a `stacklens-enriched` message that the pipeline needs. All are text, as in the topic, except that
    a key may be a number."""

    timestamp: str
    service: str
    level: str
    message: str
    trace_id: str | None = None
    span_id: str | None = None
    source_ip: str | int | float | None = None
    user_id: str | int | float | None = None
    request_id: str | int | float | None = None


@lru_cache
def event_type(keys: tuple[str, ...]) -> type[Event]:
    """`Event` with these fields as keys: those that it lacks follow its own, and all optional ones may be numbers. A
    required field stays text.

    Raises `ValueError` for a name with a quote, a backslash, or a control character. A name that is not a valid
    attribute is only the `encode_name`.
    """
    kind = str | int | float | None
    settled = {field.name for field in msgspec.structs.fields(Event) if field.required or field.type == kind}
    changed = [name for name in dict.fromkeys(keys) if name not in settled]
    if not changed:
        return Event
    names = {
        name if name.isidentifier() and not name.startswith("_") else f"_{place}": name
        for place, name in enumerate(changed)
    }
    fields = [(attribute, kind, None) for attribute in names]
    keyed = msgspec.defstruct("KeyedEvent", fields, bases=(Event,), module=__name__, rename=names, gc=False)
    return cast("type[Event]", keyed)


SOURCE_IP, USER_ID, REQUEST_ID = "source_ip", "user_id", "request_id"
EVENT_FIELDS = Event.__struct_fields__


class Reason(StrEnum):
    """Why a message cannot be processed: values of `error_reason` (dead letters), beside the reasons of lookups, which
    the enrichments declare."""

    INVALID_JSON = "invalid-json"
    INVALID_ENCODING = "invalid-encoding"
    NOT_AN_OBJECT = "not-an-object"
    MISSING_FIELD = "missing-field"
    WRONG_TYPE = "wrong-type"
    EMPTY_MESSAGE = "empty-message"
    NESTED_TOO_DEEP = "nested-too-deep"
    UNREADABLE_HEADERS = "unreadable-headers"
    MESSAGE_TOO_LARGE = "message-too-large"
    MESSAGE_REFUSED = "message-refused"
    PROCESSING_FAILED = "processing-failed"
    # A batch that cannot be published.
    PRODUCER_ERROR = "kafka-producer-error"


class Refusal(NamedTuple):
    """Why a message cannot be processed or published: `error_reason` and `error_detail` of its dead letter."""

    reason: str
    detail: str


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """The tail of an enriched message: what was added, what failed, what was served past its expiry, and when.

    A source in `enrichment_stale` but not in `enrichment_sources` could not be asked; its last answer was that the key
    does not exist.
    """

    enrichment_sources: tuple[str, ...]
    enrichment_errors: tuple[str, ...] | None
    enrichment_stale: tuple[str, ...] | None
    enriched_at: str


PROVENANCE_COLUMNS = Provenance.__struct_fields__

# The names of the pipeline's own headers begin with this.
HEADER_PREFIX = "stacklens-"
# How many headers a message had itself; follows them directly, and only if one of them has such a name, too.
HEADER_OWN = "stacklens-own-headers"
# Where a published message came from: the last header, `MessageOrigin` as JSON. One for all parts, since what a header
# costs is that it is one (docs/decisions/0019).
HEADER_ORIGIN = "stacklens-origin"
# How often a message had been tried before it was sent in again (a redrive sets it; absent means never).
HEADER_ATTEMPTS = "stacklens-attempts"
# Which replay made a message (absent: live draining).
HEADER_REPLAY = "stacklens-replay-id"
# Which version of a message it is: absent on the first publication (1), a higher number on each correction of it. Where
# the message's own headers are marked, even the first says 1.
HEADER_REVISION = "stacklens-revision"
# The position of the dead letter from which a message was sent in again. These four stand before the origin.
HEADER_LETTER_TOPIC = "stacklens-letter-topic"
HEADER_LETTER_PARTITION = "stacklens-letter-partition"
HEADER_LETTER_OFFSET = "stacklens-letter-offset"
HEADER_LETTER_TOPIC_ID = "stacklens-letter-topic-id"  # of markers only
REDRIVE_HEADERS = (HEADER_ATTEMPTS, HEADER_LETTER_TOPIC, HEADER_LETTER_PARTITION, HEADER_LETTER_OFFSET)


class MessageOrigin(msgspec.Struct, frozen=True):
    """The input message that a published message was made of, and the batch that did it. The offset stands last."""

    topic: str
    partition: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    batch_id: str
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that cannot be processed, with enough to find it, to understand it, and to send it again.

    `original_message` is the JSON object itself; text where the bytes are UTF-8 but not a JSON object that every reader
    accepts; base64 (named in `original_encoding`) where they are not even text. `source_timestamp` is in milliseconds
    since the epoch, `purpose` is the kind of its batch. `omitted` names the parts beside the value (key, headers) that
    were too large to be kept; it is absent where nothing was.
    """

    original_message: Any
    original_encoding: str
    original_size_bytes: int
    original_truncated: bool
    error_reason: str
    error_detail: str | None
    stage: str
    source_topic: str
    source_partition: int
    source_offset: int
    source_timestamp: int | None
    source_key: str | None
    source_key_encoding: str
    batch_id: str
    attempts: int
    sent_to_dlq_at: str
    purpose: str = "live"  # dead letters of releases without purposes have none
    omitted: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
