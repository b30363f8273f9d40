"""The check of some input partitions: a share of the work, for one process of several."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import zip_longest
from multiprocessing.sharedctypes import Synchronized
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message

from enrichment.batch import OffsetRange
from enrichment.conservation.committed import Kafka, read
from enrichment.conservation.fingerprint import of_analytics, of_letter
from enrichment.conservation.matching import Matcher
from enrichment.conservation.report import ConservationReport, Expected

ADVANCE_EVERY = 1_000  # messages
LOOK_SECONDS = 0.5
# Processes take two seconds to start, and each reads all outputs: few messages are checked sooner by one, and more
# than a few processes read more than they compare.
SIDE_BY_SIDE_FROM = 200_000
PROCESSES = 4


@dataclass(frozen=True)
class CheckedShare:
    """A part of the check: these input ranges against all messages of the output topics."""

    kafka: Kafka
    input_topic: str
    output_topics: tuple[str, str]  # of enriched messages, of dead letters
    outputs: tuple[Sequence[OffsetRange], Sequence[OffsetRange]]
    redriven: frozenset[tuple[int, int]]
    ranges: Sequence[OffsetRange]
    content_every: int
    examples: int
    timeout: float
    replay: Expected | None
    allow_older: bool = False
    of: int = 1  # how many shares there are

    def split(self, count: int) -> list[CheckedShare]:
        """Split into as many shares of about equal size, each partition in one of them."""
        spans: dict[int, int] = defaultdict(int)
        for r in self.ranges:
            spans[r.partition] += r.span
        parts: list[set[int]] = [set() for _ in range(count)]
        for partition in sorted(spans, key=lambda p: -spans[p]):
            min(parts, key=lambda part: sum(spans[p] for p in part)).add(partition)
        return [replace(self, ranges=[r for r in self.ranges if r.partition in part], of=count) for part in parts]


def worthwhile_processes(whole: CheckedShare) -> int:
    """How many processes are worthwhile; one, where something cannot be sent to another."""
    is_plain = isinstance(whole.kafka, str) or all(isinstance(v, str | int | float) for v in whole.kafka.values())
    is_sendable = is_plain and (whole.replay is None or whole.replay.wanted is None)
    if not is_sendable or sum(r.span for r in whole.ranges) < SIDE_BY_SIDE_FROM:
        return 1
    return min(PROCESSES, os.cpu_count() or 1, len({r.partition for r in whole.ranges}))


def match(share: CheckedShare, advance: Callable[[int], None] | None = None) -> tuple[ConservationReport, int]:
    """Check a share; also returns how many outputs were seen. `advance` is called with the number of messages read;
    outputs, which every share reads, count as a fraction each."""
    run = Matcher(
        share.input_topic, share.ranges, share.content_every, share.examples, share.replay,
        allow_older=share.allow_older,
    )  # fmt: skip
    seen = [0, 0]  # outputs and inputs

    def told(kind: int, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            yield message
            seen[kind] += 1
            if advance is not None and seen[kind] % ADVANCE_EVERY == 0:
                advance(seen[0] // share.of + seen[1])

    def outputs(which: int) -> Iterator[Message]:
        return told(0, read(share.kafka, share.output_topics[which], share.outputs[which], share.timeout))

    run.report.analytics = run.take_outputs(
        outputs(0), lambda message, _, parts: of_analytics(message, parts), corrected=True
    )
    run.report.dead = run.take_outputs(outputs(1), of_letter, redriven=share.redriven)
    for one_a_partition in rounds(share.ranges):
        run.take_inputs(told(1, read(share.kafka, share.input_topic, one_a_partition, share.timeout)))
    return run.finish(), seen[0]


def match_side_by_side(
    shares: Sequence[CheckedShare], examples: int, advance: Callable[[int], None] | None
) -> ConservationReport:
    """Check each share in a process of its own. Raises what one of them raises."""
    context = multiprocessing.get_context("spawn")  # a fork would share the clients of this process
    counters = [context.Value("Q", 0) for _ in shares]
    with ProcessPoolExecutor(len(shares), context, _take_counters, (counters,)) as pool:
        futures = [pool.submit(_match_counted, share, number) for number, share in enumerate(shares)]
        while wait(futures, timeout=LOOK_SECONDS).not_done:
            if advance is not None:
                advance(sum(counter.value for counter in counters))
        answers = [future.result() for future in futures]
    found = [answer for answer in answers if not isinstance(answer, Failed)]
    for failed in answers:
        if isinstance(failed, Failed):
            raise KafkaException(KafkaError(failed.code, failed.text))
    reports, (seen, *_) = zip(*found, strict=True)
    return ConservationReport.sum_of(reports, seen, examples)


class Failed(NamedTuple):
    """A `KafkaException`, which cannot be sent from one process to another."""

    code: int
    text: str


_counters: list[Synchronized[int]] = []


def _take_counters(counters: list[Synchronized[int]]) -> None:
    _counters[:] = counters


def _match_counted(share: CheckedShare, number: int) -> tuple[ConservationReport, int] | Failed:
    def advance(done: int) -> None:
        _counters[number].value = done

    try:
        return match(share, advance)
    except KafkaException as failed:
        return Failed(failed.args[0].code(), failed.args[0].str())


def rounds(ranges: Iterable[OffsetRange]) -> Iterator[list[OffsetRange]]:
    """The ranges in groups that hold each partition at most once, in order."""
    by_partition: dict[int, list[OffsetRange]] = defaultdict(list)
    for r in ranges:
        by_partition[r.partition].append(r)
    for group in zip_longest(*by_partition.values()):
        yield [r for r in group if r is not None]
