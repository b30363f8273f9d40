"""Repair: passes over what a batch published while a source failed, each a batch of its own over the output topic.

A pass reads the messages of the batch (pass 0) and the corrections of the passes before it, between the offsets that
were recorded for each, and takes the latest version of each message that names an outage of its source. Corrections are
staged, then published in one transaction. A pass has a consumer group of its own, whose offsets over the batch's span
are moved by that transaction: the compare-and-set of every batch, so a pass is published once even when tasks are
killed, run twice or run at once. The next pass begins when the one before it is known to be published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Protocol

import msgspec

from enrichment.batch import Batch, OffsetRange, Purpose
from enrichment.batches.stages import Workplace
from enrichment.codec.headers import split_origin
from enrichment.codec.hot_loops import quiet_gc
from enrichment.codec.records import Chunk, unpack_headers
from enrichment.kafka.clients import Clients
from enrichment.kafka.limits import topic_limits
from enrichment.kafka.offsets import fence_lanes, held_ranges
from enrichment.kafka.refusals import Refusals, publish_around
from enrichment.kafka.retention import OldMessages, now_in_milliseconds
from enrichment.kafka.settled import require_stable
from enrichment.kafka.sink import GroupPosition, LanePublisher
from enrichment.kafka.source import read_ranges
from enrichment.messages import MessageOrigin
from enrichment.repair.corrections import Corrector, Tally, missing_of
from enrichment.repair.pending import INCOMPLETE, Missing, PendingState, PendingStore, Publication
from enrichment.repair.spans import record_span
from enrichment.store.staging import Staging

log = logging.getLogger(__name__)

CORRECTIONS = "corrections"
KIND = "repair"
# Between two attempts at which the source still failed; doubles each time.
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60, 3600
# Where a source that was not down failed for a few keys, the keys may be at fault and each pass reads the batch in
# vain, so there are few passes, over two hours.
FEW_ATTEMPTS, FEW_PAUSE_SECONDS = 5, 600


class Pass(msgspec.Struct, frozen=True):
    """One attempt at a batch's missing sources. `batch` covers the span of the repaired one in its output topic."""

    repaired_id: str
    number: int
    batch: Batch
    places: tuple[Publication, ...]
    missing: tuple[Missing, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that are looked up again."""
        return tuple(m.source for m in self.missing)


class Prepared(msgspec.Struct, frozen=True):
    """What a pass staged. `lost` offsets had left the log; with `is_down` it ended early, since no key was answered."""

    tally: Tally
    lost: int = 0
    is_down: bool = False


def plan(missing: Sequence[Missing], places: Sequence[Publication], group_id: str, *, dry_run: bool = False) -> Pass:
    """The next pass over a batch: the one that was begun and may be published already, or a new one.

    `missing` are all of one batch; `places` are the spans of the batch and its corrections, the first complete.
    """
    first = missing[0]
    known = tuple(place for place in places if place.complete)
    number = known[-1].number + 1
    name = f"{first.batch_id}/repair-{number}"
    batch = Batch(
        batch_id=name,
        topic=first.topic,
        group_id=f"{group_id}.repair/{name}",
        lane=0,
        ranges=known[0].ranges,
        dry_run=dry_run,
        purpose=Purpose(kind=KIND, output_topic=first.topic),
    )
    return Pass(first.batch_id, number, batch, known, tuple(missing))


def prepare(
    clients: Clients, staging: Staging, repair: Pass, corrector: Corrector, now: Callable[[], datetime],
    refusals: Refusals | None = None,
) -> Prepared:  # fmt: skip
    """Read what the batch is missing, look it up, and stage the corrections, except those that a broker has refused.

    Ends early when a source that was down has answered nothing so far: it is still down, and the rest can wait.
    """
    down = {missing.source for missing in repair.missing if missing.down}
    clients = clients.for_batch(repair.batch)
    tally, is_down = Tally(), False
    [limits] = map((refusals or Refusals()).known_to, topic_limits(clients, repair.batch.topic))
    with quiet_gc(), staging.write(repair.batch.batch_id, CORRECTIONS) as file:
        reader = VersionReader(clients, repair)
        for chunk in reader.chunks():
            moment = now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
            corrected, counted = corrector.correct(chunk, moment, limits)
            tally += counted
            file.write(corrected.columns)
            if not tally.is_answered and any(tally.failed.get(source) for source in down):
                is_down = True
                break
    return Prepared(tally, reader.lost, is_down)


class VersionReader:
    """Reads the latest version of each message of a batch that is missing one of the sources.

    `lost` says afterwards how many offsets had left the log.
    """

    def __init__(self, clients: Clients, repair: Pass) -> None:
        self._clients = clients
        self._repair = repair
        self._superseded: set[MessageOrigin] = set()
        self.lost = 0

    def chunks(self) -> Iterator[Chunk]:
        """The messages; the latest place first, so that what it holds is known to have superseded earlier ones."""
        topic = self._repair.batch.topic
        for place in reversed(self._repair.places):
            for chunk in read_ranges(self._clients, topic, self._kept(place.ranges)):
                chosen = chunk.take(self._wanted(chunk, is_first=place.number == 0))
                if len(chosen):
                    yield chosen

    def _kept(self, ranges: Sequence[OffsetRange]) -> list[OffsetRange]:
        """The part of these ranges that is still in the log."""
        low = {r.partition: r.start for r in held_ranges(self._clients, self._repair.batch.topic)}
        kept = [OffsetRange(r.partition, min(max(r.start, low.get(r.partition, r.end)), r.end), r.end) for r in ranges]
        self.lost += sum(wanted.span - left.span for wanted, left in zip(ranges, kept, strict=True))
        return kept

    def _wanted(self, chunk: Chunk, *, is_first: bool) -> list[int]:
        rows = []
        sources = frozenset(self._repair.sources)
        for row, packed in enumerate(chunk.headers):
            _, origin = split_origin(unpack_headers(packed or b""))  # null: unread, so not the pipeline's
            if origin is None or origin.batch_id != self._repair.repaired_id:
                continue
            if origin in self._superseded:
                continue
            if not is_first:
                self._superseded.add(origin)
            if missing_of(chunk.values[row]) & sources:
                rows.append(row)
        return rows


def publish(
    clients: Clients, staging: Staging, repair: Pass, recording: AbstractContextManager[None] | None = None,
    refusals: Refusals | None = None,
) -> bool:  # fmt: skip
    """Publish the staged corrections exactly once; returns whether this call did it.

    `recording` is entered before the transaction and left after it. Raises `OffsetsMoved`, `PublishRefused`,
    `StagingMissing`.
    """
    clients = clients.for_batch(repair.batch)
    with quiet_gc(), LanePublisher(clients, repair.batch, refusals) as publisher:
        produce = publisher.standing() is GroupPosition.AT_START
        old = OldMessages(publisher.kept, now_in_milliseconds(), clients.settings.retention_bytes)
        with recording or nullcontext(), publisher.transaction() if produce else nullcontext() as transaction:
            if transaction is not None:
                for frame in staging.read(repair.batch.batch_id, CORRECTIONS):
                    transaction.send(repair.batch.topic, Chunk(frame))
                    old.see(repair.batch.topic, frame["timestamp"].to_numpy())
    for text in old.warnings():
        log.warning("repair.warning batch_id=%s %s", repair.repaired_id, text)
    return produce


class RepairTools(Workplace, Protocol):
    """What a pass works with; opened when it is needed."""

    @property
    def pending(self) -> PendingStore:
        """What published batches are missing."""
        ...


def run(r: RepairTools, repair: Pass, now: Callable[[], datetime]) -> tuple[Prepared, bool, dict[str, PendingState]]:
    """A whole pass: what it staged, whether this call published it, and what became of each missing source.

    Raises `TransactionOpen` when part of what was published is hidden: corrections among it would be made again.
    """
    batch, produced = repair.batch, False
    begun = next((p for p in r.pending.publications(repair.repaired_id) if p.number == repair.number), None)
    prepared, published_before = Prepared(Tally()), begun is not None and begun.complete
    if not published_before:
        if begun is not None and not batch.dry_run:
            # An earlier try that was killed has left its transaction open: taking its lane over aborts that.
            fence_lanes(r.clients.for_batch(batch), [batch.lane])
        require_stable(r.clients, batch.topic)
        known, corrector = with_begun(r.clients, repair, begun), Corrector.open(r.enricher, frozenset(repair.sources))

        def attempt(refusals: Refusals) -> tuple[Prepared, bool | None]:
            made = prepare(r.clients, r.staging, known, corrector, now, refusals)
            if batch.dry_run or not made.tally.messages:
                return made, None
            placed = record_span(r.pending, r.clients, repair.repaired_id, repair.number, batch.topic)
            return made, publish(r.clients, r.staging, repair, placed, refusals)

        prepared, published = publish_around(attempt, r.settings.kafka.transaction_timeout_sec)
        produced, published_before = bool(published), published is False
    attempts = r.settings.pipeline.repair_attempts
    states = close(r.pending, repair, prepared, published_before=published_before, max_attempts=attempts)
    return prepared, produced, states


def with_begun(clients: Clients, repair: Pass, begun: Publication | None) -> Pass:
    """The pass with the span in which an earlier try of it may have published, up to the end of what is committed.

    A try that died could not record it, and once Kafka has forgotten the pass's group, only its corrections show it.
    """
    if begun is None:
        return repair
    ends = {r.partition: r.end for r in held_ranges(clients, repair.batch.topic)}
    ranges = tuple(OffsetRange(r.partition, r.start, max(r.start, ends.get(r.partition, 0))) for r in begun.ranges)
    return msgspec.structs.replace(repair, places=(*repair.places, msgspec.structs.replace(begun, ranges=ranges)))


def close(
    pending: PendingStore, repair: Pass, prepared: Prepared, *, published_before: bool, max_attempts: int
) -> dict[str, PendingState]:
    """Record the result of a pass for each missing source; returns the states. A dry run changes nothing.

    What an earlier try published is not known here: the next pass, due at once, finds what is left.
    """
    states = {}
    for missing in repair.missing:
        source, failed = missing.source, prepared.tally.failed.get(missing.source, 0)
        too_large, refused = prepared.tally.too_large.get(source, 0), prepared.tally.refused.get(source, 0)
        corrected = 0 if published_before else prepared.tally.corrected.get(source, 0)
        state, detail, fails = PendingState.REPAIRED, f"{corrected} corrected in pass {repair.number}", False
        if published_before:
            state, detail = PendingState.OPEN, f"pass {repair.number} was published by an earlier try"
        elif prepared.is_down or failed:
            fails = bool(failed) or missing.down
            last = max_attempts if missing.down else min(max_attempts, FEW_ATTEMPTS)
            state = PendingState.GIVEN_UP if fails and missing.attempts + 1 >= last else PendingState.OPEN
            detail = f"{failed} failed again in pass {repair.number}" + (", the rest was not tried" * prepared.is_down)
        elif prepared.lost:
            state, detail = PendingState.LOST, f"{prepared.lost} offsets have left {repair.batch.topic}"
        elif too_large or refused:
            state = PendingState.UNREPAIRABLE
            detail = f"{corrected} corrected in pass {repair.number}"
        if too_large:
            detail += f"; {too_large} corrections are larger than {repair.batch.topic} takes (max.message.bytes)"
        if refused:
            detail += f"; {refused} corrections are refused by {repair.batch.topic} ({prepared.tally.why})"
        states[source] = state
        if not repair.batch.dry_run:
            pending.attempted(
                repair.repaired_id, source, state, corrected=corrected, failed=fails, detail=detail,
                pause=fails * (PAUSE_SECONDS if missing.down else FEW_PAUSE_SECONDS),
                longest_pause=LONGEST_PAUSE_SECONDS,
            )  # fmt: skip
        log.info("repair.done batch_id=%s source=%s state=%s: %s", repair.repaired_id, source, state, detail)
    return states


def to_be_told(repair: Pass, states: Mapping[str, PendingState]) -> dict[str, PendingState]:
    """The sources that were closed without all corrections and therefore fail the task.

    A healthy source that keeps failing for a few keys does not: its messages and the table say so.
    """
    down = {missing.source for missing in repair.missing if missing.down}
    return {
        source: state
        for source, state in states.items()
        if state in INCOMPLETE and (state is not PendingState.GIVEN_UP or source in down)
    }
