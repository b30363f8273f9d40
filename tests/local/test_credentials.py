"""Passwords and keys."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

from include.local.credentials import load_or_create, write_private


def test_load_or_create_when_called_twice(tmp_path: Path) -> None:
    """Credentials are made once: what was started with them can be reached with them later."""
    assert load_or_create(tmp_path) == load_or_create(tmp_path)


def test_load_or_create_when_new(tmp_path: Path) -> None:
    """Every stack has its own, the Fernet key of the length that Airflow needs."""
    ours, theirs = load_or_create(tmp_path / "a"), load_or_create(tmp_path / "b")
    assert not {ours.airflow_password, ours.postgres_password, ours.jwt_secret} & {
        theirs.airflow_password,
        theirs.postgres_password,
        theirs.jwt_secret,
    }
    assert len(base64.urlsafe_b64decode(ours.fernet_key)) == 32


def test_write_private_when_file_was_readable(tmp_path: Path) -> None:
    """Only the owner can read the file, even where a readable one was in its place."""
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
