"""Import what every task needs in scheduler and Celery worker, before they fork: a task then starts 0.5 s sooner, one
that drains or publishes another second.

Airflow imports this module in each component when it starts. Only imports belong here: a client or a thread that is
made before a fork does not work after it. (Our own code is not imported: a change of it needs no restart.)
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
    "httpx",
    "maxminddb",
    "msgspec",
    "numba",
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
    # Numba gets itself ready with the first function that it compiles.
    sys.modules["numba"].njit("int64(int64)")(lambda number: number)
