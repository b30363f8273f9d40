"""The wake-up of `stacklens_enrichment` before its minute: a trigger that watches the backlog, and runs that find more.

Both ring by an event of the backlog's asset. The trigger runs in Airflow's triggerer: it reads no message, joins no
group, keeps no offsets. Without a triggerer, or with `WAKE_UP_ENABLED=false`, the schedule of the minute is left, and a
run that leaves messages waiting is still followed by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from asgiref.sync import sync_to_async

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

    from enrichment.group.doorbell import Ring

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


class BacklogTrigger(BaseEventTrigger):
    """Rings when enough messages wait for the group, or the oldest has waited long enough.

    While brokers, connection or settings are not as they should be, it says so once and looks again, ever more seldom.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """See `BaseTrigger`. What it needs, it reads where it runs."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {}

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Look forever."""
        pause, said = FIRST_PAUSE_SECONDS, ""
        watch: _Watch | None = None
        while True:
            try:
                if watch is None:
                    watch = await asyncio.to_thread(_Watch)
                async with aclosing(_rings(watch)) as rings:
                    async for ring in rings:
                        if said:
                            log.info("wake_up.watching again")
                        pause, said = FIRST_PAUSE_SECONDS, ""
                        if ring is not None:
                            log.info("wake_up.ring waiting=%d oldest_sec=%.1f", *ring)
                            yield TriggerEvent(ring.to_event())  # type: ignore[no-untyped-call]
            except Exception as failed:  # noqa: BLE001  # whatever it is, it may be over later
                if (kind := _kind(failed)) != said:
                    text = f"{type(failed).__name__}: {failed}"
                    log.warning("wake_up.failed error=%r: runs start by the minute until it looks again", text)
                said = kind
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _kind(failed: Exception) -> str:
    """What is said once: an error of Kafka by its name, since its text has ports and milliseconds in it."""
    error: Any = failed.args[0] if failed.args else ""
    return str(error.name() if hasattr(error, "name") else failed)


async def _rings(watch: _Watch) -> AsyncGenerator[Ring | None]:
    """What to ring for, or None, at one look after the other. Raises whatever keeps it from looking.

    Imports and everything that waits for a broker run in threads: other triggers share the event loop.
    """
    config = await sync_to_async(watch.connection, thread_sensitive=False)()
    await asyncio.to_thread(watch.open, config)
    try:
        while True:
            yield await asyncio.to_thread(watch.look)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await asyncio.to_thread(watch.close)


class _Watch:
    """The backlog, by clients that are no members of the group. What was rung for is kept when they are made anew.
    Every method may block."""

    def __init__(self) -> None:
        from enrichment.group.doorbell import Doorbell
        from enrichment.settings import load

        settings = load()
        self._kafka = settings.kafka
        self._bell = Doorbell(settings.wake_up)
        self._errors: list[KafkaError] = []
        self._open = ExitStack()

    def connection(self) -> dict[str, Any]:
        """The client's configuration, from Airflow's connection. Raises `SettingsError`."""
        from enrichment.sources.airflow_connections import kafka_config

        return kafka_config(self._kafka.conn_id)

    def open(self, config: dict[str, Any]) -> None:
        """Make the clients. Raises `SettingsError` for an option that they do not take."""
        from enrichment.kafka.clients import Clients

        self._errors.clear()
        clients = Clients(config, self._kafka).quiet(self._errors.append)
        self._consumer = self._open.enter_context(clients.offsets_reader())
        self._admin = self._open.enter_context(clients.admin())

    def look(self) -> Ring | None:
        """What to ring for. Raises `KafkaException` with the reason why no broker answers, `TransactionOpen`."""
        from confluent_kafka import KafkaException

        from enrichment.errors import EnrichmentError
        from enrichment.group.doorbell import REQUEST_SECONDS
        from enrichment.kafka.offsets import read_backlog

        try:
            backlog = read_backlog(self._consumer, self._admin, self._kafka.input_topic, REQUEST_SECONDS)
        except (KafkaException, EnrichmentError) as failed:
            self._consumer.poll(0)  # has `_errors` told
            # That all brokers are down says less than what is the matter with one of them.
            told = [e for e in self._errors if e.name() != "_ALL_BROKERS_DOWN"]
            if told:
                raise KafkaException(told[-1]) from failed
            raise
        self._errors.clear()
        return self._bell.look(backlog, time.monotonic())

    def close(self) -> None:
        """Close the clients."""
        self._open.close()
