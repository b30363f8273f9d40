"""The conservation check from a shell: `python -m enrichment.conservation --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from confluent_kafka import KafkaException

from enrichment.batch import OffsetRange
from enrichment.conservation.check import check
from enrichment.conservation.committed import committed_ranges, log_ranges
from enrichment.conservation.report import Expected
from enrichment.errors import OffsetsLost, SettingsError, TransactionOpen
from enrichment.kafka.command_line import add_brokers, brokers
from enrichment.settings import load

TELL_SECONDS = 5.0
NOTHING = (
    "there is nothing to check: no message of the input topic is in these ranges, or in this time, or the group has "
    "committed nothing yet"
)


class Teller:
    """Reports progress on stderr now and then: a long check must not look dead."""

    def __init__(self) -> None:
        self._due_at = time.monotonic() + TELL_SECONDS

    def __call__(self, done: int) -> None:
        """Count the messages read."""
        if time.monotonic() >= self._due_at:
            sys.stderr.write(f"{done:,} messages read\n")
            self._due_at = time.monotonic() + TELL_SECONDS


def parse_ranges(text: str) -> list[OffsetRange]:
    """`0:0-100,1:5-20` as ranges of partitions 0 and 1, ends not included. Raises `ArgumentTypeError`."""
    ranges = []
    for part in text.split(","):
        partition, _, offsets = part.partition(":")
        start, _, end = offsets.partition("-")
        try:
            ranges.append(OffsetRange(int(partition), int(start), int(end)))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is no range of a partition, such as 0:0-100") from None
    return ranges


def parse_count(text: str) -> int:
    """A whole number from 1. Raises `ArgumentTypeError`."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def parse_time(text: str) -> int:
    """A time in ISO 8601 (UTC where it names no zone) in milliseconds. Raises `ArgumentTypeError`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2024-01-15T10:00:00Z") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def expected_of(chosen: argparse.Namespace) -> Expected | None:
    """What the replay that the command line names was to take."""
    if chosen.replay_id is None:
        return None
    return Expected.of(chosen.replay_id, chosen.start, chosen.end, chosen.service, chosen.level)


def main(arguments: Sequence[str]) -> int:
    """Check as the command line says; 0 when conservation holds, 1 when not or when there is nothing to check."""
    settings = load().kafka
    parser = argparse.ArgumentParser(
        prog="python -m enrichment.conservation", description="Is every input output once?"
    )
    add_brokers(parser)
    parser.add_argument("--input-topic", default=settings.input_topic, help="(default %(default)s)")
    parser.add_argument("--output-topic", default=settings.output_topic, help="(default %(default)s)")
    parser.add_argument("--dlq-topic", default=settings.dlq_topic, help="(default %(default)s)")
    parser.add_argument("--group", default=settings.consumer_group, help="whose progress --all follows (%(default)s)")
    parser.add_argument("--content-every", type=parse_count, default=1, help="compare the content of every nth offset")
    parser.add_argument("--examples", type=int, default=5, help="of each defect (default %(default)s)")
    parser.add_argument(
        "--replay-id", help="check what this replay published of --start to --end, by --service, --level"
    )
    for name in ("--start", "--end"):
        what_time = "as 2024-01-15T10:00:00Z; the end is not included"
        parser.add_argument(name, type=parse_time, metavar="TIME", help=what_time)
    for name in ("--service", "--level"):
        parser.add_argument(name, action="append", default=[], help="only this one was replayed; may be repeated")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ranges", type=parse_ranges, help="input offsets, as 0:0-100,1:5-20 (ends not included)")
    what.add_argument(
        "--all",
        action="store_true",
        help="from the log's start to the group's committed offsets; of a replay, to its end",
    )
    chosen = parser.parse_args(arguments)
    if chosen.replay_id is not None and None in (chosen.start, chosen.end):
        parser.error("--replay-id needs --start and --end")
    kafka = brokers(chosen, settings)
    replay = expected_of(chosen)
    ranges = chosen.ranges or (
        log_ranges(kafka, chosen.input_topic) if replay else committed_ranges(kafka, chosen.input_topic, chosen.group)
    )
    topics = (chosen.input_topic, chosen.output_topic, chosen.dlq_topic)
    report = check(
        kafka, *topics, ranges, replay=replay, redriven_topic=f"{chosen.dlq_topic}-redriven",
        content_every=chosen.content_every, examples=chosen.examples, allow_older=True, advance=Teller(),
    )  # fmt: skip
    print(report.summary() if report.read or not report.ok else NOTHING)
    return 0 if report.ok and report.read else 1


def run() -> int:
    """As `main`, with the shell's arguments; what cannot be checked ends it with a line that says why."""
    try:
        return main(sys.argv[1:])
    except (OffsetsLost, SettingsError, TransactionOpen) as untold:
        sys.exit(str(untold))
    except KafkaException as failed:
        sys.exit(f"Kafka: {failed.args[0].str()}")


if __name__ == "__main__":
    sys.exit(run())
