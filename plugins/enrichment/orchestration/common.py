"""What all tasks share: assets, defaults, and the resources that they open."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias, ExceptionRetryPolicy, Param, RetryAction, RetryDecision, RetryRule

from enrichment.settings import KafkaSettings, ReplaySettings
from enrichment.variables import variable

if TYPE_CHECKING:
    from airflow.sdk import Context

    from enrichment.group.doorbell import Ring
    from enrichment.resources import Resources


def topic_asset(field: str, settings: type[KafkaSettings | ReplaySettings] = KafkaSettings) -> Asset:
    """A topic of the settings, as the UI's asset graph shows it. The brokers' addresses are not in it: the connection
    has them. Tasks check the name: an invalid one must not become the import error of every DAG."""
    default = settings.model_fields[field].default
    return Asset(os.environ.get(variable(settings, field)) or default)


# Each is an inlet of the tasks that read it, and so known from the DAG files. One that Airflow makes when an event of
# it comes is made twice by two tasks that publish at the same moment, and the second one fails.
ENRICHED = topic_asset("input_topic")
ANALYTICS = topic_asset("output_topic")
DEAD_LETTERS = topic_asset("dlq_topic")
REPLAYED = topic_asset("output_topic", ReplaySettings)
REPLAYED_DEAD = topic_asset("dlq_topic", ReplaySettings)
# What a task publishes to: whether to a topic at all, and to which, is known when it has.
PUBLISHED = AssetAlias("stacklens-published")
# What waits in the input topic; an event of it wakes `stacklens_enrichment`. Nothing else may name it: where several
# places describe an asset, Airflow keeps the watchers of one of them.
BACKLOG = Asset(f"{ENRICHED.name}-backlog")
# The backlog, where a task has found that there is one: the next run follows at once.
WAITING = AssetAlias("stacklens-waiting")

# What a task returns and the next ones take: plain JSON types, or an XComArg while the DAG is put together.
Manifest = Any

# What another try cannot fix fails at once, with its reason; everything else (a broker, a database, a lock) is
# retried.
RULES = [
    RetryRule(exception=f"enrichment.errors.{name}", action=RetryAction.FAIL, reason=reason)
    for name, reason in {
        "SettingsError": "a setting is wrong",
        "RunRefused": "a parameter of the run is wrong",
        "LanesChanged": "the group's number of lanes is another one",
        "OffsetsMoved": "the group is not where it should be",
        "OffsetsLost": "unread messages have left the log",
        "StagingMissing": "an earlier task must run again",
        "BatchUnbalanced": "the numbers do not add up",
        "BatchRefused": "the broker refuses messages of the batch",
        "ServiceLevelMissed": "an hour missed a service level",
        "WindowLost": "messages of the window have left the log",
        "ReplayRefused": "the replay cannot be made as it was asked for",
        "RedriveRefused": "the dead letters cannot be sent in again as things are",
        "DatabaseRefused": "the file that was offered is no good",
        "RepairIncomplete": "partial messages stay as they are",
    }.items()
]
RETRY_POLICY = ExceptionRetryPolicy(RULES)
RETRIES = 4
DEFAULT_ARGS: dict[str, Any] = {
    "owner": "stacklens",
    "retries": RETRIES,
    "retry_delay": timedelta(seconds=2),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=1),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(minutes=10),
}

# A source that is down may have a batch wait: then its task is tried once a minute until the deadline has passed. Read
# here and not from the settings: how often a task may be tried is known when its DAG is, by the DAG processor.
HOLDS = os.environ.get("ENRICHMENT_OUTAGE_POLICY") == "hold"
HELD_TRIES = 120


class PatientRetryPolicy(ExceptionRetryPolicy):
    """Retries a held batch as often as the task may be tried, everything else as often as other tasks are."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """See `RetryPolicy`."""
        from enrichment.errors import OutageHeld

        decision = super().evaluate(exception, try_number, max_tries, context)
        if isinstance(exception, OutageHeld) or try_number <= RETRIES:
            return decision
        return RetryDecision.fail(f"failed in try {try_number}, by something else than an outage")


LOOKUP_ARGS: dict[str, Any] = {"retries": HELD_TRIES, "retry_policy": PatientRetryPolicy(RULES)} if HOLDS else {}


def run_params(given: Mapping[str, Any], known: Mapping[str, Param]) -> dict[str, Any]:
    """The parameters of a run, those that its DAG has.

    Raises `RunRefused` for any other: Airflow accepts every name in a trigger's conf, and a `dryrun` that is ignored
    would publish.
    """
    from enrichment.errors import RunRefused

    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise RunRefused(
            f"the run was triggered with parameters that this DAG does not have: {', '.join(unknown)}. Nothing was "
            f"done; it takes {', '.join(known)}"
        )
    return dict(given)


@contextmanager
def stoppable() -> Iterator[None]:
    """End the block with an exception when the task is stopped from the UI.

    Airflow answers SIGTERM with the operator's `on_kill`, which a function does not have, and kills it five seconds
    later: a transaction would stay open until its timeout.
    """

    def stop(_signum: int, _frame: object) -> None:
        raise SystemExit("stopped by SIGTERM")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def open_resources() -> Resources:
    """Resources from the settings and Airflow's connections, to be used in a `with` block."""
    from enrichment.orchestration.staging import staging_root
    from enrichment.resources import Resources
    from enrichment.settings import load
    from enrichment.sources.airflow_connections import database_parameters, http_service, kafka_config

    settings = load()
    return Resources(
        settings,
        kafka_config=lambda: kafka_config(settings.kafka.conn_id),
        postgres_parameters=lambda: database_parameters(settings.pipeline.postgres_conn_id),
        http_endpoint=http_service,
        staging_root=lambda: staging_root(settings.pipeline.staging_url),
    )


@contextmanager
def resources() -> Iterator[Resources]:
    """A task's resources; closed at the end, stoppable meanwhile."""
    with stoppable(), open_resources() as opened:
        yield opened


def tell_waiting(outlet_events: Any, ring: Ring) -> None:
    """Attach an asset event of the backlog to the task: it wakes `stacklens_enrichment`."""
    outlet_events[WAITING].add(BACKLOG, extra=ring.to_event())


def tell_published(outlet_events: Any, messages: Mapping[str, int], extra: dict[str, Any]) -> None:
    """Attach an asset event to the task for each topic, by its name, in which messages have become visible."""
    for topic, count in messages.items():
        if count:
            outlet_events[PUBLISHED].add(Asset(topic), extra=extra)
