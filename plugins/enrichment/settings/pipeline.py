"""Staging, ledger, database, service levels and retention."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from enrichment.enrichers.registry import REGISTRY
from enrichment.variables import LONGEST, Days, PositiveFloat, PositiveInt, Share, room_config


class PostgresSettings(BaseSettings):
    """How long the connections to the StackLens database may wait, by what they are for."""

    model_config = room_config("POSTGRES_")

    connect_timeout_sec: PositiveFloat = Field(
        10, description="time for a connection to be made, of each address of the host; at least 2"
    )
    cache_timeout_sec: PositiveFloat = Field(
        10, description="time for a statement on the cache tables; a table that takes longer is passed by"
    )
    cache_lock_timeout_sec: PositiveFloat = Field(
        2, description="time within that for locks on them; also for all that a circuit breaker's row may take"
    )
    cache_pause_sec: PositiveFloat = Field(
        30, description="how long a task passes by a cache table that did not answer; doubles with each failure"
    )
    ledger_timeout_sec: PositiveFloat = Field(
        60, description="time for what must be written down, waiting for locks included; then its task is tried again"
    )
    maintenance_timeout_sec: PositiveFloat = Field(
        300, description="time for a statement of eviction, retention, rollup or clean-up"
    )
    maintenance_lock_timeout_sec: PositiveFloat = Field(
        30, description="time within that for locks; then the task is tried again"
    )


class PipelineSettings(BaseSettings):
    """Where batches are staged and recorded, and what makes a message a dead letter."""

    model_config = room_config("ENRICHMENT_")

    postgres_conn_id: str = Field("postgres_stacklens", description="Airflow connection of the StackLens database")
    airflow_api_conn_id: str = Field(
        "airflow_api",
        description="Airflow connection of Airflow's own API, for notes on runs; without it runs get none",
    )
    staging_url: str = Field(
        "file:///tmp/stacklens-staging",
        description="folder or object storage path for the frames between tasks; all workers share it",
    )
    required_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="sources (comma separated) whose failure sends a message to the dead letters"
    )
    max_dead_letter_share: Share = Field(
        0.5,
        description="share of a batch above which dead letters of one reason fail it instead: suspect code or source",
    )
    dead_letter_share_from: PositiveInt = Field(
        1_000, description="messages that a batch must have for that: below, dead letters are just dead letters"
    )
    warn_share: Share = Field(
        0.5,
        description="share of a batch's messages, partial or dead letters, above which its run warns; 1: never",
    )
    warn_from: PositiveInt = Field(20, description="messages that a batch must have for any warning about its shares")
    outage_share: Share = Field(
        0.5, description="share of the keys that a source was asked for above which their failure is its outage"
    )
    outage_policy: str = Field(
        "publish",
        pattern="^(publish|hold)$",
        description="in an outage: `publish` the batch partial and repair it later, or `hold` it until the deadline",
    )
    outage_hold_deadline_minutes: Annotated[float, Field(ge=0, le=LONGEST)] = Field(
        15, description="how long after its claim a held batch is published partial after all"
    )

    repair_attempts: PositiveInt = Field(
        100, description="attempts, up to an hour apart, at which a source may fail again before a repair is given up"
    )
    repair_batches_per_run: PositiveInt = Field(50, description="batches at most that a run repairs")

    @field_validator("required_sources", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("required_sources")
    @classmethod
    def _are_declared(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [source for source in value if source not in REGISTRY.by_source]
        if unknown:
            raise ValueError(f"there is no source {unknown[0]!r}, only {', '.join(REGISTRY.by_source)}")
        return value


class ServiceLevelSettings(BaseSettings):
    """The service levels of each hour of the live stream, and the notifier of breaches."""

    model_config = room_config("SERVICE_LEVEL_")

    min_hit_rate: Share = Field(0.8, description="share of cache look-ups, by message, answered without a source")
    max_error_rate: Share = Field(0.05, description="share of messages with an error or dead must be below it")
    max_freshness_sec: PositiveFloat = Field(
        120, description="time from message timestamp to publication that 95 % of the messages keep"
    )
    max_lag: Annotated[int, Field(ge=0)] = Field(500_000, description="messages that a claim may leave behind")
    notifier: str = Field(
        "", description="Airflow notifier that is called with breaches: the import path of its class; empty: none"
    )
    notifier_kwargs: Annotated[dict[str, Any], NoDecode] = Field(
        {}, description="its arguments, a JSON object; in templates, `breaches` and `hour` are known"
    )

    @field_validator("notifier_kwargs", mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        try:
            return json.loads(value or "{}") if isinstance(value, str) else value
        except RecursionError:
            raise ValueError("nested too deep") from None


class RetentionSettings(BaseSettings):
    """How long the pipeline's own past is kept."""

    model_config = room_config("RETENTION_")

    jobs_days: Days = Field(
        90, description="batches in the ledger; an unpublished one stays until its group is past it"
    )
    metrics_days: Days = Field(30, description="metrics of the stages; never longer than their batch")
    audit_days: Days = Field(365, description="who changed what of a batch")
    minute_rollups_days: Annotated[float, Field(ge=1, le=100_000)] = Field(
        2, description="rollups of minutes, which the page plots the last day from"
    )
    hourly_rollups_days: Days = Field(
        180, description="rollups of hours; those of a day go together, and not before the day has all of them in it"
    )
    daily_rollups_days: Days = Field(
        1095, description="rollups of days, and breaches of service levels; a day never goes before its hours"
    )
    replays_days: Days = Field(
        90, description="dry runs of replays, and the details of finished windows; that these were published stays"
    )
    dag_runs_days: Annotated[float, Field(ge=1, le=100_000)] = Field(
        7, description="runs of these DAGs in Airflow's metadata, with their tasks, XComs and task logs"
    )
    metadata_conn_id: str = Field("airflow_metadata", description="Airflow connection of Airflow's own database")
