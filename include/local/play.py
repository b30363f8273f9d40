"""Play messages into a running stack, wait until the scheduled DAG has drained them, and report what became of them."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from rich.console import Console

from enrichment import sql
from enrichment.batch import OffsetRange
from enrichment.conservation.check import check
from enrichment.conservation.committed import log_ranges, read
from enrichment.conservation.origins import Origin, origin_of
from enrichment.databases import Limits, connect
from enrichment.enrichers.geo.database import GeoDatabase
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import TransactionOpen
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import committed_offsets
from enrichment.settings import KafkaSettings, load
from include.local.airflow_api import AirflowApi
from include.local.arguments import Input
from include.local.errors import StackError
from include.local.generate import Options, messages
from include.local.progress import progress
from include.local.records import Record, play_file, produce
from include.local.report import PublishedBatch, Report, covered, of_ranges, show
from include.local.stack import Stack

DAG_ID = "stacklens_enrichment"
POLL_SECONDS = 0.5
API_EVERY_SECONDS = 3.0
DAG_SECONDS = 300  # for Airflow to read the DAG file, on a busy machine
STALL_SECONDS = 300  # without progress of the group
CLOCK_SKEW = timedelta(minutes=5)  # between this machine and a database of yours
LEDGER_SECONDS = 60  # from the group's progress to the ledger's row
DATABASE_LIMITS = Limits(connect=10, statement=LEDGER_SECONDS, lock=LEDGER_SECONDS)


@dataclass(frozen=True, slots=True)
class Played:
    """What was sent: how many messages, when, to which offsets, and where the outputs' logs ended before."""

    sent: int
    started_at: datetime
    ranges: tuple[OffsetRange, ...]
    output_starts: Mapping[tuple[str, int], int]


def play(stack: Stack, wanted: Input) -> int:
    """Play a file, or generated messages; returns 0 when every one of them has exactly one right output.

    Raises `StackError` when they cannot be sent, a run fails, or nothing moves for `STALL_SECONDS`.
    """
    console = Console(soft_wrap=True)
    settings = load()
    airflow = AirflowApi(stack.airflow_url, stack.airflow_user, stack.airflow_password)
    _await_dag(airflow)
    try:
        played = _send(stack.bootstrap_servers, settings.kafka, wanted)
        airflow.trigger(DAG_ID)  # beside the schedule: a newcomer need not wait for the minute
        _await_group(stack, settings.kafka, airflow, played)
        batches = _await_ledger(stack, settings.kafka, played)
        topics = (settings.kafka.input_topic, settings.kafka.output_topic, settings.kafka.dlq_topic)
        # Each message is read twice, as it came and as it went out.
        with progress("Proving that nothing is lost or doubled: messages read", 2 * played.sent) as advance:
            found = check(
                stack.bootstrap_servers, *topics, played.ranges,
                redriven_topic=settings.kafka.redriven_topic, output_starts=played.output_starts, advance=advance,
            )  # fmt: skip
        report = Report(
            sent=played.sent,
            seconds=(max(b.published_at for b in batches) - played.started_at).total_seconds(),
            conservation=found,
            batches=batches,
            sample=_sample(stack.bootstrap_servers, settings.kafka, played),
            default_geo_database=GeoDatabase().build in {batch.source_builds.get("geo") for batch in batches},
            max_error_rate=settings.service_levels.max_error_rate,
            ui_url=stack.airflow_url,
            user=stack.airflow_user,
            password=stack.airflow_password,
        )
    except KafkaException as refused:
        raise StackError(f"Kafka at {stack.bootstrap_servers}: {refused.args[0].str()}") from refused
    except TransactionOpen as hidden:
        raise StackError(str(hidden)) from hidden
    show(report, console)
    return 0 if report.ok else 1


def _await_dag(airflow: AirflowApi) -> None:
    """Return once Airflow knows the DAG and may run it."""
    deadline = time.monotonic() + DAG_SECONDS
    while (paused := airflow.is_paused(DAG_ID)) is None:
        if errors := airflow.import_errors():
            raise StackError("Airflow cannot read a DAG file: " + "; ".join(errors))
        if time.monotonic() > deadline:
            raise StackError(
                f"Airflow has not found the DAG {DAG_ID} in {DAG_SECONDS} s: see the log of the dag-processor"
            )
        time.sleep(POLL_SECONDS)
    if paused:
        raise StackError(f"the DAG {DAG_ID} is paused: unpause it in the UI, then run this again")


def _send(kafka: str, topics: KafkaSettings, wanted: Input) -> Played:
    outputs = {
        (topic, r.partition): r.end
        for topic in (topics.output_topic, topics.dlq_topic)
        for r in log_ranges(kafka, topic)
    }
    before = {r.partition: r.end for r in log_ranges(kafka, topics.input_topic)}
    started_at = datetime.now(UTC)
    records = messages(Options(count=wanted.count)) if wanted.path is None else _lines(wanted.path)
    with progress(f"Sending to {topics.input_topic}", wanted.count) as advance:
        sent = produce(records, kafka, topics.input_topic, advance=advance)
    after = log_ranges(kafka, topics.input_topic)
    ranges = tuple(OffsetRange(r.partition, before.get(r.partition, 0), r.end) for r in after)
    return Played(sent, started_at, tuple(r for r in ranges if r.span), outputs)


def _lines(path: Path) -> Iterator[Record]:
    try:
        # Their own times may be older than what a topic of yours keeps: it would lose them before they are read.
        yield from play_file(path, keep_times=False)
    except (OSError, EOFError, zlib.error) as unreadable:
        raise StackError(f"INPUT={path} cannot be read: {unreadable}") from unreadable


def _await_group(stack: Stack, topics: KafkaSettings, airflow: AirflowApi, played: Played) -> None:
    """Return when the group has committed every offset played; say which task failed, or that nothing moves."""
    total = sum(r.span for r in played.ranges)
    done, moved_at, asked_at = -1, time.monotonic(), 0.0
    watch = _Watch(airflow, played.started_at, stack.directory / "airflow" / "logs")
    with (
        Clients({"bootstrap.servers": stack.bootstrap_servers}, topics).offsets_reader() as consumer,
        progress("Enriching", total) as advance,
    ):
        while done < total:
            before, done = done, _committed(consumer, topics, played.ranges)
            advance(done)
            now = time.monotonic()
            moved_at = now if done != before else moved_at
            if done < total and now - asked_at > API_EVERY_SECONDS:
                asked_at = now
                watch.look()
            if now - moved_at > STALL_SECONDS:
                raise StackError(_stalled(stack, topics))
            if done < total:
                time.sleep(POLL_SECONDS)


class _Watch:
    """Looks for failed tasks: says once of each that it is tried again, and raises for one that is not."""

    def __init__(self, airflow: AirflowApi, since: datetime, logs: Path) -> None:
        self._airflow = airflow
        self._since = since
        self._logs = logs
        self._said: set[Path] = set()

    def look(self) -> None:
        """Raises `StackError` for the tasks that failed for good."""
        tasks = self._airflow.failed_tasks(DAG_ID, self._since, self._logs)
        failed = [str(task) for task in tasks if not task.retrying]
        if failed:
            raise StackError("\n".join(failed))
        for task in tasks:
            if task.log not in self._said:
                self._said.add(task.log)
                Console(stderr=True, soft_wrap=True).print(str(task), highlight=False, markup=False)


def _committed(consumer: Consumer, topics: KafkaSettings, ranges: Sequence[OffsetRange]) -> int:
    partitions = [r.partition for r in ranges]
    offsets = committed_offsets(consumer, topics.input_topic, partitions, topics.request_timeout_sec)
    return sum(min(max((offsets[r.partition] or 0) - r.start, 0), r.span) for r in ranges)


def _stalled(stack: Stack, topics: KafkaSettings) -> str:
    return (
        f"the group {topics.consumer_group} has not moved for {STALL_SECONDS} s. See whether a run waits or retries at "
        f"{stack.airflow_url}/dags/{DAG_ID} and what the scheduler says in {stack.directory / 'logs' / 'scheduler.log'}"
    )


def _await_ledger(stack: Stack, topics: KafkaSettings, played: Played) -> list[PublishedBatch]:
    """The batches that hold the messages played; their rows are written just after the group has moved."""
    question = {"since": played.started_at - CLOCK_SKEW, "topic": topics.input_topic, "group_id": topics.consumer_group}
    deadline = time.monotonic() + LEDGER_SECONDS
    while True:
        with (
            connect(conninfo_to_dict(stack.stacklens_dsn), DATABASE_LIMITS) as connection,
            connection.transaction(),
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(sql.load("enrichment_jobs/find_published"), question).fetchall()
        batches = of_ranges(msgspec.convert(rows, list[PublishedBatch]), played.ranges)
        if covered(batches, played.ranges) >= sum(r.span for r in played.ranges):
            return batches
        if time.monotonic() > deadline:
            raise StackError(
                f"the messages are published, but enrichment_jobs does not say so after {LEDGER_SECONDS} s: see the "
                f"task publish of the last run at {stack.airflow_url}/dags/{DAG_ID}"
            )
        time.sleep(POLL_SECONDS)


def _sample(kafka: str, topics: KafkaSettings, played: Played) -> dict[str, Any] | None:
    """The first message played that all sources enriched, or the first of all if there is none."""
    starts = played.output_starts
    held = [
        OffsetRange(r.partition, max(r.start, starts.get((topics.output_topic, r.partition), 0)), r.end)
        for r in log_ranges(kafka, topics.output_topic)
    ]
    first: dict[str, Any] | None = None
    with closing(read(kafka, topics.output_topic, held)) as outputs:
        for message in outputs:
            if not _is_played(origin_of(message), topics.input_topic, played.ranges):
                continue
            enriched: dict[str, Any] = json.loads(message.value() or b"{}")
            first = first or enriched
            if REGISTRY.by_source.keys() <= set(enriched["enrichment_sources"]):
                return enriched
    return first


def _is_played(origin: Origin | None, topic: str, ranges: Iterable[OffsetRange]) -> bool:
    return (
        origin is not None
        and origin.topic == topic
        and any(r.partition == origin.partition and r.start <= origin.offset < r.end for r in ranges)
    )
