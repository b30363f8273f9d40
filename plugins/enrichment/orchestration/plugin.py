"""The Airflow plugin of this project."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from enrichment.orchestration.timetable import ReplayTimetable


class EnrichmentPlugin(AirflowPlugin):
    """Registered by `plugins/enrichment_plugin.py`."""

    # Attributes as in the base class.
    name = "stacklens_enrichment"
    timetables: list[Any] = [ReplayTimetable]  # noqa: RUF012
    external_views: list[Any] = [  # noqa: RUF012
        # Without a leading slash: Airflow may be behind a path.
        {
            "name": "StackLens",
            "href": "stacklens/",
            "destination": "nav",
            "url_route": "stacklens",
            "nav_top_level": True,
        },
        # Tabs of every run and every task, of whatever DAG: Airflow knows no others. The page opens the run's batches.
        {
            "name": "StackLens",
            "href": "stacklens/?dag_id={DAG_ID}&run_id={RUN_ID}",
            "destination": "dag_run",
            "url_route": "stacklens-run",
        },
        {
            "name": "StackLens",
            "href": "stacklens/?dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}",
            "destination": "task_instance",
            "url_route": "stacklens-task",
        },
    ]

    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        """The page. Every process of Airflow loads plugins; only the API server asks for this, and has what it
        imports."""
        from enrichment.orchestration.common import open_resources
        from enrichment.page.mounted import mounted

        return [{"name": "stacklens", "app": mounted(open_resources), "url_prefix": "/stacklens"}]
