"""What the page's server asks the process that reads topics, and what is said between them. Cheap to import: the server
has none of what does the work.

The process is asked a `Question` and ends with what it has `Answered`. Before that it may want to know something of the
server, which alone has Airflow's connections, by a `Wanted`, and gets a `Given`; and it may be told to `Stop`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
import psycopg
from confluent_kafka import KafkaException

from enrichment.batch import Batch
from enrichment.conservation.origins import Origin
from enrichment.errors import EnrichmentError
from enrichment.kafka.asking import text_of
from enrichment.settings import Settings


class Browse(msgspec.Struct, frozen=True):
    """A page of a topic, as `Scan` has it: from these positions, or from a time in milliseconds, or from the end;
    `text` is a filter as somebody has typed it."""

    topic: str
    positions: dict[int, int] | None
    partition: int | None
    at: int | None
    text: str
    is_newer: bool


class Search(msgspec.Struct, frozen=True):
    """One step of a search, by a field, or by where a message came from (`origin`)."""

    topic: str
    by: str
    value: str
    origin: Origin | None
    positions: dict[int, int] | None
    at: int | None


class Whole(msgspec.Struct, frozen=True):
    """A message with all of it."""

    topic: str
    partition: int
    offset: int


class WasRedriven(msgspec.Struct, frozen=True):
    """Whether a dead letter was sent in again, by its marker: looked for from these positions on, or from its time."""

    topic: str
    partition: int
    offset: int
    positions: dict[int, int] | None


class Preview(msgspec.Struct, frozen=True):
    """What would become of a message now: of the one at a position, else of this value."""

    value: bytes
    position: tuple[str, int, int] | None


class RecentDead(msgspec.Struct, frozen=True):
    """The newest dead letters by fingerprint."""


class Conservation(msgspec.Struct, frozen=True):
    """Whether a published batch lost or doubled anything."""

    batch: Batch
    claimed_at: datetime
    has_dead_letters: bool


Work = Browse | Search | Whole | WasRedriven | Preview | RecentDead | Conservation


class Question(msgspec.Struct, frozen=True):
    """Work, and the settings of the server."""

    work: Work
    settings: Settings


class Answered(msgspec.Struct, frozen=True):
    """What a browser gets: JSON with status 200, else words."""

    status: int
    body: bytes


class Wanted(msgspec.Struct, frozen=True):
    """What the server is asked for: a method of its `Resources`."""

    name: Literal["kafka_config", "postgres_parameters", "http_endpoint"]
    arguments: tuple[str, ...]


class Given(msgspec.Struct, frozen=True):
    """What the method returned; where `fault` has words, why there is nothing."""

    value: Any
    fault: str = ""


class Stop(msgspec.Struct, frozen=True):
    """Nobody waits for the answer any more."""


class NotShown(Exception):
    """There is nothing to show, for a reason that has a status of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


# What does not answer, or a setting that keeps it from being asked.
UNANSWERED = (psycopg.Error, KafkaException, EnrichmentError)


def why_not_answered(failed: Exception) -> str:
    """Words for one of `UNANSWERED`."""
    what = {psycopg.Error: "PostgreSQL: ", KafkaException: "Kafka: "}
    said = next((name for kind, name in what.items() if isinstance(failed, kind)), "")
    return f"{said}{text_of(failed)}"
