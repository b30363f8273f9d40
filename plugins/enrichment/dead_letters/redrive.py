"""Claim for a redrive: scan the dead-letter topic, count what it holds, and fix a batch of the wanted dead letters.

The batch is a set of offset ranges of that topic like any other; its purpose says which dead letters in them are
meant. The others, and those that are marked as sent in again by then, are skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from enrichment.batch import REDRIVE, Batch, OffsetRange, Purpose, RedriveFilter
from enrichment.codec.hot_loops import quiet_gc
from enrichment.codec.records import Chunk
from enrichment.dead_letters.markers import Redriven, read_markers
from enrichment.dead_letters.reader import Judged, Position, Verdict, judge
from enrichment.dead_letters.writer import normalised
from enrichment.errors import RedriveRefused
from enrichment.kafka.clients import Clients
from enrichment.kafka.limits import topic_limits
from enrichment.kafka.offsets import held_ranges
from enrichment.kafka.retention import Load, check_kept, now_in_milliseconds
from enrichment.kafka.settled import await_stable
from enrichment.kafka.source import read_ranges
from enrichment.kafka.topics import read_topic_id
from enrichment.settings import KafkaSettings, Settings
from enrichment.store.jobs import Ledger

# Every redrive of a topic uses this lane, so any two of them fence each other.
LANE = 0
GROUPS = 200  # told apart; what comes later is counted as one of its reason
SHOWN_CHARACTERS = 300  # of what a letter says; anybody can write one


class DeadLetterGroup(msgspec.Struct):
    """Dead letters with one fingerprint: the same reason and detail, apart from what differs from message to message.
    `example` is the partition and offset of one of them, `first` and `last` are the times at which they were written.
    """

    verdict: str
    reason: str
    detail: str
    why: str
    letters: int
    first: str
    last: str
    example: str


class Survey(msgspec.Struct):
    """What the dead-letter topic holds, as a redrive sees it.

    `chosen` dead letters are in the batch, `waiting` ones are for the next redrive; `parked` and `left` stay. Those
    that the filters leave out and those redriven before are only counted.
    """

    scanned: int = 0
    chosen: int = 0
    waiting: int = 0
    parked: int = 0
    left: int = 0
    filtered: int = 0
    already_redriven: int = 0
    groups: list[DeadLetterGroup] = []

    def to_manifest(self) -> dict[str, Any]:
        """As plain JSON types, for XCom; the largest groups first."""
        ordered = sorted(self.groups, key=lambda group: (-group.letters, group.reason, group.detail))
        manifest: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(self, groups=ordered))
        return manifest


class Surveyor:
    """Counts the dead letters chunk by chunk and keeps the positions of those that are to be sent in again."""

    def __init__(self, max_letters: int) -> None:
        self.positions: list[Position] = []
        self.load = Load()  # of the letters at these positions
        self._max_letters = max_letters
        self._verdicts: Counter[Verdict] = Counter()
        self._groups: dict[tuple[str, ...], DeadLetterGroup] = {}

    def take(self, chunk: Chunk, judged: Iterable[Judged]) -> None:
        """Count a chunk's dead letters."""
        for one in judged:
            self._verdicts[one.verdict] += 1
            position = chunk.partitions[one.row], chunk.offsets[one.row]
            if one.verdict is Verdict.REDRIVE and len(self.positions) < self._max_letters:
                self.positions.append(position)
                if one.letter is not None:
                    home, size = one.letter.source_partition, one.letter.original_size_bytes
                    self.load.add(home, size, one.letter.source_timestamp)
            if one.verdict not in (Verdict.FILTERED, Verdict.DONE):
                self._group(position, one)

    def _group(self, position: Position, one: Judged) -> None:
        reason, detail, at = "", "", ""
        if one.letter is not None:
            reason, at = shown(one.letter.error_reason), shown(one.letter.sent_to_dlq_at)
            detail = normalised(shown(one.letter.error_detail or ""))
        key = (one.verdict, reason, detail, one.why)
        if key not in self._groups and len(self._groups) >= GROUPS:
            detail = "(further details)"
            key = (one.verdict, reason, detail, "")
        group = self._groups.setdefault(
            key, DeadLetterGroup(one.verdict, reason, detail, one.why, 0, at, at, f"{position[0]}:{position[1]}")
        )
        group.letters += 1
        group.first, group.last = min(group.first, at), max(group.last, at)

    def survey(self) -> Survey:
        """The counts."""
        count, chosen = self._verdicts, len(self.positions)
        return Survey(
            scanned=count.total(),
            chosen=chosen,
            waiting=count[Verdict.REDRIVE] - chosen,
            parked=count[Verdict.PARKED],
            left=count[Verdict.LEFT],
            filtered=count[Verdict.FILTERED],
            already_redriven=count[Verdict.DONE],
            groups=list(self._groups.values()),
        )


def claim(
    clients: Clients, ledger: Ledger, settings: Settings, wanted: RedriveFilter,
    *, dag_id: str, run_id: str, max_letters: int, dry_run: bool = True,
) -> tuple[list[Batch], Survey]:  # fmt: skip
    """Count the dead letters and fix a batch of those that are wanted, at most `max_letters`; no batch without any.

    A run that claimed before gets its batch back. Dead letters written from now on lie after its ranges: a redrive
    never meets its own. Raises `RedriveRefused` when markers belong to another topic, or when a topic to which messages
    or new dead letters would be published does not keep messages that old; a dry run only warns of the latter.
    """
    kafka = settings.kafka
    surveyor = look_through(clients, wanted, read_markers(clients), min(max_letters, kafka.batch_size))
    survey = surveyor.survey()
    claimed = ledger.find_run(dag_id, run_id)
    if claimed or not surveyor.positions:
        return claimed, survey
    topics = kafka.output_topic, kafka.dlq_topic
    check_kept(clients, surveyor.load, topics, now_in_milliseconds(), None if dry_run else RedriveRefused)
    partition, offset = min(surveyor.positions)
    batch = Batch(
        # Named by one of its dead letters, which no batch that was published before can have held: should the ledger
        # forget a run that is then cleared, its old batch's markers are not mistaken for the new one's.
        batch_id=f"{dag_id}/{run_id}/{partition}:{offset}",
        topic=kafka.dlq_topic,
        group_id=group_of(kafka),
        lane=LANE,
        ranges=ranges_over(surveyor.positions),
        dry_run=dry_run,
        max_bytes=kafka.batch_bytes,
        purpose=Purpose(REDRIVE, letters=wanted),
        topic_id=read_topic_id(clients, kafka.dlq_topic),
    )
    return [ledger.claim(batch, dag_id, run_id, settings.fingerprint)], survey


def shown(text: str) -> str:
    """A text as a survey shows it: shortened, and without characters that PostgreSQL cannot store."""
    return text[:SHOWN_CHARACTERS].replace("\0", "\N{REPLACEMENT CHARACTER}")


def group_of(kafka: KafkaSettings) -> str:
    """The stand-in for the consumer group in a redrive: derived from the topic, the same for every Airflow."""
    return f"{kafka.dlq_topic}.redrive"


def max_letter_bytes(clients: Clients) -> int:
    """The largest dead letter that is written at present."""
    [limits] = topic_limits(clients, clients.settings.dlq_topic)
    return limits.max_bytes


def look_through(clients: Clients, wanted: RedriveFilter, redriven: Redriven, max_letters: int) -> Surveyor:
    """Judge every dead letter of the topic, chunk by chunk. Those hidden by an open transaction are left to the next
    redrive."""
    topic = clients.settings.dlq_topic
    await_stable(clients, topic)
    surveyor = Surveyor(max_letters)
    with quiet_gc():
        for chunk in read_ranges(clients, topic, held_ranges(clients, topic)):
            surveyor.take(chunk, judge(chunk, wanted, redriven))
    return surveyor


def ranges_over(positions: Sequence[Position]) -> tuple[OffsetRange, ...]:
    """The smallest range of each partition that holds these positions; within one they are in order."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for partition, offset in positions:
        first.setdefault(partition, offset)
        last[partition] = offset
    return tuple(OffsetRange(partition, start, last[partition] + 1) for partition, start in sorted(first.items()))
