"""Prove that nothing was lost, doubled, altered or reordered between the input topic and the two output topics.

    python -m enrichment.conservation --bootstrap-servers localhost:9092 --all

Every message in the given input offsets must have exactly one output, in analytics or in the dead letters, as a
`read_committed` reader sees them. A message that was published partial may be followed by corrections: the same message
with other additions, in the same partition, one of each further revision at most. Outputs are matched to inputs by
the origin in their headers. The outputs are read first and 50 bytes are kept for each input offset (numbers, no
messages), then the input is read and compared.

The rules: an output has the input's key, timestamp and headers, followed by the origin. (A timestamp of 0
becomes 1, the nearest that the client can send; where the output topic has `LogAppendTime`, its own is not compared. Of
a message with more than 100,000 headers the client reads none: here, too, it has none.) Every field of the input is in
the enriched message with the same JSON text, apart from white space and from keys of the output, which the output
overwrites. A dead letter restores the original: an equal object, the same text, the same bytes; it may have the time at
which it was written, and for a missing key the position of its input, since its fields keep the originals; it names
those of key and headers that were too large for it, and these are not compared. The outputs of one input partition are
in one partition of each output topic, in the order of their offsets.

A dead letter that was sent in again is marked in a topic of its own and is no longer an output; its outcome is, an
enriched message or another dead letter. Such an output may come at any time, so its place in the order is not checked,
and the headers of the redrive stand before the origin.

Outputs without an origin, or of other inputs than the given ones, are counted as foreign and ignored; so are those
of replays. A replay is checked by itself: then only its outputs count, only the messages that it was to take are
expected, and the order is that within each window.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from confluent_kafka import KafkaError, KafkaException

from enrichment.batch import OffsetRange
from enrichment.conservation.committed import Kafka, read, topic_id, whole_log_ranges
from enrichment.conservation.report import ConservationReport, Expected
from enrichment.conservation.shares import CheckedShare, match, match_side_by_side, worthwhile_processes
from enrichment.messages import HEADER_LETTER_TOPIC_ID


def check(
    kafka: Kafka,
    input_topic: str,
    output_topic: str,
    dlq_topic: str,
    ranges: Sequence[OffsetRange],
    *,
    redriven_topic: str | None = None,
    output_starts: Mapping[tuple[str, int], int] | None = None,
    output_ends: Mapping[tuple[str, int], int] | None = None,
    content_every: int = 1,
    examples: int = 5,
    timeout: float = 60,
    settle_seconds: float = 10,
    replay: Expected | None = None,
    allow_older: bool = False,
    advance: Callable[[int], None] | None = None,
) -> ConservationReport:
    """Check the messages in `ranges` of the input topic. `kafka` are bootstrap servers or a librdkafka configuration.

    The output topics are read from their beginning, or from `output_starts` by topic and partition, to their last
    stable offset, or to `output_ends`; transactions that are open at the start are waited for, `settle_seconds` at
    most. The content of every `content_every`th offset is compared, existence and order of all. `examples` is how many
    of each defect are described. `redriven_topic` has the markers of the dead letters that were sent in again; without
    it, none was. `replay` says what a replay was to take, to check that instead. With `allow_older`, enriched messages
    may lack all columns of an enrichment up to where the first one of their partition has them: it was declared only
    then. `advance` is called now and then with the number of messages read, outputs and inputs. Raises
    `TransactionOpen` when one is open for longer, since what it hides would look lost, `OffsetsLost` when part of a
    range has left the log, `KafkaException` when the broker delivers nothing for `timeout` seconds.
    """
    merged, starts, ends = merge(ranges), output_starts or {}, output_ends or {}

    def held(topic: str) -> list[OffsetRange]:
        log = whole_log_ranges(kafka, topic, timeout, settle_seconds)
        return [
            _within(r, starts.get((topic, r.partition), r.start), ends.get((topic, r.partition), r.end)) for r in log
        ]

    redriven = _redriven(kafka, redriven_topic, dlq_topic, timeout, settle_seconds) if redriven_topic else frozenset()
    whole = CheckedShare(
        kafka, input_topic, (output_topic, dlq_topic), (held(output_topic), held(dlq_topic)), frozenset(redriven),
        merged, content_every, examples, timeout, replay, allow_older,
    )  # fmt: skip
    shares = whole.split(worthwhile_processes(whole))
    if len(shares) == 1:
        return match(whole, advance)[0]
    return match_side_by_side(shares, examples, advance)


def _within(log: OffsetRange, start: int, end: int) -> OffsetRange:
    first = max(log.start, start)
    return OffsetRange(log.partition, first, max(first, min(log.end, end)))


def _redriven(
    kafka: Kafka, topic: str, dlq_topic: str, timeout: float, settle_seconds: float
) -> Collection[tuple[int, int]]:
    """Partition and offset of each dead letter that is marked as sent in again; none without such a topic.

    Markers of a dead-letter topic that was deleted and recreated mark none of the new one's."""
    try:
        held = whole_log_ranges(kafka, topic, timeout, settle_seconds)
    except KafkaException as refused:
        if refused.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return frozenset()
        raise
    marked, own = set(), topic_id(kafka, dlq_topic, timeout).encode()
    for marker in read(kafka, topic, held, timeout):
        partition, _, offset = (marker.key() or b"").partition(b":")
        # Else it is no redrive's.
        is_marker = partition.isdigit() and offset.isdigit() and len(partition + offset) < 30
        of = dict(marker.headers() or ()).get(HEADER_LETTER_TOPIC_ID, own)
        if is_marker and marker.value() is not None and of == own:
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
