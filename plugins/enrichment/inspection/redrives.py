"""A dead letter in; out comes whether it was sent in again, by which batch and when, or is about to be.

Its marker says so, for as long as there are dead letters at all: whatever became of it may have left its topic since. A
redrive that is not published has no markers yet, and is found in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException

from enrichment.batch import OffsetRange, Purpose
from enrichment.codec.records import Chunk, pack_headers
from enrichment.dead_letters.markers import topic_id_of
from enrichment.dead_letters.reader import Position, Verdict, judge
from enrichment.dead_letters.redrive import group_of
from enrichment.inspection.asked import NotShown, WasRedriven
from enrichment.inspection.batches import BatchFate, fates_of
from enrichment.inspection.browsing import positions_text, read_one, topic_of
from enrichment.inspection.scan import FoundMessage, Scan, ScanLimits
from enrichment.inspection.shown import letter_in
from enrichment.inspection.topics import DATABASE_SECONDS, TopicRole, patient_clients
from enrichment.kafka.clients import Clients
from enrichment.kafka.times import to_text
from enrichment.kafka.topics import read_topic_id
from enrichment.resources import Resources
from enrichment.statements import Statements

STEP = ScanLimits(count=1, step=1_000, messages=500_000, bytes=512 * 1024**2, seconds=2.0)
# Markers are written later than their dead letters, by clocks that may differ.
CLOCKS = timedelta(minutes=10)


class Marker(msgspec.Struct, frozen=True):
    """That a dead letter was sent in again: by this batch, and when that was published."""

    batch_id: str
    at: str


class MarkerSearch(msgspec.Struct, frozen=True):
    """`marker` is None where there is none, as far as was looked: `reached` is where to go on, by partition, and
    `is_done` says that all markers were looked at that are of later than the dead letter."""

    marker: Marker | None
    reached: dict[int, int]
    is_done: bool


class Redriven(msgspec.Struct, frozen=True):
    """Whether a dead letter was sent in again. Without a `marker` it was not, as far as was looked: the search goes on
    from `next`, which is empty where all was looked at.

    `batches` are that of the marker, if the ledger has it, or the redrives that have chosen it and are not published.
    """

    marker: Marker | None
    batches: list[BatchFate]
    next: str


class IsMarkerOf:
    """Fits the marker of a dead letter (`enrichment.inspection.conditions`)."""

    def __init__(self, letter: Position, topic_id: str | None) -> None:
        self._key = b"%d:%d" % letter
        self._ids = {None, topic_id}

    def rows(self, messages: pa.RecordBatch) -> list[int]:
        """See `MessageCondition`."""
        keys, values, headers = messages["key"], messages["value"], messages["headers"]
        likely = pc.and_(pc.fill_null(pc.equal(keys, pa.scalar(self._key, keys.type)), False), pc.is_valid(values))
        rows: list[int] = pc.indices_nonzero(likely).to_pylist()
        return [row for row in rows if topic_id_of(headers[row].as_py()) in self._ids]


def redriven(r: Resources, asked: WasRedriven) -> Redriven:
    """Whether a dead letter was sent in again. Raises `NotShown`, `KafkaException` when the brokers do not answer, and
    `psycopg.Error` when the database does not."""
    shown = topic_of(r, asked.topic)
    if shown.role is not TopicRole.DEAD_LETTERS:
        raise NotShown(422, f"only dead letters of {r.settings.kafka.dlq_topic} are sent in again")
    letter = read_one(r, shown, asked.partition, asked.offset)
    clients = patient_clients(r)
    found = search_marker(clients, letter, asked.positions)
    with closing(r.query_connection(DATABASE_SECONDS)) as connection, connection.transaction():
        statements = Statements(connection)
        batches = (
            open_redrives(statements, clients, letter)
            if found.marker is None
            else fates_of(statements, clients.settings, None, [found.marker.batch_id])
        )
    return Redriven(found.marker, batches, "" if found.is_done else positions_text(found.reached))


def search_marker(clients: Clients, letter: FoundMessage, positions: Mapping[int, int] | None) -> MarkerSearch:
    """As `find_marker`; no marker where nothing was ever sent in again."""
    try:
        return find_marker(clients, letter, positions)
    except KafkaException as refused:
        if refused.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
        return MarkerSearch(None, {}, is_done=True)


def find_marker(clients: Clients, letter: FoundMessage, positions: Mapping[int, int] | None = None) -> MarkerSearch:
    """Search for a dead letter's marker, from the time of the dead letter on, or from where the last search has come
    to. Raises `KafkaException` when the brokers do not answer, or have no topic of markers."""
    condition = IsMarkerOf((letter.partition, letter.offset), read_topic_id(clients, letter.topic))
    scan = Scan(clients, clients.settings.redriven_topic, condition, STEP, is_newer=True)
    scanned = scan.run(positions, at=None if positions else _written_at(letter), like=letter.partition)
    marker = next(
        (Marker((m.value or b"").decode(errors="replace"), to_text(m.timestamp)) for m in scanned.found), None
    )
    return MarkerSearch(marker, scanned.newer, scanned.is_done)


def _written_at(letter: FoundMessage) -> int:
    """When it was written, in milliseconds, as early as that may have been; 0 where it does not say."""
    said = letter_in(letter.value)
    try:
        at = datetime.fromisoformat(said.sent_to_dlq_at if said else "") - CLOCKS
        return max(0, int(at.timestamp() * 1000))
    except (ValueError, OverflowError):
        return 0


class _OpenRedrive(msgspec.Struct, frozen=True):
    batch_id: str
    topic: str
    ranges: tuple[OffsetRange, ...]
    purpose: Purpose
    topic_id: str | None = None


def open_redrives(statements: Statements, clients: Clients, letter: FoundMessage) -> list[BatchFate]:
    """The redrives that have chosen a dead letter and are not published. Raises `psycopg.Error` when the database does
    not answer, `KafkaException` when the brokers do not."""
    kafka, topic_ids = clients.settings, {None, read_topic_id(clients, letter.topic)}
    parts = [letter.partition], [letter.offset], [letter.timestamp], [letter.key]
    chunk = Chunk.of(*parts, [letter.headers or pack_headers([])], [letter.value])
    group = {"group_id": group_of(kafka)}
    holding = [
        one.batch_id
        for one in statements.rows("enrichment_jobs/find_open_redrives", _OpenRedrive, group)
        if one.topic == letter.topic
        and one.topic_id in topic_ids
        and any(r.partition == letter.partition and r.start <= letter.offset < r.end for r in one.ranges)
        and one.purpose.letters is not None
        and all(judged.verdict is Verdict.REDRIVE for judged in judge(chunk, one.purpose.letters, ()))
    ]
    return fates_of(statements, kafka, None, holding)
