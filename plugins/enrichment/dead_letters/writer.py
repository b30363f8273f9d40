"""A failed message in, its dead letter out, in a form that the dead-letter topic accepts.

A dead letter has the key and timestamp of its message. Where the topic would refuse these, it has the processing time
and the position of its message instead; `source_timestamp` and `source_key` keep the originals.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from enrichment.batch import Batch
from enrichment.codec.headers import pipelines_own, unreadable
from enrichment.codec.json_text import is_strict
from enrichment.codec.records import NO_TIMESTAMP, Chunk, Header, message_size, pack_headers, unpack_headers
from enrichment.kafka.topic_limits import CLOCKS_MS, TopicLimits
from enrichment.messages import HEADER_ATTEMPTS, DeadLetter, Reason

_encode = msgspec.json.Encoder().encode
HEADERS, KEY = "headers", "key"  # what may be omitted of a message beside its value
Omitted = tuple[str, ...]
# What a dead letter may omit, in the order of preference; headers that no reader would get are always omitted.
_CHOICES: tuple[Omitted, ...] = ((), (HEADERS,), (KEY,), (HEADERS, KEY))
_WITHOUT_HEADERS = tuple(omitted for omitted in _CHOICES if HEADERS in omitted)
# With these reasons the value need not be a JSON object: its dead letter carries it as text.
AS_TEXT = frozenset(
    {
        Reason.INVALID_JSON,
        Reason.INVALID_ENCODING,
        Reason.NOT_AN_OBJECT,
        Reason.EMPTY_MESSAGE,
        Reason.NESTED_TOO_DEEP,
        Reason.PROCESSING_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Writes a batch's dead letters. `now` is the processing time, `limits` what their topic takes."""

    batch: Batch
    now: str
    limits: TopicLimits

    def write(
        self, messages: pa.RecordBatch, headers: pa.Array, stage: str, dead: Mapping[int, tuple[Any, str]]
    ) -> Chunk:
        """The dead letters of those rows of `messages` that are dead, with reason and detail of each.

        `headers` are the packed headers with which they are published.
        """
        rows = sorted(dead)
        taken = messages.take(pa.array(rows, pa.int64()))
        chosen, beyond = taken.to_pylist(), unreadable(taken["headers"])
        letters = [
            self._fit(m, headers[row].as_py(), _WITHOUT_HEADERS if n in beyond else _CHOICES, stage, *dead[row])
            for n, (row, m) in enumerate(zip(rows, chosen, strict=True))
        ]
        return Chunk.of(
            [m["partition"] for m in chosen],
            [m["offset"] for m in chosen],
            self._times(taken, [kept in self.limits.known for _, kept, _ in letters]),
            [key for key, _, _ in letters],
            [kept for _, kept, _ in letters],
            [value for _, _, value in letters],
        )

    def _times(self, messages: pa.RecordBatch, known: Sequence[bool]) -> list[int]:
        """The dead letters' timestamps: the processing time where the topic has refused or may refuse the original."""
        now = milliseconds(self.now)
        refused = self.limits.out_of_time(messages["timestamp"], now, -CLOCKS_MS) | np.array(known, dtype=bool)
        times: list[int] = np.where(refused, now, messages["timestamp"].to_numpy()).tolist()
        return times

    def _fit(
        self, message: dict[str, Any], headers: bytes, choices: Sequence[Omitted], stage: str, reason: str, detail: str
    ) -> tuple[bytes | None, bytes, bytes]:
        """Key, headers and value of a dead letter, cut to the size that the topic accepts.

        The value is cut before key and headers go. Where these alone are too large, they are omitted whole, and the
        value stays as it is if it can. The dead letter names what is missing.
        """
        letter, max_bytes = self._letter(message, unpack_headers(headers), stage, reason, detail), self.limits.max_bytes
        for omitted in choices:
            kept = self._pipelines_own(headers) if HEADERS in omitted else headers
            key = self._key(message, None if KEY in omitted else message["key"], needed=kept in self.limits.known)
            said = _without(letter, omitted)
            whole = _encode(said)
            if message_size(whole, key, kept) <= max_bytes:
                return key, kept, whole
            cut = msgspec.structs.replace(said, original_message="", original_encoding="base64")
            room = max_bytes - message_size(_encode(cut), key, kept)
            if room >= 0 or omitted == choices[-1]:
                break
        value = message["value"] or b""
        head = value[: max(0, room) // 4 * 3]
        text, truncated = base64.b64encode(head).decode(), len(head) < len(value)
        return key, kept, _encode(msgspec.structs.replace(cut, original_message=text, original_truncated=truncated))

    def _pipelines_own(self, headers: bytes) -> bytes:
        return pack_headers(pipelines_own(unpack_headers(headers), redriven=self.batch.purpose.letters is not None))

    def _key(self, message: dict[str, Any], key: bytes | None, *, needed: bool = False) -> bytes | None:
        """A dead letter's key, which a compacted topic requires."""
        if key is not None or not (self.limits.compacted or needed):
            return key
        return position_key(self.batch.source_topic, message["partition"], message["offset"])

    def _letter(
        self, message: dict[str, Any], headers: Sequence[Header], stage: str, reason: str, detail: str
    ) -> DeadLetter:
        value: bytes | None = message["value"]
        key, key_encoding = as_text(message["key"])
        original, encoding = original_of(value, reason)
        return DeadLetter(
            original_message=original,
            original_encoding=encoding,
            original_size_bytes=len(value or b""),
            original_truncated=False,
            error_reason=reason,
            error_detail=detail,
            stage=stage,
            source_topic=self.batch.source_topic,
            source_partition=message["partition"],
            source_offset=message["offset"],
            source_timestamp=None if message["timestamp"] == NO_TIMESTAMP else message["timestamp"],
            source_key=key,
            source_key_encoding=key_encoding,
            batch_id=self.batch.batch_id,
            attempts=attempts_of(headers) if self.batch.purpose.letters is not None else 1,
            sent_to_dlq_at=self.now,
            purpose=self.batch.purpose.kind,
        )


def position_key(topic: str, partition: int, offset: int) -> bytes:
    """The key of a dead letter whose message had none, in a topic that requires one."""
    return f"{topic}:{partition}:{offset}".encode()


def milliseconds(now: str) -> int:
    """A processing time (RFC 3339) as a Kafka timestamp."""
    return round(datetime.fromisoformat(now).timestamp() * 1000)


def _without(letter: DeadLetter, omitted: Omitted) -> DeadLetter:
    if not omitted:
        return letter
    keyless = {"source_key": None, "source_key_encoding": "omitted"} if KEY in omitted else {}
    return msgspec.structs.replace(letter, omitted=omitted, **keyless)


def original_of(value: bytes | None, reason: str) -> tuple[Any, str]:
    """A value as a dead letter carries it, and its encoding: the object as it came where every JSON reader accepts it,
    else its text."""
    if value is None:
        return None, "null"
    return as_text(value) if reason in AS_TEXT or not is_strict(value) else (msgspec.Raw(value), "json")


def attempts_of(headers: Sequence[Header]) -> int:
    """How often a redriven message has been tried, this time included, by its headers.

    They follow the message's own: the last one counts.
    """
    tried = next((value for name, value in reversed(headers) if name == HEADER_ATTEMPTS), None)
    return int(tried) + 1 if tried is not None and tried.isdigit() and len(tried) < 10 else 1


def as_text(data: bytes | None) -> tuple[str | None, str]:
    """Bytes as a JSON string: the text where they are UTF-8, else base64, and which of the two."""
    if data is None:
        return None, "null"
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"


_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`""")
_HEX = re.compile(
    r"\b(?:0x[0-9a-f]+|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{8,})\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(UTF-\d+)|\d+(?:[.,]\d+)*")  # the name of an encoding is no number


@lru_cache(maxsize=10_000)
def normalised(detail: str) -> str:
    """A detail without what differs from message to message: `row 17 has 'x'` becomes `row <n> has <quoted>`."""
    return _NUMBER.sub(lambda found: found[1] or "<n>", _HEX.sub("<hex>", _QUOTED.sub("<quoted>", detail)))
