"""The Airflow plugin of this project."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from enrichment.orchestration.timetable import ReplayTimetable


class EnrichmentPlugin(AirflowPlugin):
    """Registered by `plugins/enrichment_plugin.py`."""

    name = "stacklens_enrichment"
    timetables: list[Any] = [ReplayTimetable]  # noqa: RUF012  # as in the base class
