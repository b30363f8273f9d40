"""What every test may ask for: one file of `tests/fixtures` per service. Airflow finds a home that is nobody's."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).parents[1]

HOME = tempfile.mkdtemp(prefix="stacklens-airflow-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
# Airflow reads these when it is first imported, by whatever test that is.
os.environ.update(
    {
        "AIRFLOW_HOME": HOME,
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "GEO_IP_INSTALL_PATH": str(Path(tempfile.gettempdir()) / "stacklens-none" / "City.mmdb"),  # not the user's own
        "AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL": "error",
        "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",  # a broker that lives for a minute is not worth compiling twice
    }
)

# A property is not about how quick the machine is.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")
# For `make test-quick`: after every change, rather than once with all examples.
settings.register_profile("quick", settings.get_profile("any-machine"), max_examples=10)

pytest_plugins = [
    "tests.fixtures.side_by_side",
    "tests.fixtures.clock",
    "tests.fixtures.kafka",
    "tests.fixtures.strangers",
    "tests.fixtures.object_store",
    "tests.fixtures.postgres",
    "tests.fixtures.pgbouncer",
    "tests.fixtures.proxy",
    "tests.fixtures.raw_server",
    "tests.fixtures.statsd",
    "tests.fixtures.user_service",
    "tests.fixtures.user_api",
    "tests.fixtures.pipeline",  # last: they are made of the others
    "tests.fixtures.partials",
    "tests.fixtures.replayer",
    "tests.fixtures.scheduler",
    "tests.fixtures.browser",
]


# Whoever asks for one of these, by however many others, needs a server that takes its time to start.
SERVICES = {
    "kafka",
    "own_broker",
    "embedded_postgres",
    "ascii_server",
    "object_store",
    "user_server",
    "stack",
    "places",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a service: `-m 'not services'` leaves them out."""
    for item in items:
        if isinstance(item, pytest.Function) and SERVICES.intersection(item.fixturenames):
            item.add_marker("services")


def pytest_unconfigure() -> None:
    """Libraries that log when the interpreter ends find what pytest has closed: that is no news."""
    logging.raiseExceptions = False
