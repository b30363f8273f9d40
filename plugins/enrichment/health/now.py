"""What is known of live enrichment at a moment, from ledger, metrics, breakers and log: one bounded look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
from confluent_kafka import KafkaException
from msgspec.structs import replace

from enrichment.batch import LIVE, OffsetRange, label_of
from enrichment.errors import EnrichmentError
from enrichment.group.watch import BacklogWatch
from enrichment.kafka.asking import text_of
from enrichment.kafka.offsets import Backlog
from enrichment.kafka.source import read_at
from enrichment.rollup.rollup import Rollup, percentiles
from enrichment.rollup.service_levels import Breach, Level, find_breaches
from enrichment.rollup.table import Rollups
from enrichment.settings import Settings
from enrichment.statements import Statements

RECENT = timedelta(minutes=5)  # what "now" means for rates
# Offsets at the head of a partition that are looked at for its first message: some hold none (transaction markers,
# aborted messages, compaction).
HEAD = 10


class WaitingPartition(msgspec.Struct, frozen=True):
    """What waits in a partition: offsets, and the Kafka timestamp of the first message (None: nothing waits, or
    its first offsets hold no message)."""

    partition: int
    waiting: int
    oldest_at: datetime | None = None


class LastBatch(msgspec.Struct, frozen=True):
    """The live batch that was published last. `source_builds` has the builds of its sources, such as the geo
    database's, by enrichment."""

    batch_id: str
    dag_id: str
    run_id: str
    published_at: datetime
    messages_read: int
    source_builds: dict[str, str] = {}


class UnfinishedBatch(msgspec.Struct, frozen=True):
    """A live batch that is claimed and not published; `error` is what its last try ended with. It is the newest of
    those of its lane and state that have one, or have none, of which there are `alike`."""

    batch_id: str
    dag_id: str
    run_id: str
    topic: str
    lane: int
    state: str
    attempts: int
    claimed_at: datetime
    error: str | None = None
    ranges: tuple[OffsetRange, ...] = ()
    alike: int = 1

    @property
    def label(self) -> str:
        """The name of its square in Airflow's grid."""
        return label_of(LIVE.kind, self.lane, self.ranges)


class OpenBreaker(msgspec.Struct, frozen=True):
    """A dependency that is not asked (`open`), or only to see whether it answers again (`half-open`)."""

    name: str
    state: str
    opened_at: datetime | None = None


class PendingSource(msgspec.Struct, frozen=True):
    """Published messages that lack a source until `stacklens_repair` corrects them."""

    source: str
    batches: int
    messages: int
    since: datetime


class Recent(msgspec.Struct, frozen=True):
    """What the last minutes' batches did. Shares and seconds are None without a message. `hit_rates` has for each cache
    the share that each tier answered; `breaches` are the service levels that these minutes miss."""

    minutes: float
    batches: int
    messages: int
    messages_per_second: float
    fully_enriched: float | None
    error_rate: float | None
    dead_letter_rate: float | None
    hit_rate: float | None
    hit_rates: dict[str, dict[str, float]]
    freshness: dict[str, float | None]
    errors_by_reason: dict[str, int]
    breaches: list[Breach]


class Now(msgspec.Struct, frozen=True):
    """Live enrichment at a moment. `backlog` is empty where the brokers do not say; `kafka_error` says why."""

    at: datetime
    recent: Recent
    backlog: list[WaitingPartition] = []
    kafka_error: str = ""
    last: LastBatch | None = None
    unfinished: list[UnfinishedBatch] = []
    breakers: list[OpenBreaker] = []
    pending: list[PendingSource] = []

    @property
    def waiting(self) -> int:
        """Offsets that wait in all partitions."""
        return sum(partition.waiting for partition in self.backlog)

    @property
    def oldest_at(self) -> datetime | None:
        """The Kafka timestamp of the oldest message that waits at the head of a partition."""
        return min((p.oldest_at for p in self.backlog if p.oldest_at is not None), default=None)


def look(
    connection: psycopg.Connection[Any],
    watch: BacklogWatch,
    kafka_config: Callable[[], Mapping[str, Any]],
    settings: Settings,
    at: datetime | None = None,
) -> Now:
    """Look at everything once. Raises `psycopg.Error` when the database does not answer; brokers that do not are told
    of in the result."""
    at = at or datetime.now(UTC)
    statements, kafka = Statements(connection), settings.kafka
    group = {"group_id": kafka.consumer_group}
    unfinished = statements.rows("enrichment_jobs/find_open", UnfinishedBatch, group)
    rollup = Rollups(connection).between(at - RECENT, at, contents=False)
    backlog, kafka_error = [], ""
    try:
        backlog = see_backlog(watch, kafka_config)
    except (KafkaException, EnrichmentError) as failed:
        kafka_error = text_of(failed)
    return Now(
        at=at,
        recent=recent_of(rollup, settings),
        backlog=backlog,
        kafka_error=kafka_error,
        last=statements.row("enrichment_jobs/last_published", LastBatch, {}),
        unfinished=newest_of(batch for batch in unfinished if batch.topic == kafka.input_topic),
        breakers=statements.rows("circuit_breakers/find_open", OpenBreaker, {}),
        pending=statements.rows("enrichment_pending/summarise", PendingSource, {}),
    )


def newest_of(batches: Iterable[UnfinishedBatch]) -> list[UnfinishedBatch]:
    """Of each lane and state the newest with an error and the newest without one; `batches` are in the order of their
    claims. A lane that fails all night leaves hundreds of them, with the same messages."""
    found: dict[tuple[int, str, bool], UnfinishedBatch] = {}
    for batch in batches:
        kind = batch.lane, batch.state, batch.error is None
        before = found.pop(kind, None)
        found[kind] = batch if before is None else replace(batch, alike=before.alike + 1)
    return list(found.values())


def see_backlog(watch: BacklogWatch, kafka_config: Callable[[], Mapping[str, Any]]) -> list[WaitingPartition]:
    """What waits, by clients that are opened when they are first needed, and anew after a failure. Raises as
    `BacklogWatch`."""
    try:
        if not watch.is_open:
            watch.open(kafka_config())
        backlog = watch.backlog()
        offsets = {b.partition: range(b.start, min(b.start + HEAD, b.high)) for b in backlog if b.span}
        heads = read_at(watch.clients, watch.topic, offsets)
    except (KafkaException, EnrichmentError):
        watch.close()
        raise
    times = {
        partition: tail.timestamp for (partition, _), tail in sorted(heads.items(), reverse=True)
    }  # the first stays
    return [_waiting(b, times.get(b.partition)) for b in backlog]


def _waiting(b: Backlog, timestamp: int | None) -> WaitingPartition:
    try:
        oldest = None if timestamp is None else datetime.fromtimestamp(timestamp / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # a message's time may be anything, such as microseconds
        oldest = None
    return WaitingPartition(b.partition, b.span, oldest)


def recent_of(rollup: Rollup, settings: Settings) -> Recent:
    """The rates of a rollup of the last minutes."""
    breaches = find_breaches(rollup, settings.service_levels, settings.max_keyless_shares)
    # Caches that were empty fill within minutes: a hit rate is judged by the hour.
    breaches = [breach for breach in breaches if breach.level != Level.HIT_RATE]
    return Recent(
        minutes=RECENT.total_seconds() / 60,
        batches=rollup.batches,
        messages=rollup.messages,
        messages_per_second=rollup.messages / RECENT.total_seconds(),
        fully_enriched=rollup.messages_enriched / rollup.messages if rollup.messages else None,
        error_rate=rollup.error_rate,
        dead_letter_rate=rollup.dead_letter_rate,
        hit_rate=rollup.hit_rate,
        hit_rates=rollup.hit_rates,
        freshness=percentiles(rollup.freshness),
        errors_by_reason=rollup.errors_by_reason,
        breaches=breaches,
    )
