"""A message that is set aside in, its dead letter out: one that its topic takes, whatever the message is like.

A letter has the key and timestamp of its message. Where the topic would refuse these, it has the time at which it was
set aside, and the place of its message as the key; `source_timestamp` and `source_key` say what they were.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from enrichment.columns import Chunk, Header, message_size, pack_headers, unpack_headers
from enrichment.limits import CLOCKS_MS, TopicLimits
from enrichment.messages import HEADER_ATTEMPTS, ORIGIN_HEADERS, REDRIVE, REDRIVE_HEADERS, Batch, DeadLetter, Reason

_encode = msgspec.json.Encoder().encode
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
        """The letters of those rows of `messages` that are dead, with reason and detail of each.

        `headers` are those that they are published with, packed.
        """
        rows = sorted(dead)
        taken = messages.take(pa.array(rows, pa.int64()))
        chosen = taken.to_pylist()
        letters = [self._fit(m, headers[row].as_py(), stage, *dead[row]) for row, m in zip(rows, chosen, strict=True)]
        return Chunk.of(
            [m["partition"] for m in chosen],
            [m["offset"] for m in chosen],
            self._times(taken, [kept in self.limits.known for _, kept, _ in letters]),
            [key for key, _, _ in letters],
            [kept for _, kept, _ in letters],
            [value for _, _, value in letters],
        )

    def _times(self, messages: pa.RecordBatch, known: Sequence[bool]) -> list[int]:
        """The letters' timestamps: of those that their topic has refused or may refuse, the time of now."""
        now = milliseconds(self.now)
        refused = self.limits.out_of_time(messages["timestamp"], now, -CLOCKS_MS) | np.array(known, dtype=bool)
        times: list[int] = np.where(refused, now, messages["timestamp"].to_numpy()).tolist()
        return times

    def _fit(
        self, message: dict[str, Any], headers: bytes, stage: str, reason: str, detail: str
    ) -> tuple[bytes | None, bytes, bytes]:
        """Key, headers and value of a letter; of what is too large here as well, as much as fits."""
        value, max_bytes = message["value"] or b"", self.limits.max_bytes
        key = self._key(message, message["key"], needed=headers in self.limits.known)
        letter = self._letter(message, unpack_headers(headers), stage, reason, detail)
        encoded = _encode(letter)
        if message_size(encoded, key, headers) <= max_bytes:
            return key, headers, encoded
        cut = msgspec.structs.replace(letter, original_message="", original_encoding="base64", original_truncated=True)
        if message_size(_encode(cut), key, headers) > max_bytes:
            # Not the value is what is too large: then only where the message stands is kept of the rest.
            cut = msgspec.structs.replace(cut, source_key=None, source_key_encoding="omitted")
            headers = pack_headers(self._added(unpack_headers(headers)))
            key = self._key(message, None, needed=headers in self.limits.known)
        room = max(0, max_bytes - message_size(_encode(cut), key, headers))
        head = base64.b64encode(value[: room // 4 * 3]).decode()
        return key, headers, _encode(msgspec.structs.replace(cut, original_message=head))

    def _key(self, message: dict[str, Any], key: bytes | None, *, needed: bool = False) -> bytes | None:
        """A letter's key, which a compacted topic must have."""
        if key is not None or not (self.limits.compacted or needed):
            return key
        return position_key(self.batch.source_topic, message["partition"], message["offset"])

    def _added(self, headers: Sequence[Header]) -> Sequence[Header]:
        """The headers that the pipeline has added: the last ones, since a message may have some of the same names."""
        added = len(self.batch.purpose.headers) + len(ORIGIN_HEADERS)
        return headers[-(added + len(REDRIVE_HEADERS) * (self.batch.purpose.kind == REDRIVE)) :]

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
            source_timestamp=message["timestamp"] or None,
            source_key=key,
            source_key_encoding=key_encoding,
            batch_id=self.batch.batch_id,
            attempts=attempts_of(headers),
            sent_to_dlq_at=self.now,
            purpose=self.batch.purpose.kind,
        )


def position_key(topic: str, partition: int, offset: int) -> bytes:
    """The key of a letter whose message had none, in a topic that must have one."""
    return f"{topic}:{partition}:{offset}".encode()


def milliseconds(now: str) -> int:
    """A processing time (RFC 3339) as a Kafka timestamp."""
    return round(datetime.fromisoformat(now).timestamp() * 1000)


def original_of(value: bytes | None, reason: str) -> tuple[Any, str]:
    """What a letter carries of a value, and how it is encoded."""
    if value is None:
        return None, "null"
    return as_text(value) if reason in AS_TEXT else (msgspec.Raw(value), "json")


def attempts_of(headers: Sequence[Header]) -> int:
    """How often the message has been tried, this time included; a redrive says so in a header.

    It puts its own behind what the message had: the last one counts.
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
