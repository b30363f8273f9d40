"""What every test may ask for: one file of `tests/fixtures` per service."""

from __future__ import annotations

pytest_plugins = [
    "tests.fixtures.clock",
    "tests.fixtures.kafka",
    "tests.fixtures.postgres",
    "tests.fixtures.raw_server",
    "tests.fixtures.user_service",
    "tests.fixtures.pipeline",  # last: it is made of the others
]
