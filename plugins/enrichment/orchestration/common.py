"""What all tasks have in common: assets, defaults, and the resources that they open."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, ExceptionRetryPolicy, Param, RetryAction, RetryDecision, RetryRule

if TYPE_CHECKING:
    from airflow.sdk import Context

    from enrichment.resources import Resources

# The topics, as the UI's asset graph shows them. Named, not addressed: the brokers are the connection's business.
ENRICHED = Asset("stacklens-enriched")
ANALYTICS = Asset("stacklens-analytics")
DEAD_LETTERS = Asset("analytics-dlq")

# What a task returns and the next ones take: plain JSON types, or an XComArg while the DAG is put together.
Manifest = Any

# What another try cannot mend fails at once, with its reason; everything else (a broker, a database, a lock) is
# retried.
RULES = [
    RetryRule(exception=f"enrichment.errors.{name}", action=RetryAction.FAIL, reason=reason)
    for name, reason in {
        "SettingsError": "a setting is wrong",
        "OffsetsMoved": "the group is not where it should be",
        "OffsetsLost": "unread messages have left the log",
        "StagingMissing": "an earlier task must run again",
        "BatchUnbalanced": "the numbers do not add up",
        "ServiceLevelMissed": "an hour missed a service level",
        "WindowLost": "messages of the window have left the log",
        "ReplayRefused": "the replay cannot be made as it was asked for",
        "DatabaseRefused": "the file that was offered is no good",
        "RepairIncomplete": "partial messages stay as they are",
        "RunRefused": "the run's parameters are not this DAG's",
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

    Raises `RunRefused` for any other: Airflow takes whatever a trigger's conf names, and a `dryrun` that is ignored
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
