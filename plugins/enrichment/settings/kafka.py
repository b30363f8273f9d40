"""Topics, group and batches, of the live stream and of replays."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from enrichment.names import GroupName, TopicName
from enrichment.variables import PositiveInt, room_config

MOST_LANES = 10_000  # far more than a topic has partitions


class KafkaSettings(BaseSettings):
    """Topics, group, and how much of them a batch may take."""

    model_config = room_config("KAFKA_")

    conn_id: str = Field("kafka_stacklens", min_length=1, description="Airflow connection of the brokers")
    input_topic: TopicName = Field("stacklens-enriched", description="topic that is drained")
    output_topic: TopicName = Field("stacklens-analytics", description="topic that enriched messages go to")
    # The topic of its markers has a longer name.
    dlq_topic: TopicName = Field("analytics-dlq", max_length=240, description="topic that dead letters go to")
    consumer_group: GroupName = Field(
        "stacklens-enrichment", description="group whose committed offsets are the progress; nothing else may join it"
    )
    batch_size: PositiveInt = Field(500_000, description="messages at most in a batch")
    batch_bytes: PositiveInt = Field(512 * 1024**2, description="bytes of message values at most in a batch")
    batches_per_run: PositiveInt = Field(4, description="batches at most in a run, one per lane")
    at_once_messages: Annotated[int, Field(ge=0)] = Field(
        500_000,
        description="messages up to which the batches of a run, together, are enriched by the task that claims them,"
        " which is quicker than by tasks of their own; 0: none",
    )
    lanes: Annotated[int, Field(gt=0, le=MOST_LANES)] = Field(
        1,
        description="lanes: partition p belongs to lane p % lanes; the group's number, the same for all workers:"
        " `python -m enrichment.group set-lanes` changes it",
    )
    chunk_size: Annotated[int, Field(gt=0, le=10_000_000)] = Field(
        50_000, description="messages at most whose keys and answers a task holds"
    )
    chunk_bytes: Annotated[int, Field(gt=0, le=1024**3)] = Field(
        4 * 1024**2, description="bytes of messages at most that a task holds at once"
    )
    max_message_bytes: Annotated[int, Field(ge=1_000, le=1_000_000_000)] = Field(
        2 * 1024**2, description="largest message that is published; the topics must allow it (max.message.bytes)"
    )
    retention_bytes: Annotated[int, Field(ge=-1)] = Field(
        10 * 1024**3,
        description="what each partition of a topic keeps that `python -m enrichment.kafka` creates"
        " (`retention.bytes`), whatever its messages' times; -1: all",
    )
    offsets_lost_policy: str = Field(
        "fail",
        pattern="^(fail|earliest)$",
        description="when unread messages have left the log: `fail` the run, or go on at the `earliest` and report",
    )
    request_timeout_sec: Annotated[float, Field(gt=0, le=3_600)] = Field(
        30, description="time for a broker to answer a request"
    )
    transaction_timeout_sec: Annotated[float, Field(ge=1, le=2_147_483)] = Field(
        300,
        description="time after which the broker aborts a publisher's transaction; at most its"
        " transaction.max.timeout.ms",
    )

    @field_validator("retention_bytes")
    @classmethod
    def _keeps_something(cls, value: int) -> int:
        if value == 0:
            raise ValueError("it would keep nothing; -1 keeps all")
        return value

    @property
    def redriven_topic(self) -> str:
        """Topic of the markers of redriven dead letters. Not a setting: deployments that share the dead letters share
        the markers."""
        return f"{self.dlq_topic}-redriven"


class WakeUpSettings(BaseSettings):
    """When messages that wait start a run before its minute."""

    model_config = room_config("WAKE_UP_")

    enabled: bool = Field(
        True, description="whether the triggerer watches the backlog; without it runs start by the minute"
    )
    messages: PositiveInt = Field(50_000, description="messages that wait for which a run is started at once")
    after_sec: Annotated[float, Field(ge=0, le=300)] = Field(
        0.5, description="time that the oldest message waits at most until a run is started"
    )


class ReplaySettings(BaseSettings):
    """Where replays go, and how the past is cut into windows."""

    model_config = room_config("REPLAY_")

    output_topic: TopicName = Field(
        "stacklens-analytics-replay", description="topic that replayed messages go to unless a run names another"
    )
    dlq_topic: TopicName = Field(
        "analytics-dlq-replay", description="topic of the dead letters of replays, which are never redriven"
    )
    window_cron: str = Field(
        "0 * * * *", description="cron expression (UTC) that cuts the past into windows: a run of a backfill each"
    )
    pool: str = Field("stacklens_replay", description="Airflow pool of a replay's tasks, which throttles it")
