"""Install a newer geo database, if there is one, without disturbing a batch; say how old the one in use is.

**Reads** what `GEO_IP_UPDATE_SOURCE` names: MaxMind's server with the account of the connection `maxmind`, a URL, or a
path. **Writes** the file `GEO_IP_DATABASE_PATH`, or `GEO_IP_INSTALL_PATH` while that is empty; an event of the asset
`stacklens-geo-database` for each database installed.

`refresh` fetches into a folder beside the database, verifies (a process of its own can read all of it; it has cities,
and places `GEO_IP_KNOWN_ADDRESSES` correctly), compares, and renames the new file over the old one. Tasks that have the
old one open go on reading it; later ones open the new one, and cached places of the old one are no longer served.
Skipped: no source, nothing newer, or a dry run; its log says which. `report_age` has the age in its XCom, and warns in
its log above `GEO_IP_MAX_AGE_DAYS`.

**When it fails** the database in use is as it was, and batches go on with it. Red at once: a setting or the account
(`SettingsError`), or a file that is damaged, not a City database, or wrong about known addresses (`DatabaseRefused`).
After retries: the source or the disk (`RefreshFailed`). Fix what the log names and clear the run, or wait for the next.

**By hand** trigger it with another source, with *Force* to go back to an older database, or as a dry run that installs
nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import dag

from enrichment.orchestration import common, geoip


@dag(
    schedule=geoip.WEEKLY,
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    default_args={**common.DEFAULT_ARGS, "execution_timeout": timedelta(minutes=20)},
    params=geoip.REFRESH_PARAMS,
    description="A newer geo database, installed while batches run, and its age",
    doc_md=__doc__,
    tags=["stacklens", "maintenance"],
)
def stacklens_geoip_refresh() -> None:
    """See the module: its text is the DAG's documentation."""
    # A teardown runs however the refresh ended, and leaves the run's state to it.
    geoip.refresh() >> geoip.report_age().as_teardown()


stacklens_geoip_refresh()
