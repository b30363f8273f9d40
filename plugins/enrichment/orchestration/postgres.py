"""Takes the id of an Airflow connection to PostgreSQL, gives libpq's parameters: each purpose adds its own limits."""

from __future__ import annotations

from typing import Any


def parameters(conn_id: str) -> dict[str, Any]:
    """As Airflow's own hook reads them, extra included and cloud tokens made, without what is no parameter of libpq."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    class ParametersHook(PostgresHook):
        """Gives the parameters instead of a connection. The extra `cursor` is for those who use that."""

        def _get_cursor_config(self, raw_cursor: str) -> tuple[str, Any]:
            return "cursor", raw_cursor

        def _create_connection(self, conn_args: dict[str, Any]) -> Any:
            return conn_args

    found: dict[str, Any] = ParametersHook(conn_id).get_conn()  # type: ignore[assignment]
    return {name: value for name, value in found.items() if name != "cursor"}
