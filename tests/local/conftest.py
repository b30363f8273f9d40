"""A local stack's configuration in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.local import config as configuration
from include.local.config import Config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The defaults, with everything kept below the test's folder."""
    return configuration.load({"LOCAL_DIR": str(tmp_path / "local"), "XDG_CACHE_HOME": str(tmp_path / "cache")})
