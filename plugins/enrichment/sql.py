"""The name of a statement under `include/sql` in, its text out. All of the project's SQL is there."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import LiteralString

FOLDER_VARIABLE = "ENRICHMENT_SQL_DIR"
DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "include" / "sql"


@cache
def load(name: str) -> LiteralString:
    """The text of `<name>.sql`, as in `load("enrichment_jobs/get")`; the suffix may be given too.

    Raises `FileNotFoundError` naming the file. `ENRICHMENT_SQL_DIR` names another folder, for a library installed apart
    from the repository.
    """
    folder = _folder()
    file = folder / (name if name.endswith(".sql") else f"{name}.sql")
    if not file.is_file():
        raise FileNotFoundError(f"no SQL statement {name!r}: {file} is missing (the folder is {FOLDER_VARIABLE}'s)")
    return file.read_text(encoding="utf-8")  # as literal as the code beside it: values are always bound


def names(subject: str) -> list[str]:
    """The statements of a subject, in order: `names("enrichment_jobs")` has `get`."""
    return sorted(file.stem for file in (_folder() / subject).glob("*.sql"))


def _folder() -> Path:
    return Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)
