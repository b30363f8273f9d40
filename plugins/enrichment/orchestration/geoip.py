"""The tasks of `stacklens_geoip_refresh`: a newer database in the place of the one in use, and how old that is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, CronTriggerTimetable, Param, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from enrichment.orchestration.common import run_params, stoppable

if TYPE_CHECKING:
    from enrichment.enrichers.geo.refresh.sources import Account

# MaxMind publishes on Tuesdays and Fridays.
WEEKLY = CronTriggerTimetable("30 4 * * 3", timezone="UTC")
# The geo database in use. It has an event for each one that was installed.
GEO_DATABASE = Asset("stacklens-geo-database")

REFRESH_PARAMS = {
    "source": Param(
        None,
        type=["null", "string"],
        title="Source",
        description_md="`maxmind`, an http(s) URL, or a path on the worker, to a `.mmdb`, `.mmdb.gz` or `.tar.gz`. "
        "`#sha256=…` after a URL or path is checked. Empty: the setting `GEO_IP_UPDATE_SOURCE`.",
    ),
    "force": Param(
        False,
        type="boolean",
        title="Force",
        description_md="Install it even if it is older than the one in use, or the same. It is verified all the same.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description_md="Fetch and verify, but install nothing; what would be done is in the task's XCom `refreshed`.",
    ),
}


@task(multiple_outputs=False, outlets=[GEO_DATABASE])
def refresh(*, outlet_events: Any = None) -> dict[str, Any]:
    """Install what the source has, if it is good and newer; skipped when there is nothing to install."""
    from msgspec import to_builtins

    from enrichment.enrichers.geo import GeoSettings
    from enrichment.enrichers.geo.refresh.install import RefreshOutcome
    from enrichment.enrichers.geo.refresh.install import refresh as run
    from enrichment.enrichers.geo.refresh.sources import named
    from enrichment.settings import load_room

    context = get_current_context()
    geo, params = load_room(GeoSettings), run_params(context["params"], REFRESH_PARAMS)
    name = params["source"] or geo.update_source
    if not name:
        raise AirflowSkipException("no source: set GEO_IP_UPDATE_SOURCE, or name one in the form")

    def account() -> Account:
        return maxmind_account(geo.maxmind_conn_id)

    with stoppable():
        refreshed = run(geo, named(name, geo, account), force=params["force"], dry_run=params["dry_run"])
    summary: dict[str, Any] = to_builtins(refreshed)
    context["ti"].xcom_push(key="refreshed", value=summary)
    if refreshed.outcome is not RefreshOutcome.INSTALLED:
        raise AirflowSkipException(f"nothing was installed: {refreshed.outcome}")
    outlet_events[GEO_DATABASE].extra = summary
    return summary


@task(multiple_outputs=False)
def report_age() -> dict[str, Any]:
    """How old the database in use is, after a failed refresh too; the log warns when it is too old."""
    from msgspec import to_builtins

    from enrichment.enrichers.geo import GeoSettings
    from enrichment.enrichers.geo.refresh.install import age
    from enrichment.settings import load_room

    told: dict[str, Any] = to_builtins(age(load_room(GeoSettings), time.time()))
    return told


def maxmind_account(conn_id: str) -> Account:
    """The account of a connection: its login is the account's number, its password the licence key.

    A host is another server than MaxMind's, over https unless it says http; the extra `proxy` is a proxy's URL.
    """
    from enrichment.enrichers.geo.refresh.sources import Account
    from enrichment.sources.airflow_connections import connection_of
    from enrichment.sources.connections import http_base_url, http_options, warn_of_clear_text

    connection = connection_of(conn_id, "GEO_IP_MAXMIND_CONN_ID")
    host = http_base_url(connection, default_scheme="https") if connection.host else ""
    if host:
        warn_of_clear_text(connection, host, secret=bool(connection.password))
    proxy = http_options(connection, "https").proxy
    return Account(connection.login or "", connection.password or "", host, proxy or None)
