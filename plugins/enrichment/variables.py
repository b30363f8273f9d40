"""The types of settings, and how the settings of a room are read from environment variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PositiveInt = Annotated[int, Field(gt=0, lt=2**63)]  # what the ledger can hold
# No wait or retention needs more, in any unit; larger numbers would not fit into PostgreSQL's types.
LONGEST = 1_000_000
PositiveFloat = Annotated[float, Field(gt=0, le=LONGEST)]
Days = Annotated[float, Field(gt=0, le=100_000)]  # 100,000 days ago there was a year
Share = Annotated[float, Field(ge=0, le=1)]


def check_home(path: str) -> str:
    """Check that the `~` of a path means a user's home. Raises `ValueError`."""
    try:
        Path(path).expanduser()
    except RuntimeError as nobody:
        raise ValueError(f"there is no such home: {nobody}") from None
    return path


HomePath = Annotated[str, AfterValidator(check_home)]


def room_config(prefix: str) -> SettingsConfigDict:
    """How a room is read: the variables with this prefix, frozen."""
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="ignore")


def variable(room: type[BaseSettings], field: str) -> str:
    """The environment variable of a room's field."""
    return f"{room.model_config['env_prefix']}{field}".upper()
