"""Airflow's connections in, the parameters of the clients of brokers, database and user service out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from enrichment.errors import SettingsError
from enrichment.sources.connections import HttpEndpoint, check_kafka, check_postgres, http_endpoint

if TYPE_CHECKING:
    from airflow.sdk import Connection


def connection_of(conn_id: str, setting: str) -> Connection:
    """An Airflow connection; `setting` is the variable that names it. Raises `SettingsError` where it is missing.

    A variable whose text Airflow cannot read does not count: it goes on to its database.
    """
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as unknown:
        raise SettingsError(
            f"Airflow knows no connection {conn_id!r} ({setting}): add it, or check what "
            f"AIRFLOW_CONN_{conn_id.upper()} holds"
        ) from unknown


def kafka_config(conn_id: str) -> dict[str, Any]:
    """The brokers' librdkafka configuration, its callbacks and cloud tokens resolved by the provider's own hook. Raises
    `SettingsError`."""
    from airflow.providers.apache.kafka.hooks.base import KafkaBaseHook
    from airflow.providers.common.compat.sdk import AirflowOptionalProviderFeatureException

    class ConfigHook(KafkaBaseHook):
        """Gives the configuration itself: each purpose adds its own options."""

        def _get_client(self, config: dict[str, Any]) -> dict[str, Any]:
            return config

    check_kafka(connection_of(conn_id, "KAFKA_CONN_ID"))
    try:
        config: dict[str, Any] = ConfigHook(conn_id).get_conn  # type: ignore[no-untyped-call]
    except (ValueError, AirflowOptionalProviderFeatureException) as refused:
        raise SettingsError(f"the connection {conn_id!r} cannot be used: {refused}") from refused
    return config


def database_parameters(conn_id: str) -> dict[str, Any]:
    """libpq's parameters of the StackLens database: each purpose adds its own limits. Raises `SettingsError`."""
    check_postgres(connection_of(conn_id, "ENRICHMENT_POSTGRES_CONN_ID"))
    return postgres_parameters(conn_id)


def postgres_parameters(conn_id: str) -> dict[str, Any]:
    """libpq's parameters, read by Airflow's own hook, with the extra and cloud tokens; other entries are dropped."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    class ParametersHook(PostgresHook):
        """Returns the parameters instead of a connection. An extra `cursor` is not resolved: it is dropped below."""

        def _get_cursor_config(self, raw_cursor: str) -> tuple[str, Any]:
            return "cursor", raw_cursor

        def _create_connection(self, conn_args: dict[str, Any]) -> Any:
            return conn_args

    found: dict[str, Any] = ParametersHook(conn_id).get_conn()  # type: ignore[assignment]
    return {name: value for name, value in found.items() if name != "cursor"}


def http_service(conn_id: str, setting: str) -> HttpEndpoint:
    """The HTTP service of a connection; `setting` is the variable that names the connection. Raises `SettingsError`."""
    return http_endpoint(connection_of(conn_id, setting))
