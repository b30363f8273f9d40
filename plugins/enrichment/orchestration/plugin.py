"""The Airflow plugin of this project."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from enrichment.orchestration.timetable import ReplayTimetable


class Page:
    """The StackLens page as Airflow mounts it. Its application is made with the first request: every process of Airflow
    loads plugins, and only the API server has what it imports."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        if self._app is None:
            from enrichment.orchestration.common import open_resources
            from enrichment.page.app import make_app

            self._app = make_app(open_resources)
        await self._app(scope, receive, send)


class EnrichmentPlugin(AirflowPlugin):
    """Registered by `plugins/enrichment_plugin.py`."""

    # Attributes as in the base class.
    name = "stacklens_enrichment"
    timetables: list[Any] = [ReplayTimetable]  # noqa: RUF012
    fastapi_apps: list[Any] = [{"name": "stacklens", "app": Page(), "url_prefix": "/stacklens"}]  # noqa: RUF012
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
