"""Questions of the page's server in, answers out, one at a time on each connection."""

from __future__ import annotations

import logging
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import msgspec

from enrichment.errors import SettingsError
from enrichment.inspection.asked import (
    UNANSWERED,
    Answered,
    Given,
    NotShown,
    Question,
    Stop,
    Wanted,
    why_not_answered,
)
from enrichment.inspection.work import do
from enrichment.resources import Resources

log = logging.getLogger(__name__)


class Server:
    """Answers what is asked on a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()  # a preview wants things from several threads
        self._is_stopped = False

    def serve(self) -> None:
        """Answer questions until the other side has gone."""
        try:
            while True:
                asked = self._connection.recv()
                if isinstance(asked, Question):  # else it is told to stop what it has just finished
                    self._is_stopped = False
                    self._connection.send(self._answer(asked))
        except (EOFError, OSError):
            log.info("inspection.left")

    def _answer(self, asked: Question) -> Answered:
        try:
            with self._resources(asked) as r:
                return Answered(200, msgspec.json.encode(do(r, asked.work, self._stopped)))
        except NotShown as reason:
            return Answered(reason.status, str(reason).encode())
        except UNANSWERED as failed:
            return Answered(503, why_not_answered(failed).encode())
        except Exception:
            log.exception("inspection.failed work=%s", type(asked.work).__name__)
            return Answered(500, b"Internal Server Error")

    def _resources(self, asked: Question) -> Resources:
        return Resources(
            asked.settings,
            kafka_config=lambda: self._want("kafka_config"),
            postgres_parameters=lambda: self._want("postgres_parameters"),
            http_endpoint=lambda conn_id, setting: self._want("http_endpoint", conn_id, setting),
            staging_root=_nowhere,
        )

    def _want(self, name: Literal["kafka_config", "postgres_parameters", "http_endpoint"], *arguments: str) -> Any:
        """What the other side has. Raises `SettingsError` where that cannot be had."""
        with self._lock:
            self._connection.send(Wanted(name, arguments))
            while not isinstance(said := self._hear(), Given):
                pass
        if said.fault:
            raise SettingsError(said.fault)
        return said.value

    def _stopped(self) -> bool:
        with self._lock:
            while not self._is_stopped and self._connection.poll():
                self._hear()
        return self._is_stopped

    def _hear(self) -> Any:
        said = self._connection.recv()
        self._is_stopped |= isinstance(said, Stop)
        return said


def _nowhere() -> Path:
    raise RuntimeError("nothing is staged here")
