"""The passwords and keys of the local stack: made once, kept in a file that only its owner can read."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the components share and nobody else should know."""

    airflow_password: str
    postgres_password: str
    jwt_secret: str
    fernet_key: str


def load_or_create(directory: Path) -> Credentials:
    """The credentials of the stack in `directory`; new ones when it has none yet."""
    path = directory / "secrets.json"
    if not path.exists():
        write_private(path, json.dumps(asdict(_generate()), indent=2))
    return Credentials(**json.loads(path.read_text()))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read (mode 600), whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _generate() -> Credentials:
    return Credentials(
        airflow_password=secrets.token_urlsafe(12),
        postgres_password=secrets.token_urlsafe(24),
        jwt_secret=secrets.token_urlsafe(64),
        fernet_key=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    )
