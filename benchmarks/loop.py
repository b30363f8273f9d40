"""The peers: the plain loop over messages that a good engineer writes, doing the same work as the pipeline.

`confluent-kafka`, a JSON library, `cachetools.TTLCache` in front of the lookups, risk rules as plain code, a
transaction with the offsets each 10,000 messages. `same_work` proves that it publishes the same.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from benchmarks.answers import Answers, TableAnswers
from benchmarks.loop_risk import risk_of
from benchmarks.passthrough import exchange
from benchmarks.stand import Stand
from enrichment.batch import OffsetRange
from enrichment.codec.hot_loops import quiet_gc
from enrichment.enrichers.registry import OK
from enrichment.messages import (
    HEADER_ORIGIN,
    REQUEST_ID,
    SOURCE_IP,
    USER_ID,
    Event,
    Reason,
)
from enrichment.settings import Settings

COMMIT_EVERY = 10_000
REQUIRED = ("timestamp", "service", "level", "message")
OPTIONAL = tuple(name for name in Event.__struct_fields__ if name not in REQUIRED)
ALL_TEXT = [str] * len(REQUIRED)
TEXT_OR_NULL = {str, type(None)}
NO_RISK = {"business_risk_score": None, "business_risk_level": None, "business_fraud_indicators": None}


class Codec(NamedTuple):
    """A JSON library: `loads` raises `ValueError` or `RecursionError` for what it cannot read."""

    loads: Callable[[bytes], Any]
    dumps: Callable[[Any], bytes]


class Dead(Exception):
    """A message that goes to the dead letters."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def _standard_library() -> Codec:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    # Made once: `json.loads` and `json.dumps` with options make a new one for each call.
    decode = json.JSONDecoder(parse_constant=refuse).decode
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return Codec(lambda value: decode(value.decode()), lambda message: encode(message).encode())


class Peer(NamedTuple):
    """A loop: how it reads and writes JSON, and what its caches know when it starts."""

    codec: Codec
    answers: type[Answers]


ORJSON = Codec(orjson.loads, orjson.dumps)
PEERS = {
    "loop_orjson_from_tables": Peer(ORJSON, TableAnswers),
    "loop_orjson_preloaded": Peer(ORJSON, Answers),
    "loop_json_preloaded": Peer(_standard_library(), Answers),
}


class Loop:
    """Makes of each message what the pipeline makes of it."""

    def __init__(self, codec: Codec, answers: Answers, topic: str, partitions: Sequence[int]) -> None:
        self._codec = codec
        self._answers = answers
        self._topic = topic
        # Nearly all of it is the same for all messages of a partition.
        origins = {p: json.dumps({"topic": topic, "partition": p, "batch_id": "loop"}) for p in partitions}
        self._origins = {p: text[:-1].encode() + b',"offset":%d}' for p, text in origins.items()}

    def headers(self, message: Any) -> list[Any]:
        """The message's own headers, then the one that says where it came from."""
        origin = self._origins[message.partition()] % message.offset()
        return [*(message.headers() or ()), (HEADER_ORIGIN, origin)]

    def enrich(self, value: bytes | None, now: str) -> bytes:
        """The enriched message. Raises `Dead`."""
        event = self._read(value)
        place = self._answers.look_up(SOURCE_IP, event.get(SOURCE_IP))
        profile = self._answers.look_up(USER_ID, event.get(USER_ID))
        context = self._answers.look_up(REQUEST_ID, event.get(REQUEST_ID))
        event.update(place.columns)
        event.update(profile.columns)
        event.update(context.columns)
        event.update(risk_of(context.columns, place, profile) if context.status == OK else NO_RISK)
        sources, errors = [], []
        for source, known in (("geo-ip", place), ("user-profile", profile), ("business-context", context)):
            if known.status == OK:
                sources.append(source)
            elif known.status and known.status not in errors:
                errors.append(known.status)
        event["enrichment_sources"] = sources
        event["enrichment_errors"] = errors or None
        event["enrichment_stale"] = None
        event["enriched_at"] = now
        return self._codec.dumps(event)

    def _read(self, value: bytes | None) -> dict[str, Any]:
        if not value:
            raise Dead(Reason.EMPTY_MESSAGE)
        try:
            event = self._codec.loads(value)
        except (ValueError, RecursionError) as why:
            raise Dead(Reason.INVALID_JSON) from why
        if not isinstance(event, dict):
            raise Dead(Reason.NOT_AN_OBJECT)
        if list(map(type, map(event.get, REQUIRED))) != ALL_TEXT:
            raise Dead(Reason.WRONG_TYPE if event.keys() >= set(REQUIRED) else Reason.MISSING_FIELD)
        if not TEXT_OR_NULL.issuperset(map(type, map(event.get, OPTIONAL))):
            raise Dead(Reason.WRONG_TYPE)
        return event

    def dead_letter(self, message: Any, reason: Reason, now: str) -> bytes:
        """The dead letter of a message, with its value as base64."""
        value, (_, timestamp) = message.value(), message.timestamp()
        return self._codec.dumps(
            {
                "original_message": None if value is None else base64.b64encode(value).decode(),
                "original_encoding": "null" if value is None else "base64",
                "error_reason": reason,
                "source_topic": self._topic,
                "source_partition": message.partition(),
                "source_offset": message.offset(),
                "source_timestamp": timestamp,
                "sent_to_dlq_at": now,
            }
        )


def run_loop(stand: Stand, settings: Settings, codec: Codec, answers: Answers, ranges: Sequence[OffsetRange]) -> float:
    """Enrich and publish the ranges' messages; returns the seconds from making the clients to the last commit."""
    start = time.perf_counter()
    kafka = settings.kafka
    loop = Loop(codec, answers, kafka.input_topic, [r.partition for r in ranges])
    with quiet_gc(), exchange(stand, settings, ranges, COMMIT_EVERY) as (producer, polls):
        for messages in polls:
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            for message in messages:
                topic = kafka.output_topic
                try:
                    value = loop.enrich(message.value(), now)
                except Dead as dead:
                    topic, value = kafka.dlq_topic, loop.dead_letter(message, dead.reason, now)
                headers, (_, timestamp) = loop.headers(message), message.timestamp()
                while True:
                    try:
                        producer.produce(
                            topic, value, message.key(), message.partition(), timestamp=timestamp, headers=headers
                        )
                        break
                    except BufferError:  # the queue is full: let it drain
                        producer.poll(0.1)
            producer.poll(0)
    return time.perf_counter() - start
