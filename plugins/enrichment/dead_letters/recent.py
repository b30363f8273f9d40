"""The newest dead letters by fingerprint, with samples, for people who look: read within limits of records, bytes and
time, the newest first.

A redrive surveys all of them (`enrichment.dead_letters.redrive`); this looks at the end of the topic only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
from confluent_kafka import KafkaError, KafkaException

from enrichment.batch import OffsetRange, RedriveFilter
from enrichment.codec.records import Chunk, unpack_headers
from enrichment.dead_letters.markers import position_of, topic_id_of
from enrichment.dead_letters.reader import (
    Judged,
    Position,
    RawLetter,
    Verdict,
    judge,
    original_value,
    own_headers,
    service_of,
)
from enrichment.dead_letters.reasons import MAX_ATTEMPTS, default_reasons
from enrichment.dead_letters.redrive import max_letter_bytes, shown
from enrichment.dead_letters.writer import as_text, normalised
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import held_ranges
from enrichment.kafka.source import RangeReader
from enrichment.kafka.topics import read_topic_id

GROUPS = 100
SAMPLES = 2
SAMPLE_CHARACTERS = 2_000
# Offsets of each partition that are read at once, going back, at first and at most: within a slice the oldest come
# first, and dead letters may be large.
LETTER_SLICES = 25, 1_000
MARKER_SLICES = 10_000, 50_000
HEADERS = 20  # of a sample


class Reach(msgspec.Struct, frozen=True):
    """How far to look back at most."""

    records: int = 5_000
    markers: int = 100_000
    value_bytes: int = 32 * 1024 * 1024
    seconds: float = 5.0


class LetterSample(msgspec.Struct, frozen=True):
    """A dead letter with what it holds of its message: `original` is text, cut at `SAMPLE_CHARACTERS` (`is_cut`);
    bytes that are no text are base64."""

    partition: int
    offset: int
    source_topic: str
    source_partition: int
    source_offset: int
    batch_id: str
    attempts: int
    sent_at: str
    detail: str
    is_redriven: bool
    key: str | None
    headers: list[tuple[str, str | None]]
    original: str | None
    encoding: str
    is_cut: bool


class LetterFingerprint(msgspec.Struct, kw_only=True):
    """Dead letters with the same reason, stage, service and detail, apart from what differs from message to message.

    `redriven` of them were sent in again. `ready` would be by a redrive with its defaults, and the others not, for the
    reasons in `why`. `first` and `last` are when they were written. The service is empty where it cannot be read.
    """

    reason: str
    stage: str
    service: str
    detail: str
    letters: int = 0
    redriven: int = 0
    ready: int = 0
    why: list[str] = []
    first: str = ""
    last: str = ""
    samples: list[LetterSample] = []


class RecentLetters(msgspec.Struct, frozen=True, kw_only=True):
    """The newest records of the dead-letter topic. `held` is how many offsets it has in all; `is_whole`: all were
    looked at, else `limit` says what ended the search. `knows_redriven`: all markers were looked at, too."""

    topic: str
    source_topic: str
    held: int
    looked_at: int
    is_whole: bool
    limit: str
    knows_redriven: bool
    groups: list[LetterFingerprint]
    ungrouped: int = 0


class NewestFirst:
    """Goes back from the end of a topic, slice by slice of all its partitions, until a limit is reached."""

    def __init__(
        self, clients: Clients, topic: str, slices: tuple[int, int], records: int, value_bytes: int, until: float
    ) -> None:
        self._clients = clients
        self._topic = topic
        self._first, self._last = slices
        self._left, self._left_bytes, self._until = records, value_bytes, until
        self.held = self.looked_at = 0
        self.limit = ""

    def chunks(self) -> Iterator[Chunk]:
        """The messages; `limit` says afterwards what ended the search before the beginning of the log."""
        logs = list(held_ranges(self._clients, self._topic))
        self.held = sum(r.span for r in logs)
        size = self._first
        while (logs := [r for r in logs if r.span]) and not self._is_over():
            even = max(1, min(size, self._left // len(logs)))
            slices = [OffsetRange(r.partition, max(r.start, r.end - even), r.end) for r in logs]
            yield from self._read(slices)
            logs = [OffsetRange(r.partition, r.start, s.start) for r, s in zip(logs, slices, strict=True)]
            size = min(2 * size, self._last)

    def _read(self, slices: Sequence[OffsetRange]) -> Iterator[Chunk]:
        with RangeReader(self._clients, self._topic, slices, max_bytes=self._left_bytes) as reader:
            yield from reader.chunks()
        seen = sum(r.span for r in reader.ranges)
        self.looked_at += seen
        self._left -= seen
        self._left_bytes -= reader.value_bytes
        if seen < sum(r.span for r in slices):
            self.limit = "bytes"

    def _is_over(self) -> bool:
        for is_over, limit in (
            (self._left <= 0, "records"), (self._left_bytes <= 0, "bytes"), (time.monotonic() > self._until, "time"),
        ):  # fmt: skip
            self.limit = self.limit or (limit if is_over else "")
        return bool(self.limit)


def look_at_recent(clients: Clients, reach: Reach) -> RecentLetters:
    """Group the newest dead letters. Raises `KafkaException` when the brokers do not answer."""
    kafka, until = clients.settings, time.monotonic() + reach.seconds
    redriven, knows_redriven = _redriven(clients, reach, until)
    wanted = RedriveFilter(kafka.input_topic, default_reasons(), MAX_ATTEMPTS, max_letter_bytes(clients))
    newest = NewestFirst(clients, kafka.dlq_topic, LETTER_SLICES, reach.records, reach.value_bytes, until)
    groups = Fingerprints()
    for chunk in newest.chunks():
        groups.take(chunk, judge(chunk, wanted, ()), redriven.__contains__)
    return RecentLetters(
        topic=kafka.dlq_topic,
        source_topic=kafka.input_topic,
        held=newest.held,
        looked_at=newest.looked_at,
        is_whole=not newest.limit,
        limit=newest.limit,
        knows_redriven=knows_redriven,
        groups=groups.largest(),
        ungrouped=groups.ungrouped,
    )


def _redriven(clients: Clients, reach: Reach, until: float) -> tuple[set[Position], bool]:
    """The dead letters that the newest markers name, and whether these are all markers there are; none where nothing
    was ever sent in again."""
    topic_id = read_topic_id(clients, clients.settings.dlq_topic)
    newest = NewestFirst(
        clients, clients.settings.redriven_topic, MARKER_SLICES, reach.markers, reach.value_bytes, until
    )
    found: set[Position] = set()
    try:
        for chunk in newest.chunks():
            for key, value, headers in zip(chunk.keys, chunk.values, chunk.headers, strict=True):
                position = position_of(key or b"")
                if position is not None and value is not None and topic_id_of(headers) in (None, topic_id):
                    found.add(position)
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
    return found, not newest.limit


class Fingerprints:
    """Groups dead letters; those of fingerprints beyond the first `GROUPS` are only counted, as `ungrouped`."""

    def __init__(self) -> None:
        self.ungrouped = 0
        self._groups: dict[tuple[str, ...], LetterFingerprint] = {}

    def take(self, chunk: Chunk, judged: Iterator[Judged], is_redriven: Callable[[Position], bool]) -> None:
        """Count a chunk's records; samples are the newest, which come first chunk by chunk."""
        for one in judged:
            position = chunk.partitions[one.row], chunk.offsets[one.row]
            written = chunk.values[one.row] or b""
            group = self._group(one, written)
            if group is None:
                self.ungrouped += 1
                continue
            done = is_redriven(position)
            group.letters += 1
            group.redriven += done
            group.ready += one.verdict is Verdict.REDRIVE and not done
            if (
                one.verdict is not Verdict.REDRIVE
                and not done
                and one.why not in group.why
                and len(group.why) < SAMPLES
            ):
                group.why = [*group.why, one.why]
            if one.letter is None:
                continue
            at = shown(one.letter.sent_to_dlq_at)
            group.first, group.last = min(group.first or at, at), max(group.last, at)
            if len(group.samples) < SAMPLES:
                group.samples = [*group.samples, _sample(chunk, one.row, one.letter, is_redriven=done)]

    def _group(self, one: Judged, written: bytes) -> LetterFingerprint | None:
        letter = one.letter
        if letter is None:
            named = ("", "", "", one.why)
        else:
            service = service_of(letter, written)
            named = (
                shown(letter.error_reason), shown(letter.stage), shown(service) if isinstance(service, str) else "",
                normalised(shown(letter.error_detail or "")),
            )  # fmt: skip
        if named not in self._groups and len(self._groups) >= GROUPS:
            return None
        reason, stage, service, detail = named
        fresh = LetterFingerprint(reason=reason, stage=stage, service=service, detail=detail)
        return self._groups.setdefault(named, fresh)

    def largest(self) -> list[LetterFingerprint]:
        """The groups, those with the most dead letters that nobody has sent in again first."""
        return sorted(self._groups.values(), key=lambda g: (g.redriven - g.letters, -g.letters, g.reason, g.detail))


def _sample(chunk: Chunk, row: int, letter: RawLetter, *, is_redriven: bool) -> LetterSample:
    value = original_value(letter, chunk.values[row] or b"")
    text, encoding = as_text(value)
    key, _ = as_text(chunk.keys[row])
    headers = own_headers(letter, unpack_headers(chunk.headers[row] or b""))[:HEADERS]
    return LetterSample(
        partition=chunk.partitions[row],
        offset=chunk.offsets[row],
        source_topic=shown(letter.source_topic),
        source_partition=letter.source_partition,
        source_offset=letter.source_offset,
        batch_id=shown(letter.batch_id),
        attempts=letter.attempts,
        sent_at=shown(letter.sent_to_dlq_at),
        detail=shown(letter.error_detail or ""),
        is_redriven=is_redriven,
        key=None if key is None else shown(key),
        headers=[(_readable(name), None if said is None else shown(as_text(said)[0] or "")) for name, said in headers],
        original=None if text is None else text[:SAMPLE_CHARACTERS],
        encoding=encoding,
        is_cut=letter.original_truncated or len(text or "") > SAMPLE_CHARACTERS,
    )


def _readable(name: str) -> str:
    """A header's name as JSON can hold it: Kafka does not require names to be UTF-8."""
    return shown(name.encode(errors="surrogateescape").decode(errors="replace"))
