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
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from asgiref.sync import sync_to_async

if TYPE_CHECKING:
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
    """The backlog and its doorbell, which is kept when the clients are made anew. Every method may block."""

    def __init__(self) -> None:
        from enrichment.group.doorbell import REQUEST_SECONDS, Doorbell
        from enrichment.group.watch import BacklogWatch
        from enrichment.settings import load

        settings = load()
        self._conn_id = settings.kafka.conn_id
        self._bell = Doorbell(settings.wake_up)
        self._watch = BacklogWatch(settings.kafka, REQUEST_SECONDS)

    def connection(self) -> dict[str, Any]:
        """The client's configuration, from Airflow's connection. Raises `SettingsError`."""
        from enrichment.sources.airflow_connections import kafka_config

        return kafka_config(self._conn_id)

    def open(self, config: dict[str, Any]) -> None:
        """See `BacklogWatch`."""
        self._watch.open(config)

    def look(self) -> Ring | None:
        """What to ring for. Raises as `BacklogWatch.backlog`."""
        return self._bell.look(self._watch.backlog(), time.monotonic())

    def close(self) -> None:
        """Close the clients."""
        self._watch.close()
