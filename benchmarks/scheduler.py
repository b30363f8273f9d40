"""The backlog through the real scheduler: DAG `stacklens_enrichment`, from its trigger to the group's last commit."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, Thread

import psutil
import psycopg
from confluent_kafka import TopicPartition
from rich.console import Console

from benchmarks.stand import Stand, span, whole_stack
from enrichment.batch import OffsetRange
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import committed_offsets
from enrichment.settings import KafkaSettings
from include.local.airflow_api import AirflowApi
from include.local.errors import StackError
from include.local.play import DAG_ID
from include.local.progress import progress
from include.local.stack import LocalStack, Stack
from include.local.steps import Steps

POLL_SECONDS = 0.1
API_EVERY_SECONDS = 5.0
DAG_SECONDS = 60
DRAIN_SECONDS = 600
# Seconds of the minute in which a pass may start: the minute's own run, which finds nothing to do, is over,
# and the next one is far away.
START_FROM, START_UNTIL = 6, 30
SETTLE_SECONDS = 3  # for the last run to be closed
RSS_SECONDS = 0.2

PEAKS = """
SELECT stage, max(peak_rss_bytes)
FROM enrichment_metrics
JOIN enrichment_jobs USING (batch_id)
WHERE dag_id = %(dag_id)s AND claimed_at >= %(since)s
GROUP BY stage
"""
SECONDS = """
SELECT stage, sum(seconds) / %(passes)s
FROM enrichment_metrics
JOIN enrichment_jobs USING (batch_id)
WHERE dag_id = %(dag_id)s AND claimed_at >= %(since)s
GROUP BY stage
"""
# A group that is not where the ledger has it claims nothing, nor does one in another number of lanes: earlier passes
# were another group's.
FORGET = (
    "UPDATE enrichment_jobs SET group_id = 'earlier-passes' WHERE group_id = %(group_id)s",
    "DELETE FROM enrichment_positions WHERE group_id = %(group_id)s",
    "DELETE FROM enrichment_lanes WHERE group_id = %(group_id)s",
)


@dataclass(frozen=True)
class Drained:
    """Passes through the scheduler with one number of lanes. The bytes are those of the largest passes."""

    settings: Mapping[str, str]
    runs: int  # that a pass takes
    seconds: Sequence[float]
    stage_seconds: Mapping[str, float]  # of all its tasks together, in a pass
    peak_rss_bytes: Mapping[str, int]
    peak_tree_bytes: int  # of a worker of the scheduler with the task in it

    def rate(self, messages: int) -> float:
        """Messages a second: the median."""
        return messages / statistics.median(self.seconds)


def variants(stand: Stand) -> list[dict[str, str]]:
    """The settings that are compared: the defaults, batches twice as large, the defaults by tasks of their own, and two
    lanes side by side.

    A lane has its share of the backlog in a batch or two. Keys are hashed: it has a few messages more than its share,
    for which no other run is worth while.
    """
    size, largest = stand.settings.kafka.batch_size, max(_lane_spans(stand, 2))
    wider = {"KAFKA_BATCH_SIZE": str(largest)} if size < largest < 1.1 * size else {}
    twice = dict.fromkeys(("KAFKA_BATCH_SIZE", "KAFKA_AT_ONCE_MESSAGES"), str(2 * size))
    return [{}, twice, {"KAFKA_AT_ONCE_MESSAGES": "0"}, {"KAFKA_AT_ONCE_MESSAGES": "0", "KAFKA_LANES": "2", **wider}]


def drain_through_scheduler(
    stand: Stand, environ: Mapping[str, str], own: dict[str, str], repeat: int, steps: Steps, console: Console
) -> Drained:
    """Start the whole stack with settings of its `own`, drain the backlog once to fill the caches and then `repeat`
    times, stop the stack. Nothing but the trigger starts a run, and runs that leave something are followed."""
    kafka = stand.settings.kafka
    spans = _lane_spans(stand, int(own.get("KAFKA_LANES", kafka.lanes)))
    runs = -(-max(spans) // int(own.get("KAFKA_BATCH_SIZE", kafka.batch_size)))
    words = " ".join(f"{name}={value}" for name, value in own.items()) or "defaults"
    with whole_stack({**environ, **own, "WAKE_UP_ENABLED": "false"}, steps) as (local, stack):
        airflow = AirflowApi(stack.airflow_url, stack.airflow_user, stack.airflow_password)
        await_dag(airflow)
        since = datetime.now(UTC)
        with _watch(local) as largest:
            _drain(stand, airflow, stack, runs, f"Filling the caches, {words}")
        since_warm = datetime.now(UTC)
        seconds = []
        for number in range(1, repeat + 1):
            seconds.append(_drain(stand, airflow, stack, runs, f"Scheduler, {words}, {number} of {repeat}"))
            console.print(f"  {words}: {stand.messages / seconds[-1]:,.0f} messages/s", highlight=False)
        time.sleep(SETTLE_SECONDS)
        with psycopg.connect(stack.stacklens_dsn) as connection:
            peaks = connection.execute(PEAKS, {"dag_id": DAG_ID, "since": since}).fetchall()
            took = connection.execute(SECONDS, {"dag_id": DAG_ID, "since": since_warm, "passes": repeat}).fetchall()
        forget_passes(stand, stack)  # the next stack has another number of lanes
    return Drained(own, runs, seconds, dict(took), dict(peaks), max(largest, default=0))


def catch_up(stand: Stand, environ: Mapping[str, str], repeat: int, steps: Steps, console: Console) -> list[float]:
    """Start the whole stack with the default settings, have the backlog drained `repeat` times without a trigger by
    hand, stop the stack; the seconds of each pass."""
    with whole_stack(environ, steps) as (_, stack):
        airflow = AirflowApi(stack.airflow_url, stack.airflow_user, stack.airflow_password)
        await_dag(airflow)
        seconds = []
        for number in range(1, repeat + 1):
            seconds.append(_drain(stand, airflow, stack, 0, f"Nobody triggers, {number} of {repeat}"))
            console.print(f"  nobody triggers: {stand.messages / seconds[-1]:,.0f} messages/s", highlight=False)
        time.sleep(SETTLE_SECONDS)
        forget_passes(stand, stack)
    return seconds


def _lane_spans(stand: Stand, lanes: int) -> list[int]:
    return [span([r for r in stand.backlog if r.partition % lanes == lane]) for lane in range(lanes)]


def await_dag(airflow: AirflowApi) -> None:
    """Wait until Airflow has found the DAG. Raises `StackError`."""
    deadline = time.monotonic() + DAG_SECONDS
    while airflow.is_paused(DAG_ID) is None:
        if time.monotonic() > deadline:
            raise StackError(f"Airflow has not found {DAG_ID} in {DAG_SECONDS} s: {airflow.import_errors()}")
        time.sleep(POLL_SECONDS)


def _drain(stand: Stand, airflow: AirflowApi, stack: Stack, runs: int, what: str) -> float:
    """Seconds from the trigger of the first of `runs` runs until the group has committed the whole backlog; without
    any, from when messages wait."""
    kafka, since = stand.settings.kafka, datetime.now(UTC)
    await_start()
    forget_passes(stand, stack)
    move_group(stand, [OffsetRange(r.partition, r.start, r.start) for r in stand.backlog])
    clients = Clients({"bootstrap.servers": stand.bootstrap_servers}, kafka)
    with clients.offsets_reader() as consumer, progress(what, stand.messages) as advance:
        start = asked_at = time.monotonic()
        for _ in range(runs):
            airflow.trigger(DAG_ID)  # one after the other: the DAG has one active run at most
        while (
            left := _left(committed_offsets(consumer, kafka.input_topic, _partitions(stand), 30), stand.backlog)
        ) > 0:
            advance(stand.messages - left)
            now = time.monotonic()
            if now - start > DRAIN_SECONDS:
                raise StackError(
                    f"{left} messages are left after {DRAIN_SECONDS} s; see {stack.airflow_url}/dags/{DAG_ID}"
                )
            if now - asked_at > API_EVERY_SECONDS:
                asked_at = now
                failed = airflow.failed_tasks(DAG_ID, since, stack.directory / "airflow" / "logs")
                if failed:
                    raise StackError("\n".join(map(str, failed)))
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - start
        advance(stand.messages)
    return seconds


def forget_passes(stand: Stand, stack: Stack) -> None:
    """Have the ledger forget what it knows of the group."""
    with psycopg.connect(stack.stacklens_dsn) as connection:
        for statement in FORGET:
            connection.execute(statement, {"group_id": stand.settings.kafka.consumer_group})


def await_start() -> None:
    """Wait for those seconds of a minute in which no run of the schedule is in the way."""
    time.sleep(SETTLE_SECONDS)
    while not START_FROM <= datetime.now(UTC).second < START_UNTIL:
        time.sleep(POLL_SECONDS)


def _partitions(stand: Stand) -> list[int]:
    return [r.partition for r in stand.backlog]


def _left(committed: Mapping[int, int | None], backlog: Sequence[OffsetRange]) -> int:
    return sum(r.end - max(r.start, committed[r.partition] or 0) for r in backlog)


def move_group(stand: Stand, ranges: Sequence[OffsetRange]) -> None:
    """Set the offsets of the live group to the ends of the ranges: nobody is a member of it."""
    kafka: KafkaSettings = stand.settings.kafka
    with Clients({"bootstrap.servers": stand.bootstrap_servers}, kafka).offsets_reader() as consumer:
        offsets = [TopicPartition(kafka.input_topic, r.partition, r.end) for r in ranges]
        consumer.commit(offsets=offsets, asynchronous=False)


@contextmanager
def _watch(local: LocalStack) -> Iterator[list[int]]:
    """Samples, in bytes, of the scheduler's largest worker: its own memory and that of its task, shared or not."""
    scheduler = next(pid for program, _, pid in local.status() if program.name == "scheduler")
    samples: list[int] = []
    over = Event()

    def sample() -> None:
        while not over.wait(RSS_SECONDS):
            with suppress(psutil.NoSuchProcess):
                samples.append(max(map(_tree_bytes, psutil.Process(scheduler).children()), default=0))

    watching = Thread(target=sample)
    watching.start()
    try:
        yield samples
    finally:
        over.set()
        watching.join()


def _tree_bytes(process: psutil.Process) -> int:
    total = 0
    with suppress(psutil.NoSuchProcess):
        total = sum(int(p.memory_info().rss) for p in (process, *process.children(recursive=True)))
    return total
