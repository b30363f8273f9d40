"""Outputs are matched to their inputs: a few numbers are kept for each input offset, no messages."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import cast

import numpy as np
from confluent_kafka import Message

from enrichment.batch import OffsetRange
from enrichment.conservation.committed import position
from enrichment.conservation.fingerprint import UNSAID, Broken, Fingerprint, Form, Output, of_analytics, of_input
from enrichment.conservation.origins import Origin, Parts, headers_of, parts_of, sequence_of
from enrichment.conservation.report import ConservationReport, Defect, Expected
from enrichment.enrichers.registry import REGISTRY

_OUTPUT, _MATCHED = 1, 2  # states of an offset in a ledger


class OffsetLedger:
    """What is known of a range of input offsets: a few numbers for each."""

    def __init__(self, wanted: OffsetRange) -> None:
        self.range = wanted
        self.states, self.forms = bytearray(wanted.span), bytearray(wanted.span)
        self.sizes, self.partitions = (array("I", bytes(4 * wanted.span)) for _ in range(2))
        self.offsets, *self.fingerprints = (array("q", bytes(8 * wanted.span)) for _ in range(5))

    def keep(self, at: int, output: Output, message: Message) -> None:
        """Record an offset's output and where it is."""
        self.forms[at], self.sizes[at] = output.form, output.size
        self.partitions[at], self.offsets[at] = position(message)
        for column, number in zip(self.fingerprints, output.fingerprint, strict=True):
            column[at] = number

    def contradictions(self, at: int, correction: Output, message: Message) -> str:
        """Where a correction differs from the recorded output beyond the added fields; empty when nowhere."""
        names = [
            name
            for name, column, number in zip(Fingerprint._fields, self.fingerprints, correction.fingerprint, strict=True)
            if number not in (column[at], UNSAID) and column[at] != UNSAID
        ]
        return ", ".join(names + ["partition"] * (self.partitions[at] != message.partition()))

    def differences(self, at: int, message: Message) -> str:
        """Where the recorded output differs from its input; empty when nowhere."""
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


class Matcher:
    """One run of the check: outputs first, then inputs, then what is left over."""

    def __init__(
        self, topic: str, ranges: Sequence[OffsetRange], content_every: int, examples: int, replay: Expected | None,
        *, allow_older: bool = False,
    ) -> None:  # fmt: skip
        self.report = ConservationReport()
        self._allow_older = allow_older
        self._declared: dict[int, set[str]] = defaultdict(set)  # by output partition: enrichments that are there by now
        self._replay = replay
        self._topic = topic
        self._ledgers: dict[int, list[OffsetLedger]] = defaultdict(list)
        for wanted in ranges:
            self._ledgers[wanted.partition].append(OffsetLedger(wanted))
        self._corrections: set[tuple[Origin, int]] = set()
        self._sources: Counter[tuple[str, ...]] = Counter()  # of enriched messages that have just these
        self._errors: Counter[tuple[str, ...]] = Counter()
        self._content_every = content_every
        self._examples = examples

    def take_outputs(
        self,
        messages: Iterable[Message],
        fingerprint: Callable[[Message, Origin, Parts], Output],
        *,
        corrected: bool = False,
        redriven: Collection[tuple[int, int]] = (),
    ) -> int:
        """Record the outputs on one topic and check their order; returns how many inputs have one there. `corrected`
        says that there may be corrections of them. Dead letters at the positions `redriven` are no longer outputs."""
        taken = 0
        last: dict[tuple[int, str], tuple[int | None, int]] = {}
        for message in messages:
            if position(message) in redriven:
                self.report.redriven += 1
                continue
            parts = parts_of(headers_of(message))
            origin = parts.origin
            ledger = self._ledger(origin) if origin is not None else None
            if origin is None or ledger is None or not self._is_ours(message, parts, is_letter=not corrected):
                self.report.foreign += 1
                continue
            at = origin.offset - ledger.range.start
            if corrected and parts.revision > 1:
                self._take_correction(message, origin, parts, ledger)
                continue
            if ledger.states[at]:
                self._found(Defect.DOUBLED, origin, f"again at {_place(message)}")
                continue
            ledger.states[at] = _OUTPUT
            taken += 1
            sequence = origin.partition, sequence_of(parts)
            home, highest = last.get(sequence, (message.partition(), -1))
            late = parts.redriven
            if message.partition() != home or (origin.offset < highest and not late):
                self._found(
                    Defect.MISORDERED, origin, f"at {_place(message)}, with {highest} before it in partition {home}"
                )
            last[sequence] = home, highest if late else max(highest, origin.offset)
            try:
                output = fingerprint(message, origin, parts)
            except Broken as why:
                self._found(Defect.ALTERED, origin, f"{_place(message)}: {why}")
                continue
            ledger.keep(at, output, message)
            self._count(output)
            if corrected and (undeclared := self._undeclared(message, output)):
                self._found(Defect.ALTERED, origin, f"{_place(message)}: without the columns of {undeclared}")
        return taken

    def _undeclared(self, message: Message, output: Output) -> str:
        """The enrichments that an output lacks although they were declared; empty where it lacks none.

        One that was declared later is missing up to some offset of a partition, and never again after it."""
        declared = self._declared[message.partition() or 0]
        missing = [name for name in output.without if not self._allow_older or name in declared]
        declared.update(name for name in REGISTRY.by_name if name not in output.without)
        if not missing:
            self.report.older.update(output.without)
        return ", ".join(missing)

    def _take_correction(self, message: Message, origin: Origin, parts: Parts, ledger: OffsetLedger) -> None:
        """Compare a correction with the first version of its message: only the added fields may differ."""
        revision = parts.revision
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
            correction = of_analytics(message, parts)
            differs = ledger.contradictions(at, correction, message)
            if undeclared := self._undeclared(message, correction):
                differs = f"the columns of {undeclared}, which it lacks"
        except Broken as why:
            differs = str(why)
        if differs:
            self._found(Defect.ALTERED, origin, f"{what} differs in {differs}")

    def take_inputs(self, messages: Iterable[Message]) -> None:
        """Compare the inputs with what was recorded of their outputs."""
        for message in messages:
            if self._replay is not None and not self._replay.takes(message):
                continue
            self.report.read += 1
            here = Origin(self._topic, *position(message))
            ledger = cast(OffsetLedger, self._ledger(here))  # only the ledgers' ranges are read
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
        for counted, tally in ((self._sources, self.report.enriched_by), (self._errors, self.report.partial_errors)):
            for found, count in counted.items():
                tally.update(dict.fromkeys(found, count))
        self.report.partial = self._errors.total() - self._errors[()]
        return self.report

    def _is_ours(self, output: Message, parts: Parts, *, is_letter: bool) -> bool:
        if self._replay is None:
            return parts.replay is None
        return self._replay.made(output, parts, is_letter=is_letter)

    def _ledger(self, origin: Origin) -> OffsetLedger | None:
        if origin.topic != self._topic:
            return None
        ledgers = self._ledgers.get(origin.partition, ())
        return next((one for one in ledgers if one.range.start <= origin.offset < one.range.end), None)

    def _count(self, output: Output) -> None:
        if output.form is Form.ENRICHED:
            self._sources[output.sources] += 1
            self._errors[output.errors] += 1
        else:
            self.report.dead_reasons.update(output.errors)

    def _found(self, defect: Defect, where: Origin, detail: str) -> None:
        self.report.defects[defect] += 1
        if len(self.report.examples[defect]) < self._examples:
            self.report.examples[defect].append(f"{where.topic} {where.partition}@{where.offset}: {detail}")


def _place(message: Message) -> str:
    return f"{message.topic()} {message.partition()}@{message.offset()}"
