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
    from airflow.sdk import Connection, Context

    from enrichment.connections import HttpEndpoint
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
        "RedriveRefused": "what would be sent in again would not stay",
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


def connection_of(conn_id: str, setting: str) -> Connection:
    """An Airflow connection; `setting` is the variable that names it. Raises `SettingsError` where there is none.

    A variable whose text Airflow cannot read is none: it goes on to its database.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    from enrichment.errors import SettingsError

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as unknown:
        raise SettingsError(
            f"Airflow knows no connection {conn_id!r} ({setting}): add it, or check what "
            f"AIRFLOW_CONN_{conn_id.upper()} holds"
        ) from unknown


@contextmanager
def resources() -> Iterator[Resources]:
    """What a task works with, from the settings and Airflow's connections; closed at the end, stoppable meanwhile."""
    from airflow.providers.apache.kafka.hooks.base import KafkaBaseHook
    from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException

    from enrichment.connections import check_kafka, check_postgres, http_endpoint
    from enrichment.errors import SettingsError
    from enrichment.orchestration import postgres
    from enrichment.orchestration.staging import staging_root
    from enrichment.resources import Resources
    from enrichment.settings import load

    class KafkaConfigHook(KafkaBaseHook):
        """Gives the configuration itself, its callbacks and cloud tokens resolved: each purpose adds its own
        options."""

        def _get_client(self, config: dict[str, Any]) -> dict[str, Any]:
            return config

    def kafka_config() -> dict[str, Any]:
        conn_id = settings.kafka.conn_id
        check_kafka(connection_of(conn_id, "KAFKA_CONN_ID"))
        try:
            config: dict[str, Any] = KafkaConfigHook(conn_id).get_conn  # type: ignore[no-untyped-call]
        except (ValueError, AirflowOptionalProviderFeatureException) as refused:
            raise SettingsError(f"the connection {conn_id!r} cannot be used: {refused}") from refused
        return config

    def postgres_parameters() -> dict[str, Any]:
        conn_id = settings.pipeline.postgres_conn_id
        check_postgres(connection_of(conn_id, "ENRICHMENT_POSTGRES_CONN_ID"))
        return postgres.parameters(conn_id)

    def user_service() -> HttpEndpoint:
        return http_endpoint(connection_of(settings.user.conn_id, "USER_SERVICE_CONN_ID"))

    settings = load()
    with (
        stoppable(),
        Resources(
            settings,
            kafka_config=kafka_config,
            postgres_parameters=postgres_parameters,
            user_service=user_service,
            staging_root=lambda: staging_root(settings.pipeline.staging_url),
        ) as opened,
    ):
        yield opened
