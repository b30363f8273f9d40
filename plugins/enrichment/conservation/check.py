"""Prove that nothing was lost, doubled, altered or reordered between the input topic and the two output topics.

    python -m enrichment.conservation --bootstrap-servers localhost:9092 --all

Every message in the given input offsets must have exactly one output, in analytics or in the dead letters, as a
`read_committed` reader sees them. A message that was published partial may have corrections behind it: the same message
with other additions, in the same partition, one of each further revision at most. Outputs are matched to inputs by
their origin headers. The outputs are read first and 50 bytes are kept for each input offset (numbers, no messages),
then the input is read and compared.

The declared rules: an output has the input's key, timestamp and headers, with the four origin headers behind them. (A
timestamp of 0 becomes 1, which is as near as the client comes; where the output topic has `LogAppendTime`, its own is
not compared. Of a message with more than 100,000 headers the client reads none: here, too, it has none.)
Every field of the input is in the enriched message with the same JSON text, white space apart, but for keys of the
output, which the output overwrites. A dead letter gives the original back: an equal object, the same text, the same
bytes; it may have the time at which it was set aside, and in place of no key the place of its input, since its fields
say what these were; what of key and headers was too large for it, it names, and that is not compared. The outputs of
one input partition are in one partition of each output topic, in the order of their offsets.

A dead letter that was sent in again is marked in a topic of its own and is no output any more: what it became is, an
enriched message or another letter. Such an output comes when it comes, so its place in the order is not asked for, and
the headers of the redrive stand before the origin headers.

Outputs without origin headers, or of other inputs than the given ones, are counted as foreign and left aside; so are
those of replays. A replay is checked by itself: then only its outputs count, only the messages that it was to take are
expected, and the order is that within each window.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from typing import cast

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message

from enrichment.conservation.committed import Kafka, position, read, whole_log_ranges
from enrichment.conservation.fingerprint import (
    UNSAID,
    Broken,
    Fingerprint,
    Form,
    Origin,
    Output,
    is_appended,
    is_redriven,
    of_analytics,
    of_input,
    of_letter,
    origin_of,
    replay_of,
    revision_of,
    said_timestamp,
    sequence_of,
    window_of,
)
from enrichment.messages import OffsetRange


class Defect(StrEnum):
    """What can be wrong with the output of an input message."""

    MISSING = "missing"
    DOUBLED = "doubled"
    ALTERED = "altered"
    MISORDERED = "misordered"
    INVENTED = "invented"  # an output of an offset at which no message is


@dataclass(slots=True)
class ConservationReport:
    """What the check found. `read` counts input messages; `foreign` outputs belong to inputs that were not checked;
    `redriven` dead letters have been sent in again, and are counted as nothing else."""

    read: int = 0
    analytics: int = 0
    partial: int = 0
    dead: int = 0
    corrections: int = 0
    foreign: int = 0
    redriven: int = 0
    defects: Counter[Defect] = field(default_factory=Counter)
    examples: dict[Defect, list[str]] = field(default_factory=lambda: defaultdict(list))
    enriched_by: Counter[str] = field(default_factory=Counter)
    partial_errors: Counter[str] = field(default_factory=Counter)
    dead_reasons: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        """Whether every input message has exactly one output, and the right one."""
        return not self.defects and self.read == self.analytics + self.dead

    def summary(self) -> str:
        """The verdict and the counts, and the first examples of each defect."""
        verdict = "holds" if self.ok else "is BROKEN"
        outputs = f"{self.analytics:,} analytics ({self.partial:,} partial), {self.dead:,} dead letters"
        corrected = f"{self.corrections:,} corrections; " if self.corrections else ""
        foreign = f"{self.foreign:,} foreign outputs"
        lines = [f"conservation {verdict}: {self.read:,} messages in, {outputs}; {corrected}{foreign}"]
        if self.redriven:
            lines.append(f"dead letters sent in again, and no outputs any more: {self.redriven:,}")
        for defect, count in self.defects.most_common():
            lines += [f"{defect}: {count:,}", *(f"  {example}" for example in self.examples[defect])]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a replay was to take: messages of a time, `[start, end)` in milliseconds, that are `wanted` (None: all)."""

    replay_id: str
    start: int
    end: int
    wanted: Callable[[Message], bool] | None = None

    def made(self, output: Message, *, is_letter: bool = False) -> bool:
        """Whether an output is the replay's, and of this time: an output has the time of its input; a dead letter says
        it, and may have another itself. Where it has that of the broker, the window that its batch names must be
        within."""
        if replay_of(output) != self.replay_id:
            return False
        if not is_appended(output):
            return self._in_time(said_timestamp(output) if is_letter else output.timestamp()[1])
        try:
            start, end = window_of(output)
        except ValueError:
            return False
        return self.start // 1000 * 1000 <= start and end <= self.end

    def takes(self, message: Message) -> bool:
        """Whether an input message is to have an output."""
        return self._in_time(message.timestamp()[1]) and (self.wanted is None or self.wanted(message))

    def _in_time(self, timestamp: int) -> bool:
        return self.start <= timestamp < self.end


class Ledger:
    """What is known of one range of input offsets: a few numbers for each."""

    def __init__(self, wanted: OffsetRange) -> None:
        self.range = wanted
        self.states, self.forms = bytearray(wanted.span), bytearray(wanted.span)
        self.sizes, self.partitions = (array("I", bytes(4 * wanted.span)) for _ in range(2))
        self.offsets, *self.fingerprints = (array("q", bytes(8 * wanted.span)) for _ in range(5))

    def keep(self, at: int, output: Output, message: Message) -> None:
        """Note an offset's output and where it is."""
        self.forms[at], self.sizes[at] = output.form, output.size
        self.partitions[at], self.offsets[at] = position(message)
        for column, number in zip(self.fingerprints, output.fingerprint, strict=True):
            column[at] = number

    def contradictions(self, at: int, correction: Output, message: Message) -> str:
        """In what a correction differs from the kept output, but for what was added; empty when in nothing."""
        names = [
            name
            for name, column, number in zip(Fingerprint._fields, self.fingerprints, correction.fingerprint, strict=True)
            if number not in (column[at], UNSAID) and column[at] != UNSAID
        ]
        return ", ".join(names + ["partition"] * (self.partitions[at] != message.partition()))

    def differences(self, at: int, message: Message) -> str:
        """In what the kept output differs from its input; empty when in nothing."""
        form = Form(self.forms[at])
        if form is Form.BROKEN:  # found and said already
            return ""
        try:
            expected = of_input(message, form, self.sizes[at])
        except Broken as why:
            return str(why)
        names = (
            name
            for name, column, number in zip(Fingerprint._fields, self.fingerprints, expected, strict=True)
            if column[at] not in (number, UNSAID)
        )
        return ", ".join(names)


class _Check:
    """One run of the check: outputs first, then inputs, then what is left over."""

    def __init__(
        self, topic: str, ranges: Sequence[OffsetRange], content_every: int, examples: int, replay: Expected | None
    ) -> None:
        self.report = ConservationReport()
        self._replay = replay
        self._topic = topic
        self._ledgers: dict[int, list[Ledger]] = defaultdict(list)
        for wanted in ranges:
            self._ledgers[wanted.partition].append(Ledger(wanted))
        self._corrections: set[tuple[Origin, int]] = set()
        self._content_every = content_every
        self._examples = examples

    def take_outputs(
        self,
        messages: Iterable[Message],
        fingerprint: Callable[[Message, Origin], Output],
        *,
        corrected: bool = False,
        redriven: Collection[tuple[int, int]] = (),
    ) -> int:
        """Note the outputs on one topic and check their order; returns how many inputs have one there. `corrected`
        says that there may be corrections of them. What is at the positions `redriven` is no output any more."""
        taken = 0
        last: dict[tuple[int, str], tuple[int | None, int]] = {}
        for message in messages:
            if position(message) in redriven:
                self.report.redriven += 1
                continue
            origin = origin_of(message)
            ledger = self._ledger(origin) if origin is not None else None
            if origin is None or ledger is None or not self._is_ours(message, is_letter=not corrected):
                self.report.foreign += 1
                continue
            at = origin.offset - ledger.range.start
            if corrected and (revision := revision_of(message)) > 1:
                self._take_correction(message, origin, revision, ledger)
                continue
            if ledger.states[at]:
                self._found(Defect.DOUBLED, origin, f"again at {_place(message)}")
                continue
            ledger.states[at] = _OUTPUT
            taken += 1
            sequence = origin.partition, sequence_of(message)
            home, highest = last.get(sequence, (message.partition(), -1))
            late = is_redriven(message)
            if message.partition() != home or (origin.offset < highest and not late):
                self._found(
                    Defect.MISORDERED, origin, f"at {_place(message)}, with {highest} before it in partition {home}"
                )
            last[sequence] = home, highest if late else max(highest, origin.offset)
            try:
                output = fingerprint(message, origin)
            except Broken as why:
                self._found(Defect.ALTERED, origin, f"{_place(message)}: {why}")
                continue
            ledger.keep(at, output, message)
            self._count(output)
        return taken

    def _take_correction(self, message: Message, origin: Origin, revision: int, ledger: Ledger) -> None:
        """Compare a correction with the first version of its message: only what was added may differ."""
        at, what = origin.offset - ledger.range.start, f"revision {revision} at {_place(message)}"
        if (origin, revision) in self._corrections:
            self._found(Defect.DOUBLED, origin, f"{what}, again")
            return
        self._corrections.add((origin, revision))
        self.report.corrections += 1
        if not ledger.states[at] or (revision > 2 and (origin, revision - 1) not in self._corrections):
            self._found(Defect.INVENTED, origin, f"{what}, without the one before it")
            return
        try:
            differs = ledger.contradictions(at, of_analytics(message), message)
        except Broken as why:
            differs = str(why)
        if differs:
            self._found(Defect.ALTERED, origin, f"{what} differs in {differs}")

    def take_inputs(self, messages: Iterable[Message]) -> None:
        """Compare the inputs with what was noted of their outputs."""
        for message in messages:
            if self._replay is not None and not self._replay.takes(message):
                continue
            self.report.read += 1
            here = Origin(self._topic, *position(message))
            ledger = cast(Ledger, self._ledger(here))  # only the ledgers' ranges are read
            at = here.offset - ledger.range.start
            if not ledger.states[at]:
                self._found(Defect.MISSING, here, "no output")
                continue
            ledger.states[at] = _MATCHED
            if here.offset % self._content_every == 0 and (differs := ledger.differences(at, message)):
                place = f"{ledger.partitions[at]}@{ledger.offsets[at]}"
                self._found(
                    Defect.ALTERED, here, f"{Form(ledger.forms[at]).name.lower()} output {place} differs in {differs}"
                )

    def finish(self) -> ConservationReport:
        """The report, after a last look for outputs of offsets that hold no message."""
        for ledger in (one for ledgers in self._ledgers.values() for one in ledgers):
            for at in np.flatnonzero(np.frombuffer(ledger.states, dtype=np.uint8) == _OUTPUT).tolist():
                here = Origin(self._topic, ledger.range.partition, ledger.range.start + at)
                self._found(Defect.INVENTED, here, "an output, but no input message")
        return self.report

    def _is_ours(self, output: Message, *, is_letter: bool) -> bool:
        if self._replay is None:
            return replay_of(output) is None
        return self._replay.made(output, is_letter=is_letter)

    def _ledger(self, origin: Origin) -> Ledger | None:
        if origin.topic != self._topic:
            return None
        ledgers = self._ledgers.get(origin.partition, ())
        return next((one for one in ledgers if one.range.start <= origin.offset < one.range.end), None)

    def _count(self, output: Output) -> None:
        if output.form is Form.ENRICHED:
            self.report.enriched_by.update(output.sources)
            self.report.partial_errors.update(output.errors)
            self.report.partial += bool(output.errors)
        else:
            self.report.dead_reasons.update(output.errors)

    def _found(self, defect: Defect, where: Origin, detail: str) -> None:
        self.report.defects[defect] += 1
        if len(self.report.examples[defect]) < self._examples:
            self.report.examples[defect].append(f"{where.topic} {where.partition}@{where.offset}: {detail}")


_OUTPUT, _MATCHED = 1, 2  # states of an offset in a ledger


def check(
    kafka: Kafka,
    input_topic: str,
    output_topic: str,
    dlq_topic: str,
    ranges: Sequence[OffsetRange],
    *,
    redriven_topic: str | None = None,
    output_starts: Mapping[tuple[str, int], int] | None = None,
    content_every: int = 1,
    examples: int = 5,
    timeout: float = 60,
    settle_seconds: float = 10,
    replay: Expected | None = None,
) -> ConservationReport:
    """Check the messages in `ranges` of the input topic. `kafka` are bootstrap servers or a librdkafka configuration.

    The output topics are read from their beginning, or from `output_starts` by topic and partition, to their last
    stable offset; transactions that are open at the start are waited for, `settle_seconds` at most. The content of
    every `content_every`th offset is compared, existence and order of all. `examples` is how many of each defect are
    described. `redriven_topic` has the markers of the dead letters that were sent in again; without one, none was.
    `replay` says what a replay was to take, to check that instead. Raises `TransactionOpen` when one is open for
    longer, since what it hides would look lost, `OffsetsLost` when part of a range has left the log, `KafkaException`
    when the broker delivers nothing for `timeout` seconds.
    """
    merged = merge(ranges)
    run = _Check(input_topic, merged, content_every, examples, replay)
    starts = output_starts or {}

    def outputs(topic: str) -> Iterator[Message]:
        held = whole_log_ranges(kafka, topic, timeout, settle_seconds)
        from_start = [OffsetRange(r.partition, max(r.start, starts.get((topic, r.partition), 0)), r.end) for r in held]
        return read(kafka, topic, from_start, timeout)

    run.report.analytics = run.take_outputs(
        outputs(output_topic), lambda message, _: of_analytics(message), corrected=True
    )
    redriven = _redriven(kafka, redriven_topic, timeout, settle_seconds) if redriven_topic else frozenset()
    run.report.dead = run.take_outputs(outputs(dlq_topic), of_letter, redriven=redriven)
    for one_a_partition in rounds(merged):
        run.take_inputs(read(kafka, input_topic, one_a_partition, timeout))
    return run.finish()


def _redriven(kafka: Kafka, topic: str, timeout: float, settle_seconds: float) -> Collection[tuple[int, int]]:
    """Partition and offset of each dead letter that is marked as sent in again; none where there is no such topic."""
    try:
        held = whole_log_ranges(kafka, topic, timeout, settle_seconds)
    except KafkaException as refused:
        if refused.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return frozenset()
        raise
    marked = set()
    for marker in read(kafka, topic, held, timeout):
        partition, _, offset = (marker.key() or b"").partition(b":")
        # Else it is no redrive's.
        if partition.isdigit() and offset.isdigit() and len(partition + offset) < 30 and marker.value() is not None:
            marked.add((int(partition), int(offset)))
    return marked


def merge(ranges: Iterable[OffsetRange]) -> list[OffsetRange]:
    """The same offsets in as few ranges as possible, in order, each offset once."""
    merged: list[OffsetRange] = []
    for r in sorted(r for r in ranges if r.span > 0):
        if merged and merged[-1].partition == r.partition and r.start <= merged[-1].end:
            merged[-1] = OffsetRange(r.partition, merged[-1].start, max(merged[-1].end, r.end))
        else:
            merged.append(r)
    return merged


def rounds(ranges: Iterable[OffsetRange]) -> Iterator[list[OffsetRange]]:
    """The ranges in groups that hold each partition at most once, in order."""
    by_partition: dict[int, list[OffsetRange]] = defaultdict(list)
    for r in ranges:
        by_partition[r.partition].append(r)
    for group in zip_longest(*by_partition.values()):
        yield [r for r in group if r is not None]


def _place(message: Message) -> str:
    return f"{message.topic()} {message.partition()}@{message.offset()}"
