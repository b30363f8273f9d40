"""Import what every task needs in scheduler and Celery worker, before they fork: a task then starts seconds sooner.

Airflow imports this module in each component when it starts. Only imports belong here: a client or a thread that is
made before a fork does not work after it. The project's own modules are imported too; a task that finds one of their
files changed since then imports them anew: a change needs no restart, but until there is one, tasks start as slowly as
without this.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import os
import pkgutil
import sys
from pathlib import Path

__all__: list[str] = []  # Airflow would take every public name for a setting

MODULES = (
    "airflow.dag_processing.bundles.manager",
    "airflow.dag_processing.dagbag",
    "airflow.providers.apache.kafka.hooks.base",
    "airflow.providers.postgres.hooks.postgres",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.plugins_manager",
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

M_MMAP_THRESHOLD = -3  # glibc's <malloc.h>
LARGE_BLOCK = 4 * 1024**2  # what a task holds of messages at once (KAFKA_CHUNK_BYTES)

OURS = "enrichment"
# Programs (`python -m`), and what needs packages that tasks do not, such as those of the API server.
NOT_PRELOADED = {"__main__", "testing", "plugin", "page", "inspection"}
_times: dict[str, int] = {}  # when the files of our modules were changed last, by path


def _import_ours() -> None:
    """Import the project's modules and note when their files were changed."""
    package = importlib.import_module(OURS)
    for found in pkgutil.walk_packages(package.__path__, f"{OURS}.", onerror=lambda _: None):
        if not NOT_PRELOADED.isdisjoint(found.name.split(".")):
            continue
        try:
            importlib.import_module(found.name)
        except Exception:
            # The scheduler can do without it. Tasks cannot: they say so where one looks.
            logging.getLogger(__name__).warning("%s cannot be imported", found.name, exc_info=True)
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path is not None and name.partition(".")[0] == OURS:
            _times[path] = Path(path).stat().st_mtime_ns


def _changed(path: str, time: int) -> bool:
    try:
        return Path(path).stat().st_mtime_ns != time
    except FileNotFoundError:
        return True


def _forget_when_changed() -> None:
    """In a new process: have it import the project's modules itself if one of their files is another one by now."""
    if any(_changed(path, time) for path, time in _times.items()):
        for name in [name for name in sys.modules if name.partition(".")[0] == OURS]:
            del sys.modules[name]


if not {"scheduler", "worker"}.isdisjoint(sys.argv):
    for _module in (*MODULES, *(S3_MODULES if STAGED_ON_S3 else ())):
        importlib.import_module(_module)
    # Arrow's own allocator keeps memory that it has had once, which counts as the task's.
    sys.modules["pyarrow"].set_memory_pool(sys.modules["pyarrow"].system_memory_pool())
    # The C library keeps blocks of up to 32 MB for later once it had one: with large messages hundreds of megabytes.
    if hasattr(_libc := ctypes.CDLL(None), "mallopt"):
        _libc.mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    # Numba gets itself ready with the first function that it compiles.
    sys.modules["numba"].njit("int64(int64)")(lambda number: number)
    _import_ours()
    os.register_at_fork(after_in_child=_forget_when_changed)
