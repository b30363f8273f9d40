"""How fresh enriched messages are under a steady load, and what the processes cost for it and without any load.

The whole stack as `make run` starts it; a producer sends 1,000 messages a second, and a `read_committed` consumer of
both output topics notes how long after its production each becomes visible.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
import psutil
import psycopg
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.database import DatabaseState, database_state, database_summary
from benchmarks.scheduler import await_dag
from benchmarks.searching import Searches, searching
from benchmarks.stand import whole_stack
from enrichment import sql
from enrichment.settings import load
from include.local.airflow_api import AirflowApi
from include.local.generate import Options, messages
from include.local.records import NOW, produce
from include.local.stack import LocalStack, Stack
from include.local.steps import Steps

RATE = 1_000  # messages a second
SETTLE_SECONDS = 45  # after the start of the stack, and until a load is over
IDLE_SECONDS = 120
LAST_SECONDS = 90  # for the last messages to become visible
CONSUMING = {
    "group.id": "bench-freshness", "isolation.level": "read_committed", "enable.auto.commit": False,
    "auto.offset.reset": "error", "fetch.wait.max.ms": 10,
}  # fmt: skip
METADATA = """
SELECT (SELECT count(*) FROM dag_run), sum(n_tup_ins), pg_database_size(current_database())
FROM pg_stat_user_tables
"""


class Metadata(NamedTuple):
    """What is in Airflow's database: runs, rows ever inserted, bytes."""

    runs: int = 0
    rows: int = 0
    size: int = 0


@dataclass
class Freshness:
    """Seconds from the production of each message until it was visible, and processor time in seconds by component:
    in a minute without messages, and under the load beside that."""

    seconds: list[float] = field(default_factory=list)
    idle_minute: dict[str, float] = field(default_factory=dict)
    load: dict[str, float] = field(default_factory=dict)
    minutes: float = 0.0
    metadata: Metadata = field(default_factory=Metadata)  # what the load has added
    databases: tuple[DatabaseState, DatabaseState] = (DatabaseState(), DatabaseState())  # before the load and after it
    searches: Searches = field(default_factory=Searches)  # beside the load

    def percentile(self, percent: float) -> float:
        """Of the seconds."""
        return round(float(np.percentile(self.seconds, percent)), 2)


def measure_freshness(
    environ: Mapping[str, str], minutes: float, people: int, steps: Steps, console: Console
) -> Freshness:
    """Start the whole stack, watch it idle and then under the load for some minutes, beside people who search without
    pause, stop it."""
    found = Freshness(minutes=minutes)
    count = int(60 * minutes * RATE)
    with whole_stack(environ, steps) as (local, stack):
        await_dag(AirflowApi(stack.airflow_url, stack.airflow_user, stack.airflow_password))
        with steps.step("one run to fill the caches"), _watched(stack, Freshness()) as seen:
            _send(stack, 10 * RATE)
            _await(seen, 10 * RATE)
        time.sleep(SETTLE_SECONDS)
        with steps.step("idle"):
            before = processor_time(local)
            time.sleep(IDLE_SECONDS)
            idle = _minus(processor_time(local), before)
            found.idle_minute = {name: seconds * 60 / IDLE_SECONDS for name, seconds in idle.items()}
        with steps.step(f"{RATE:,} messages/s for {minutes:g} min"), _watched(stack, found) as seen:
            _know_requests(stack, count)
            before, held, started = processor_time(local), _metadata(stack), time.monotonic()
            unloaded = database_state(stack.stacklens_dsn)
            kafka = load().kafka
            with searching(stack, people, [kafka.input_topic, kafka.output_topic]) as found.searches:
                _send(stack, count)
                _await(seen, count)
            found.metadata = Metadata(*(now - then for now, then in zip(_metadata(stack), held, strict=True)))
            found.databases = unloaded, database_state(stack.stacklens_dsn)
            used, took = _minus(processor_time(local), before), (time.monotonic() - started) / 60
            found.load = {name: seconds - found.idle_minute[name] * took for name, seconds in used.items()}
    console.print(f"  {len(found.seconds):,} messages: p50 {found.percentile(50)} s, p99 {found.percentile(99)} s")
    for failure in found.searches.failures[:3]:
        console.print(f"  a search failed: {failure}", highlight=False)
    return found


def processor_time(local: LocalStack) -> dict[str, float]:
    """Seconds that each component and what it started have used so far. The scheduler's are three: its own, that of its
    workers, and that of the tasks."""
    used: dict[str, float] = {}
    for program, _, pid in local.status():
        process = psutil.Process(pid)
        children = process.children(recursive=True)
        if program.name == "scheduler":
            workers = process.children()
            used["scheduler"] = _own(process)
            used["workers"] = sum(map(_own, workers))
            used["tasks"] = sum(map(_waited, workers)) + sum(_own(p) for p in children if p not in workers)
        else:
            used[program.name] = sum(_own(p) + _waited(p) for p in (process, *children))
    return used


def _own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _waited(process: psutil.Process) -> float:
    """Of its children that have ended."""
    times = process.cpu_times()
    return float(times.children_user + times.children_system)


def _minus(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before.get(name, 0.0) for name in after}


def _metadata(stack: Stack) -> Metadata:
    database = stack.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    with psycopg.connect(database) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        [found] = connection.execute(METADATA).fetchall()
    return Metadata(*map(int, found))


def _requests(count: int) -> int:
    """More requests than so many messages name: in real traffic none comes again."""
    return max(Options().requests, count // 2)


def _know_requests(stack: Stack, count: int) -> None:
    """Add the business data of those requests."""
    with psycopg.connect(stack.stacklens_dsn) as connection:
        connection.execute("SELECT set_config('demo.requests', %s, false)", [str(_requests(count))])
        connection.execute(sql.load("demo/business").encode())


def _send(stack: Stack, count: int) -> None:
    options = Options(count=count, requests=_requests(count))
    now = (record._replace(timestamp_ms=NOW) for record in messages(options))
    produce(now, stack.bootstrap_servers, load().kafka.input_topic, rate=RATE)


def _await(seen: Freshness, count: int) -> None:
    deadline = time.monotonic() + LAST_SECONDS
    while len(seen.seconds) < count and time.monotonic() < deadline:
        time.sleep(0.1)


@contextmanager
def _watched(stack: Stack, found: Freshness) -> Iterator[Freshness]:
    """Adds the seconds of each message that becomes visible in the block."""
    kafka, over, ready = load().kafka, Event(), Event()

    def watch() -> None:
        consumer = Consumer({**CONSUMING, "bootstrap.servers": stack.bootstrap_servers})
        topics = (kafka.output_topic, kafka.dlq_topic)
        partitions = {t: consumer.list_topics(t, timeout=30).topics[t].partitions for t in topics}
        homes = [TopicPartition(t, p) for t in topics for p in partitions[t]]
        ends = [TopicPartition(h.topic, h.partition, consumer.get_watermark_offsets(h, timeout=30)[1]) for h in homes]
        consumer.assign(ends)
        ready.set()
        while not over.is_set():
            batch = consumer.consume(10_000, timeout=0.02)
            now = time.time()
            found.seconds.extend(now - message.timestamp()[1] / 1000 for message in batch if message.error() is None)
        consumer.close()

    watching = Thread(target=watch)
    watching.start()
    ready.wait(60)
    try:
        yield found
    finally:
        over.set()
        watching.join()


def freshness_summary(found: Freshness) -> dict[str, Any]:
    """What `latest.json` holds of it."""
    count, runs = max(1, len(found.seconds)), found.metadata.runs
    return {
        "freshness_p50_s": found.percentile(50),
        "freshness_p90_s": found.percentile(90),
        "freshness_p99_s": found.percentile(99),
        "freshness_max_s": found.percentile(100),
        "freshness_messages": len(found.seconds),
        "freshness_minutes": found.minutes,
        "searches": _searches_summary(found.searches) if found.searches.people else None,
        "metadata_runs": runs,
        "metadata_rows_per_run": round(found.metadata.rows / max(1, runs), 1),
        "metadata_kb_per_run": round(found.metadata.size / 1024 / max(1, runs), 1),
        "idle_minute_processor_s": {name: round(s, 2) for name, s in found.idle_minute.items()},
        "database": database_summary(*found.databases, found.minutes),
        "load_processor_us_per_message": {name: round(1e6 * s / count, 1) for name, s in found.load.items()},
    }


def _searches_summary(found: Searches) -> dict[str, Any]:
    return {
        "people": found.people,
        "steps": found.steps,
        "messages": found.messages,
        "refused": found.refused,
        "failed": len(found.failures),
        "step_p50_s": round(float(np.percentile(found.seconds or [0.0], 50)), 2),
        "step_max_s": round(max(found.seconds, default=0.0), 2),
    }


def freshness_table(found: Mapping[str, Any]) -> Table:
    """Who works, idle and under the load."""
    title = (
        f"{found['freshness_messages']:,} messages at {RATE:,} messages/s: from production to visibility p50 "
        f"{found['freshness_p50_s']} s, p90 {found['freshness_p90_s']} s, p99 {found['freshness_p99_s']} s; "
        f"{found['metadata_runs']} runs, each {found['metadata_rows_per_run']} rows and "
        f"{found['metadata_kb_per_run']} kB in Airflow's database"
    )
    if beside := found["searches"]:
        title += (
            f"; beside {beside['people']} who searched: {beside['steps']:,} steps through {beside['messages']:,} "
            f"messages, p50 {beside['step_p50_s']} s, {beside['refused']:,} refused, {beside['failed']:,} failed"
        )
    table = Table("processor time", "s per idle minute", "us per message beside that", title=title)
    idle, load = found["idle_minute_processor_s"], found["load_processor_us_per_message"]
    for name, seconds in idle.items():
        table.add_row(name, f"{seconds:.2f}", f"{load[name]:.1f}")
    table.add_row("all", f"{sum(idle.values()):.2f}", f"{sum(load.values()):.1f}")
    return table
