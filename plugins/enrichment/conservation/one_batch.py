"""The conservation check of one published batch within limits, for somebody who waits for it: a batch in, the verdict
out, or why there is none.

Outputs keep the time of their inputs, or have one after the claim, so those of a batch lie at or after the first output
of the batch's earliest time. From there on they are read in a window that grows until each input has been found, the
log ends, or a limit is reached. Nothing is called lost before the end of the log has been read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from enrichment.batch import LIVE, REDRIVE, REPLAY, Batch, OffsetRange
from enrichment.conservation.check import check
from enrichment.conservation.committed import Kafka, first_since, log_ranges, read
from enrichment.conservation.report import ConservationReport, Defect, Expected
from enrichment.errors import OffsetsLost, TransactionOpen

MAX_INPUTS = 100_000
MAX_OUTPUTS = 500_000
MAX_SECONDS = 20.0
# The first window is a batch and something around it; then it grows.
FIRST_OUTPUTS, GROWTH = 10_000, 8
CLOCKS = timedelta(minutes=5)  # between whoever claimed, whoever published and the brokers
SETTLE_SECONDS = 2.0
EXAMPLES = 5


class CheckVerdict(StrEnum):
    """`UNDECIDED`: the check could not be made, or came to a limit; `why` says which."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNDECIDED = "undecided"


class BatchCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What the check of a batch found. `outputs` have been looked through, up to the end of their topics
    (`saw_the_end`) or as far as it took to find each input's: a second output after that was not looked for."""

    verdict: CheckVerdict
    why: str = ""
    read: int = 0
    analytics: int = 0
    partial: int = 0
    dead: int = 0
    corrections: int = 0
    redriven: int = 0
    defects: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    outputs: int = 0
    saw_the_end: bool = False
    seconds: float = 0.0


class _OutOfTime(Exception):
    pass


def why_unchecked(batch: Batch, *, is_published: bool) -> str:
    """Why a batch cannot be checked by itself; empty where it can."""
    window = batch.purpose.window
    for is_so, why in (
        (batch.dry_run, "a dry run publishes nothing"),
        (not is_published, "it is not published"),
        (batch.purpose.kind == REDRIVE, "its messages are checked with the batches that they first came with"),
        (batch.purpose.kind not in (LIVE.kind, REPLAY, REDRIVE), f"a {batch.purpose.kind} is not checked by itself"),
        (window is not None and bool(window.errors), "which messages had these stored errors then is not known now"),
        (batch.span > MAX_INPUTS, f"it has {batch.span:,} offsets, more than {MAX_INPUTS:,}"),
    ):
        if is_so:
            return why
    return ""


def check_batch(
    kafka: Kafka, batch: Batch, claimed_at: datetime, output_topic: str, dlq_topic: str,
    redriven_topic: str | None = None, max_seconds: float = MAX_SECONDS,
) -> BatchCheck:  # fmt: skip
    """Check a published batch for which `why_unchecked` has nothing to say. `redriven_topic` has the markers of dead
    letters; a batch without any needs none. Raises `KafkaException` when the brokers do not answer."""
    started = time.monotonic()

    def advance(_: int = 0) -> None:
        if time.monotonic() - started > max_seconds:
            raise _OutOfTime

    try:
        found = _check(kafka, batch, claimed_at, (output_topic, dlq_topic), redriven_topic, advance)
    except OffsetsLost:
        found = _undecided("some of its messages have left the input topic")
    except TransactionOpen as hidden:
        found = _undecided(str(hidden))
    except _OutOfTime:
        found = _undecided(f"it took longer than {max_seconds:g} s")
    return msgspec.structs.replace(found, seconds=time.monotonic() - started)


def _undecided(why: str) -> BatchCheck:
    return BatchCheck(verdict=CheckVerdict.UNDECIDED, why=why)


def _check(
    kafka: Kafka, batch: Batch, claimed_at: datetime, topics: tuple[str, str], redriven_topic: str | None,
    advance: Callable[[int], None],
) -> BatchCheck:  # fmt: skip
    inputs = [r for r in batch.ranges if r.span]
    earliest = round((claimed_at - CLOCKS).timestamp() * 1000)
    for place, message in enumerate(read(kafka, batch.topic, inputs)):
        earliest = min(earliest, message.timestamp()[1])
        if place % 1000 == 0:
            advance(place)
    logs = {topic: _since(kafka, topic, earliest) for topic in topics}
    window = batch.purpose.window
    replay = None if window is None else Expected.of(
        window.replay_id, window.start, window.end, window.services, window.levels
    )  # fmt: skip
    size = FIRST_OUTPUTS + batch.span
    while True:
        ends = {(topic, r.partition): min(r.end, r.start + size) for topic in topics for r in logs[topic]}
        report = check(
            kafka, batch.topic, *topics, inputs, redriven_topic=redriven_topic,
            output_starts={(topic, r.partition): r.start for topic in topics for r in logs[topic]}, output_ends=ends,
            examples=EXAMPLES, settle_seconds=SETTLE_SECONDS, replay=replay, allow_older=True, advance=advance,
        )  # fmt: skip
        looked_at = sum(ends[topic, r.partition] - r.start for topic in topics for r in logs[topic])
        saw_the_end = all(ends[topic, r.partition] == r.end for topic in topics for r in logs[topic])
        if saw_the_end or not report.defects[Defect.MISSING]:
            return _found(report, looked_at, saw_the_end=saw_the_end)
        size *= GROWTH
        wanted = sum(min(r.span, size) for topic in topics for r in logs[topic])
        if wanted > MAX_OUTPUTS:
            missing = report.defects[Defect.MISSING]
            return _undecided(
                f"{missing:,} of {report.read:,} outputs are not among the {looked_at:,} offsets after its time, and"
                f" no more than {MAX_OUTPUTS:,} are looked through here"
            )


def _since(kafka: Kafka, topic: str, at: int) -> list[OffsetRange]:
    """The log of each partition from its first message of that time on."""
    first = first_since(kafka, topic, max(at, 0))
    logs = log_ranges(kafka, topic, settle_seconds=SETTLE_SECONDS)
    return [OffsetRange(r.partition, max(r.start, min(first.get(r.partition, r.end), r.end)), r.end) for r in logs]


def _found(report: ConservationReport, looked_at: int, *, saw_the_end: bool) -> BatchCheck:
    return BatchCheck(
        verdict=CheckVerdict.HOLDS if report.ok else CheckVerdict.BROKEN,
        read=report.read,
        analytics=report.analytics,
        partial=report.partial,
        dead=report.dead,
        corrections=report.corrections,
        redriven=report.redriven,
        defects={str(defect): count for defect, count in report.defects.items()},
        examples={str(defect): list(found) for defect, found in report.examples.items()},
        outputs=looked_at,
        saw_the_end=saw_the_end,
    )
