"""The only door to Airflow: connections and settings in, the tasks of the DAGs out.

A batch that the ledger has as published is done: whichever of its tasks is cleared has nothing left to do.

A task opens what it needs, calls the pipeline, records what it did, and returns a small manifest. Clients and pandas
are imported inside the tasks: a DAG file that imports this module stays light.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import (
    Asset,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    get_current_context,
    task,
)

if TYPE_CHECKING:
    from enrichment.enrichers.base import Enricher
    from enrichment.messages import Batch
    from enrichment.resources import Resources

# The topics, as the UI's asset graph shows them. Named, not addressed: the brokers are the connection's business.
ENRICHED = Asset("stacklens-enriched")
ANALYTICS = Asset("stacklens-analytics")
DEAD_LETTERS = Asset("analytics-dlq")

# An event-driven wake-up takes its place here (`AssetOrTimeSchedule` over this timetable).
EVERY_MINUTE = CronTriggerTimetable("* * * * *", timezone="UTC")

# What a task returns and the next ones take: plain JSON types, or an XComArg while the DAG is put together.
Manifest = Any

# What a batch's tasks are called in the UI's grid; each task fills it in.
BATCH_LABEL = "{{ batch_label }}"

# What another try cannot mend fails at once, with its reason; everything else (a broker, a database, a lock) is
# retried.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception=f"enrichment.errors.{name}", action=RetryAction.FAIL, reason=reason)
        for name, reason in {
            "SettingsError": "a setting is wrong",
            "OffsetsMoved": "the group was moved by somebody else",
            "OffsetsLost": "unread messages have left the log",
            "StagingMissing": "an earlier task must run again",
            "BatchUnbalanced": "the numbers do not add up",
        }.items()
    ]
)
DEFAULT_ARGS: dict[str, Any] = {
    "owner": "stacklens",
    "retries": 4,
    "retry_delay": timedelta(seconds=2),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=1),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(minutes=10),
}
LIVE_PARAMS = {
    "max_messages": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        title="Messages at most",
        description_md="In each batch of this run. Empty: the setting `KAFKA_BATCH_SIZE`.",
    ),
    "partitions": Param(
        None,
        type=["null", "array"],
        items={"type": "integer", "minimum": 0},
        title="Partitions",
        description_md="Only these partitions of the input topic. Empty: all.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description_md="Read and enrich, but publish nothing and commit nothing; the counts are in the task's XCom.",
    ),
}


@contextmanager
def stoppable() -> Iterator[None]:
    """End the block with an exception when the task is stopped from the UI.

    Airflow answers SIGTERM with the operator's `on_kill`, which a function has none of, and kills it five seconds
    later: a transaction would stay open until its timeout.
    """

    def stop(_signum: int, _frame: object) -> None:
        raise SystemExit("stopped by SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def resources() -> Iterator[Resources]:
    """What a task works with, from the settings and Airflow's connections; closed at the end, stoppable meanwhile."""
    from airflow.providers.apache.kafka.hooks.base import KafkaBaseHook
    from airflow.providers.postgres.hooks.postgres import PostgresHook
    from airflow.sdk import BaseHook, ObjectStoragePath

    from enrichment.resources import Resources
    from enrichment.settings import load

    class KafkaConfigHook(KafkaBaseHook):
        """Gives the configuration itself, its callbacks and cloud tokens resolved: each purpose adds its own
        options."""

        def _get_client(self, config: dict[str, Any]) -> dict[str, Any]:
            return config

    def user_service() -> tuple[str, str | None]:
        connection = BaseHook.get_connection(settings.user.conn_id)
        # As in Airflow's own HttpHook, the host may be a whole URL.
        host = connection.host or ""
        base_url = host if "://" in host else f"{connection.schema or 'http'}://{host}"
        return f"{base_url}:{connection.port}" if connection.port else base_url, connection.password

    settings = load()
    with (
        stoppable(),
        Resources(
            settings,
            kafka_config=lambda: KafkaConfigHook(settings.kafka.conn_id).get_conn,  # type: ignore[no-untyped-call]
            connect_postgres=lambda: PostgresHook(settings.pipeline.postgres_conn_id).get_conn(),  # type: ignore[arg-type,return-value]
            user_service=user_service,
            staging_root=ObjectStoragePath(settings.pipeline.staging_url),
        ) as opened,
    ):
        yield opened


def batch_of(manifest: dict[str, Any]) -> Batch:
    """The batch of a manifest; it also names the task's square in the UI's grid."""
    from enrichment.messages import Batch

    batch = Batch.from_manifest(manifest)
    get_current_context()["batch_label"] = f"lane {batch.lane}: {batch.span:,} offsets"  # type: ignore[typeddict-unknown-key]
    return batch


@task
def claim() -> list[dict[str, Any]]:
    """Fix the offset ranges of this run's batches, one per lane, and write them to the ledger.

    A run that is cleared gets the ranges back that it had. Without a backlog there are no batches, and the rest is
    skipped.
    """
    from enrichment import pipeline

    context = get_current_context()
    with resources() as r:
        batches = pipeline.claim(
            r.clients, r.ledger, r.settings,
            dag_id=context["dag"].dag_id, run_id=context["run_id"], **context["params"],
        )  # fmt: skip
    return [batch.to_manifest() for batch in batches]


@task(map_index_template=BATCH_LABEL)
def drain(batch: Manifest) -> dict[str, Any]:
    """Read the batch's messages, decode them, and stage events, their keys, and what was refused."""
    from enrichment import pipeline

    claimed = batch_of(batch)
    with resources() as r:
        job = r.ledger.get(claimed.batch_id)
        settled = pipeline.settle(claimed, job)
        if job is not None and job.is_published:
            return pipeline.Drained(settled, job.messages_read or 0, 0, job.value_bytes or 0).to_manifest()
        with r.stage(claimed.batch_id, "drain") as stage:
            drained = pipeline.drain(r.clients, r.staging, settled)
            r.ledger.drained(drained.batch, drained.messages, drained.value_bytes)
            stage.messages = drained.messages
            stage.counts = {"refused": drained.refused, "value_bytes": drained.value_bytes}
    return drained.to_manifest()


@task(map_index_template=BATCH_LABEL)
def geo(drained: Manifest) -> dict[str, Any]:
    """Add the place of each message's address."""
    with resources() as r:
        return look_up(r, "geo", drained, r.geo_enricher())


@task(map_index_template=BATCH_LABEL)
def user(drained: Manifest) -> dict[str, Any]:
    """Add the profile of each message's user."""
    with resources() as r:
        return look_up(r, "user", drained, r.user_enricher())


@task(map_index_template=BATCH_LABEL)
def business(drained: Manifest, placed: Manifest, profiled: Manifest) -> dict[str, Any]:
    """Add the business context of each message's request, and the risk that follows from context, place and profile."""
    del placed, profiled  # they say that geo and user are done; what they added is staged
    from enrichment.messages import Source

    with resources() as r:
        return look_up(
            r, "business", drained, r.business_enricher(), after=(Source.GEO, Source.USER), on_chunk=r.record_risks
        )


def look_up(r: Resources, name: str, manifest: dict[str, Any], enricher: Enricher, **how: Any) -> dict[str, Any]:
    """Run an enricher over the batch; returns how its messages were answered and the seconds that it took."""
    from msgspec import to_builtins

    from enrichment import pipeline

    batch = batch_of(manifest["batch"])
    job = r.ledger.get(batch.batch_id)
    if job is not None and job.is_published:
        return {"counts": job.cache_counts.get(name, {}), "seconds": job.durations.get(name, 0.0)}
    with r.stage(batch.batch_id, name) as stage:
        counts = pipeline.enrich(r.staging, batch, enricher, **how)
        stage.messages, stage.counts = counts.messages, to_builtins(counts)
    return {"counts": stage.counts, "seconds": stage.seconds}


@task(map_index_template=BATCH_LABEL, outlets=[ANALYTICS, DEAD_LETTERS])
def publish(
    drained: Manifest, placed: Manifest, profiled: Manifest, scored: Manifest,
    *, outlet_events: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Publish enriched messages, dead letters and the group's offsets in one transaction, and complete the ledger.

    A batch that turns out to be published already (an earlier try died before it could say so) is only recorded.
    """
    from msgspec import convert, to_builtins

    from enrichment import pipeline

    batch = batch_of(drained["batch"])
    staged = convert(drained, pipeline.Drained)
    lookups = {"geo": placed, "user": profiled, "business": scored}
    with resources() as r:
        job = r.ledger.get(batch.batch_id)
        if job is not None and job.is_published:
            return {"batch_id": batch.batch_id, "dry_run": False, "produced": False}
        with r.stage(batch.batch_id, "publish") as stage:
            published = pipeline.publish(r.clients, r.staging, staged, r.settings)
            stage.messages, stage.counts = published.counts.total, to_builtins(published)
        pipeline.record(
            r.ledger, staged, published,
            cache_counts={name: done["counts"] for name, done in lookups.items()},
            durations={"publish": stage.seconds} | {name: done["seconds"] for name, done in lookups.items()},
            geo_database_build=r.geo_database.version,
        )  # fmt: skip
    summary = {"batch_id": batch.batch_id, "dry_run": batch.dry_run, **to_builtins(published)}
    for asset in (ANALYTICS, DEAD_LETTERS):
        outlet_events[asset].extra = summary
    return summary


@task(map_index_template=BATCH_LABEL)
def clean(batch: Manifest) -> None:
    """Remove what the batch staged, however its tasks ended."""
    claimed = batch_of(batch)
    with resources() as r:
        r.staging.remove(claimed.batch_id)
