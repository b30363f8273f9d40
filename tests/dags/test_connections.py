"""The connections that tasks open, from Airflow's variables to what the library is given."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from enrichment.errors import SettingsError
from enrichment.orchestration.common import resources
from enrichment.sources.airflow_connections import connection_of
from enrichment.sources.connections import HttpEndpoint


def test_secure_address_stays_secure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URI that begins with https:// never becomes plain HTTP: the token would travel in clear text."""
    monkeypatch.setenv("AIRFLOW_CONN_USER_SERVICE", "https://:s3cret@users.example.com:443")
    with resources() as opened:
        found = opened.http_endpoint("user_service", "USER_SERVICE_CONN_ID")
        assert found == HttpEndpoint("https://users.example.com:443", "s3cret")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        pytest.param({"conn_type": "kafka", "host": "broker"}, "bootstrap.servers", id="no brokers"),
        pytest.param(
            {"conn_type": "kafka", "extra": {"bootstrap.servers": "a:1", "error_cb": "os.system"}},
            "error_cb",
            id="callback that is not allowed",
        ),
    ],
)
def test_kafka_connection_that_makes_no_client_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, object], why: str
) -> None:
    """It fails at once and is named, instead of being tried again."""
    monkeypatch.setenv("AIRFLOW_CONN_KAFKA_STACKLENS", json.dumps(given))
    with resources() as opened, pytest.raises(SettingsError, match=f"'kafka_stacklens'.*{why}"):
        _ = opened.clients


def test_postgres_connection_that_libpq_misreads_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise."""
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_STACKLENS", json.dumps({"host": "postgresql://host", "schema": "db"}))
    with resources() as opened, pytest.raises(SettingsError, match="'postgres_stacklens'"):
        _ = opened.postgres


def test_missing_connection_names_itself_and_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the log knows what to add, and that another name can be set."""

    def unknown(conn_id: str) -> Connection:
        raise AirflowNotFoundException(conn_id)

    monkeypatch.setattr(BaseHook, "get_connection", unknown)
    with pytest.raises(SettingsError, match=r"'my_api' \(USER_SERVICE_CONN_ID\).*AIRFLOW_CONN_MY_API"):
        connection_of("my_api", "USER_SERVICE_CONN_ID")
