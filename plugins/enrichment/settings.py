"""Every setting, read once from the environment, checked, frozen. `load()` names the variable that is wrong.

One class per room, so that a room sees only what is its own. The variable of a field is the class's prefix and the
field's name in capitals: `GeoSettings.cache_ttl_hours` is `GEO_IP_CACHE_TTL_HOURS`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from enrichment import sql
from enrichment.errors import SettingsError
from enrichment.messages import KEYS, Source
from enrichment.names import GroupName, TopicName, find_equal

# The risk rules that count while no others are named.
DEFAULT_RULES = Path(__file__).with_name("enrichers") / "business" / "risk_rules.toml"

PositiveInt = Annotated[int, Field(gt=0, lt=2**63)]  # what the ledger can hold
# Nothing that anybody waits for or keeps takes longer, in whatever unit; more would be none of PostgreSQL's numbers.
LONGEST = 1_000_000
PositiveFloat = Annotated[float, Field(gt=0, le=LONGEST)]
Days = Annotated[float, Field(gt=0, le=100_000)]  # 100,000 days ago there was a year
Share = Annotated[float, Field(ge=0, le=1)]
Room = TypeVar("Room", bound=BaseSettings)


def check_home(path: str) -> str:
    """A path whose `~` means somebody's home. Raises `ValueError`."""
    try:
        Path(path).expanduser()
    except RuntimeError as nobody:
        raise ValueError(f"there is no such home: {nobody}") from None
    return path


HomePath = Annotated[str, AfterValidator(check_home)]


def _config(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="ignore")


class KafkaSettings(BaseSettings):
    """Topics, group, and how much of them a batch may take."""

    model_config = _config("KAFKA_")

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
    lanes: Annotated[int, Field(gt=0, le=10_000)] = Field(
        1,
        description="lanes: partition p belongs to lane p % lanes; the group's number, the same for all workers:"
        " `python -m enrichment.group set-lanes` changes it",
    )
    chunk_size: Annotated[int, Field(gt=0, le=10_000_000)] = Field(
        50_000, description="messages at most whose keys and answers a task holds"
    )
    chunk_bytes: Annotated[int, Field(gt=0, le=1024**3)] = Field(
        16 * 1024**2, description="bytes of messages at most that a task holds"
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
        """Topic of the markers of redriven dead letters. Not a setting: whoever shares the letters shares these."""
        return f"{self.dlq_topic}-redriven"


class GeoSettings(BaseSettings):
    """The MaxMind-format database and its cache."""

    model_config = _config("GEO_IP_")

    database_path: HomePath = Field(
        "",
        description="MaxMind-format City database; empty: the one at GEO_IP_INSTALL_PATH, or, while none is there,"
        " GeoLite2 City of 2018 from the package maxminddb-geolite2",
    )
    install_path: HomePath = Field(
        "~/.stacklens/City.mmdb",
        description="where `stacklens_geoip_refresh` installs databases while GEO_IP_DATABASE_PATH is empty;"
        " all workers share its folder",
    )
    update_source: HomePath = Field(
        "",
        description="where newer databases come from: `maxmind`, an http(s) URL or a path (.mmdb, .mmdb.gz, .tar.gz);"
        " empty: nowhere",
    )
    maxmind_conn_id: str = Field(
        "maxmind", description="Airflow connection of the MaxMind account, for the source `maxmind`"
    )
    edition: str = Field("GeoLite2-City", description="MaxMind's name of the database, for the source `maxmind`")
    known_addresses: str = Field(
        "8.8.8.8=US,128.101.101.101=US",
        pattern=r"^[0-9a-fA-F.:]+=[A-Z]{2}(, *[0-9a-fA-F.:]+=[A-Z]{2})*$",
        description="addresses and their countries that a newer database must know to be installed",
    )
    download_timeout_sec: PositiveFloat = Field(
        600, description="time for a newer database to be downloaded, from the connection to the last byte"
    )
    max_database_mib: PositiveInt = Field(
        2048, description="size at most of a newer database, in MiB, as it is downloaded and unpacked"
    )
    max_age_days: PositiveFloat = Field(30, description="age of the database in use above which there is a warning")
    locale: str = Field("en", pattern=r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$", description="language of the names")
    cache_size: PositiveInt = Field(10_000, description="addresses kept in a task's memory")
    cache_ttl_hours: PositiveFloat = Field(1, description="how long a place may be served")
    cache_max_rows: PositiveInt = Field(500_000, description="addresses kept in PostgreSQL after an eviction")
    max_keyless_share: Share = Field(
        0.95, description="share of messages without an address above which run and hour say so; 1: never"
    )


class UserSettings(BaseSettings):
    """The user-profile API and its cache."""

    model_config = _config("USER_SERVICE_")

    conn_id: str = Field("user_service", description="Airflow connection (HTTP) of the user-profile API")
    timeout_sec: PositiveFloat = Field(5, description="time for the API to answer one request, all of it")
    task_timeout_sec: PositiveFloat = Field(
        300, description="time that a task may spend on the API; who is not answered for by then is repaired later"
    )
    batch_size: PositiveInt = Field(500, description="users in one request")
    concurrency: Annotated[int, Field(gt=0, le=1_000)] = Field(4, description="requests at once")
    retries: Annotated[int, Field(ge=0, le=1_000)] = Field(3, description="further tries of a request that failed")
    backoff_sec: Annotated[float, Field(ge=0, le=LONGEST)] = Field(
        0.2, description="pause before the second try; doubles, with jitter"
    )
    retry_after_max_sec: PositiveFloat = Field(30, description="longest Retry-After that is waited for")
    breaker_failures: PositiveInt = Field(5, description="failed requests in a row that open the circuit breaker")
    breaker_reset_sec: PositiveFloat = Field(30, description="time until an open breaker lets a request through")
    cache_size: PositiveInt = Field(5_000, description="users kept in a task's memory")
    cache_ttl_hours: PositiveFloat = Field(1, description="how long a profile may be served")
    cache_max_rows: PositiveInt = Field(500_000, description="users kept in PostgreSQL after an eviction")
    max_keyless_share: Share = Field(
        0.95, description="share of messages without a user above which run and hour say so; 1: never"
    )


class BusinessSettings(BaseSettings):
    """The business context, its cache, and the risk rules."""

    model_config = _config("BUSINESS_")

    risk_rules_path: HomePath = Field("", description="TOML file of the risk rules; empty: the one beside the code")
    query_timeout_sec: PositiveFloat = Field(
        30, description="time for the query over your own tables, waiting for locks included; longer is their outage"
    )
    cache_size: PositiveInt = Field(5_000, description="requests kept in a task's memory")
    cache_ttl_minutes: PositiveFloat = Field(30, description="how long a context may be served")
    cache_max_rows: PositiveInt = Field(500_000, description="requests kept in PostgreSQL after an eviction")
    max_keyless_share: Share = Field(
        0.95, description="share of messages without a request above which run and hour say so; 1: never"
    )

    @property
    def rules_file(self) -> Path:
        """The file of the risk rules."""
        return Path(self.risk_rules_path).expanduser() if self.risk_rules_path else DEFAULT_RULES


class CacheSettings(BaseSettings):
    """What the three caches have in common."""

    model_config = _config("CACHE_")

    negative_ttl_minutes: PositiveFloat = Field(10, description="how long a key is known not to exist")
    error_ttl_sec: PositiveFloat = Field(30, description="how long a task remembers that a source failed for a key")
    stale_grace_hours: Annotated[float, Field(ge=0, le=LONGEST)] = Field(
        24, description="how long after its expiry an entry may still be served while its source is down"
    )
    touch_after_hours: PositiveFloat = Field(
        0.25, description="age from which a row's last use is noted anew when it is read; eviction goes by it"
    )
    eviction_chunk_rows: PositiveInt = Field(5_000, description="rows that one transaction of an eviction deletes")
    refresh_keys: Annotated[int, Field(ge=0)] = Field(
        1_000, description="keys of each cache at most that are renewed before they expire, the ones used last; 0: none"
    )
    refresh_ahead_minutes: PositiveFloat = Field(
        20, description="how long before its expiry a key that is in use is renewed; more than the eviction's interval"
    )


class PostgresSettings(BaseSettings):
    """How long the connections to the StackLens database may wait, by what they are for."""

    model_config = _config("POSTGRES_")

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
    """Where batches are staged and kept account of, and what makes a message a dead letter."""

    model_config = _config("ENRICHMENT_")

    postgres_conn_id: str = Field("postgres_stacklens", description="Airflow connection of the StackLens database")
    airflow_api_conn_id: str = Field(
        "airflow_api",
        description="Airflow connection of Airflow's own API, for notes on runs; without it runs get none",
    )
    staging_url: str = Field(
        "file:///tmp/stacklens-staging",
        description="folder or object storage path for the frames between tasks; all workers share it",
    )
    required_sources: Annotated[tuple[Source, ...], NoDecode] = Field(
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
        return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


class ServiceLevelSettings(BaseSettings):
    """What is promised of each hour of the live stream, and who is told when it is missed."""

    model_config = _config("SERVICE_LEVEL_")

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


class ReplaySettings(BaseSettings):
    """Where replays go, and how the past is cut into windows."""

    model_config = _config("REPLAY_")

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


class RetentionSettings(BaseSettings):
    """How long the pipeline's own past is kept."""

    model_config = _config("RETENTION_")

    jobs_days: Days = Field(
        90, description="batches in the ledger; an unpublished one stays until its group is past it"
    )
    metrics_days: Days = Field(30, description="metrics of the stages; never longer than their batch")
    audit_days: Days = Field(365, description="who changed what of a batch")
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


ROOMS: dict[str, type[BaseSettings]] = {
    "kafka": KafkaSettings,
    "geo": GeoSettings,
    "user": UserSettings,
    "business": BusinessSettings,
    "cache": CacheSettings,
    "postgres": PostgresSettings,
    "pipeline": PipelineSettings,
    "service_levels": ServiceLevelSettings,
    "replay": ReplaySettings,
    "retention": RetentionSettings,
}


# What the fingerprint leaves out, since no message becomes another one by it: rooms that make no batch, and fields of
# refreshes, evictions, renewals and repairs. (Whoever adds a setting need not think of it: it counts.)
_OTHER_ROOMS = ("service_levels", "replay", "retention")
_ELSEWHERE = {
    "kafka": {"request_timeout_sec", "transaction_timeout_sec", "retention_bytes"},
    "geo": {
        "update_source", "edition", "known_addresses", "download_timeout_sec", "max_database_mib", "max_age_days",
        "cache_max_rows", "max_keyless_share",
    },
    "user": {"cache_max_rows", "max_keyless_share"},
    "business": {"cache_max_rows", "max_keyless_share"},
    "cache": {"touch_after_hours", "eviction_chunk_rows", "refresh_keys", "refresh_ahead_minutes"},
    "postgres": {
        "connect_timeout_sec", "ledger_timeout_sec", "maintenance_timeout_sec", "maintenance_lock_timeout_sec",
    },
    "pipeline": {"repair_attempts", "repair_batches_per_run", "warn_share", "warn_from"},
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """All rooms' settings; `load()` reads them."""

    kafka: KafkaSettings
    geo: GeoSettings
    user: UserSettings
    business: BusinessSettings
    cache: CacheSettings
    postgres: PostgresSettings
    pipeline: PipelineSettings
    service_levels: ServiceLevelSettings
    replay: ReplaySettings
    retention: RetentionSettings

    @property
    def max_keyless_shares(self) -> dict[str, float]:
        """Up to which share of the messages may lack the key of each enrichment."""
        return {name: getattr(self, name).max_keyless_share for name in KEYS}

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when a batch would be made differently: the ledger says which settings made it.

        Equal workers have equal ones, wherever they have their files: the risk rules and the query of the business
        context count by what is in them. (The geo database has a column of its own.) Raises `SettingsError` when the
        rules cannot be read.
        """
        rooms = [
            getattr(self, name).model_dump_json(exclude=_ELSEWHERE.get(name, set()) | _local(room))
            for name, room in ROOMS.items()
            if name not in _OTHER_ROOMS
        ]
        try:
            rules = self.business.rules_file.read_bytes()
        except OSError as unreadable:
            raise SettingsError(
                f"BUSINESS_RISK_RULES_PATH={str(self.business.rules_file)!r}: {unreadable}"
            ) from unreadable
        contents = [rules, sql.load("business_context/fetch").encode()]
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        return hashlib.sha256("\n".join([*rooms, *digests]).encode()).hexdigest()[:12]


def _local(room: type[BaseSettings]) -> set[str]:
    """Fields that say where something is: each worker may have it elsewhere, or under another name."""
    return {name for name in room.model_fields if name.endswith(("_path", "_url", "conn_id"))}


def load() -> Settings:
    """Read the environment. Raises `SettingsError` naming every variable that has an unusable value."""
    rooms: dict[str, Any] = {}
    faults: list[str] = []
    for name, room in ROOMS.items():
        try:
            rooms[name] = load_room(room)
        except SettingsError as unusable:
            faults.append(str(unusable))
    if not faults:
        faults += find_equal(_topics(rooms["kafka"], rooms["replay"]), MAY_BE_EQUAL)
    if faults:
        raise SettingsError("; ".join(faults))
    return Settings(**rooms)


def load_room(room: type[Room]) -> Room:
    """Read the environment for one room. Raises `SettingsError` as `load` does."""
    try:
        return room()
    except ValidationError as invalid:
        faults = [f"{variable(room, str(e['loc'][0]))}={e['input']!r}: {e['msg']}" for e in invalid.errors()]
        raise SettingsError("; ".join(faults)) from invalid


# A replay may go to where the messages went at first, told apart by its header.
MAY_BE_EQUAL = frozenset({"KAFKA_OUTPUT_TOPIC", "REPLAY_OUTPUT_TOPIC"})


def _topics(kafka: KafkaSettings, replay: ReplaySettings) -> dict[str, str]:
    """All topics of the pipeline, by what names them."""
    return {
        "KAFKA_INPUT_TOPIC": kafka.input_topic,
        "KAFKA_OUTPUT_TOPIC": kafka.output_topic,
        "KAFKA_DLQ_TOPIC": kafka.dlq_topic,
        "the topic of the markers, KAFKA_DLQ_TOPIC with -redriven,": kafka.redriven_topic,
        "REPLAY_OUTPUT_TOPIC": replay.output_topic,
        "REPLAY_DLQ_TOPIC": replay.dlq_topic,
    }


def variable(room: type[BaseSettings], field: str) -> str:
    """The environment variable of a room's field."""
    return f"{room.model_config['env_prefix']}{field}".upper()
