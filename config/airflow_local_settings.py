"""Import what every task needs in scheduler and Celery worker, before they fork: a task then starts 0.5 s sooner, one
that drains or publishes another second.

Airflow imports this module in each component when it starts. Only imports belong here: a client or a thread that is
made before a fork does not work after it. (Our own code is not imported: a change of it needs no restart.)
"""

from __future__ import annotations

import importlib.util
import os
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

# Where frames are staged on S3, and the packages of requirements-s3.txt are there: most of what its client needs.
S3_MODULES = ("airflow.providers.amazon.aws.fs.s3", "aiobotocore.session", "s3fs")
STAGED_ON_S3 = os.environ.get("ENRICHMENT_STAGING_URL", "").startswith("s3") and importlib.util.find_spec("s3fs")

if not {"scheduler", "worker"}.isdisjoint(sys.argv):
    for _module in (*MODULES, *(S3_MODULES if STAGED_ON_S3 else ())):
        importlib.import_module(_module)
    # Numba gets itself ready with the first function that it compiles.
    sys.modules["numba"].njit("int64(int64)")(lambda number: number)
