"""Kafka records before they are sent: read from a file, written to one, or produced to a topic."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

GZIP = b"\x1f\x8b"
NOW = 0  # as a timestamp: the producer's own clock, when it takes the record
PRODUCING = {
    "enable.idempotence": True,
    "compression.type": "lz4",
    "linger.ms": 20,
    "partitioner": "murmur2_random",  # the one of Kafka's Java clients
    "delivery.report.only.error": True,
    "message.max.bytes": 8 * 1024**2,
    "log_level": 3,  # errors: that a new broker is not ready at once is no news
}
FLUSH_SECONDS = 60.0
CHECKS_PER_SECOND = 20


class Record(NamedTuple):
    """What is sent: `timestamp_ms` is in milliseconds since the epoch, or `NOW`."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: list[tuple[str, bytes | None]]


class _Line(msgspec.Struct):
    timestamp: Any = None
    service: Any = None
    request_id: Any = None


def play_file(path: Path, *, keep_times: bool = True) -> Iterator[Record]:
    """The lines of a .jsonl or .jsonl.gz file as records, malformed ones as they are, an empty one as a tombstone.

    The key is the line's request id or else its service. The timestamp is the line's, or `NOW` where it has none or
    with `keep_times` off. Raises `OSError` when the file cannot be read.
    """
    decoder = msgspec.json.Decoder(_Line)
    with open_file(path, "rb") as lines:
        for raw in lines:
            value = raw.rstrip(b"\r\n") or None
            try:
                line = decoder.decode(value or b"{}")
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                line = _Line()
            key = line.request_id or line.service
            yield Record(
                key.encode() if isinstance(key, str) else None,
                value,
                milliseconds(line.timestamp) if keep_times else NOW,
                [],
            )


def milliseconds(text: object) -> int:
    """Milliseconds since the epoch of an ISO 8601 time (UTC when it names no zone); `NOW` for anything else."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        moment = None
    if moment is None:
        return NOW
    return max(NOW, int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000))


def write_file(records: Iterable[Record], path: Path) -> int:
    """Write the values, one a line, and return how many; compressed when the name ends in .gz, a tombstone is empty."""
    written = 0
    with open_file(path, "wb") as file:
        for record in records:
            file.write((record.value or b"") + b"\n")
            written += 1
    return written


def open_file(path: Path, mode: str) -> BinaryIO:
    """The file as bytes: read, it is unpacked when it is gzip whatever its name; written, packed when that says so."""
    if mode == "rb":
        with path.open("rb") as file:
            packed = file.read(len(GZIP)) == GZIP
    else:
        packed = path.suffix == ".gz"
    return cast(BinaryIO, gzip.open(path, mode) if packed else path.open(mode))


def produce(
    records: Iterable[Record],
    bootstrap_servers: str,
    topic: str,
    rate: float = 0,
    advance: Callable[[int], None] = lambda sent: None,
) -> int:
    """Send the records, `rate` a second (0: as fast as it goes), and return how many; `advance` is told now and then.

    When it returns every record is acknowledged by the broker. Raises `KafkaException` for the first one that is
    refused or not acknowledged in time.
    """
    refused: list[KafkaError] = []
    sent = 0

    def on_delivery(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            refused.append(error)

    producer = Producer({**PRODUCING, "bootstrap.servers": bootstrap_servers, "on_delivery": on_delivery})
    check_every = max(1, int(rate / CHECKS_PER_SECOND)) if rate else 1_000
    started = time.monotonic()
    for sent, record in enumerate(records, start=1):
        _send(producer, topic, record)
        if sent % check_every == 0:
            _serve_until(producer, started + sent / rate if rate else 0.0)
            _raise_first(refused)
            advance(sent)
    unsent = producer.flush(FLUSH_SECONDS)
    _raise_first(refused)
    if unsent:
        raise KafkaException(
            KafkaError(KafkaError._TIMED_OUT, f"{unsent} messages not acknowledged by {bootstrap_servers}")
        )
    advance(sent)
    return sent


def _send(producer: Producer, topic: str, record: Record) -> None:
    while True:
        try:
            producer.produce(
                topic, record.value, record.key, timestamp=record.timestamp_ms, headers=cast(Any, record.headers)
            )
            return
        except BufferError:  # the queue is full: let it drain
            producer.poll(0.1)


def _serve_until(producer: Producer, due: float) -> None:
    """Hear of what was delivered, once at least. A poll ends with the first news, so one alone would not last."""
    producer.poll(0)
    while (left := due - time.monotonic()) > 0:
        producer.poll(left)


def _raise_first(refused: list[KafkaError]) -> None:
    if refused:
        raise KafkaException(refused[0])
