"""The wake-up of `stacklens_enrichment` before its minute: a trigger that watches the backlog, and runs that find more.

Both ring by an event of the backlog's asset. The trigger runs in Airflow's triggerer: it reads no message, joins no
group, keeps no offsets. Without a triggerer, or with `WAKE_UP_ENABLED=false`, the schedule of the minute is left, and a
run that leaves messages waiting is still followed by the next one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from asgiref.sync import sync_to_async

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

    from enrichment.batch import Batch
    from enrichment.group.doorbell import Ring
    from enrichment.resources import Resources

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
PARTITIONS_SECONDS = 60.0  # how long a new partition may stay unseen
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
        while True:
            try:
                async for ring in _rings():
                    if said:
                        log.info("wake_up.watching again")
                    pause, said = FIRST_PAUSE_SECONDS, ""
                    if ring is not None:
                        log.info("wake_up.ring waiting=%d oldest_sec=%.1f", *ring)
                        told = {"waiting": ring.waiting, "oldest_sec": round(ring.oldest_sec, 1)}
                        yield TriggerEvent(told)  # type: ignore[no-untyped-call]
            except Exception as failed:  # noqa: BLE001  # whatever it is, it may be over later
                text = f"{type(failed).__name__}: {failed}"
                if text != said:
                    log.warning("wake_up.failed error=%r: runs start by the minute until it looks again", text)
                said = text
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _rings() -> AsyncIterator[Ring | None]:
    """What to ring for, or None, at one look after the other. Raises whatever keeps it from looking."""
    from confluent_kafka import KafkaException

    from enrichment.group.doorbell import Doorbell
    from enrichment.kafka.clients import Clients
    from enrichment.kafka.waiting import WaitingReader
    from enrichment.settings import load
    from enrichment.sources.airflow_connections import kafka_config

    settings = load()
    kafka, bell = settings.kafka, Doorbell(settings.wake_up)
    errors: list[KafkaError] = []
    config = await sync_to_async(kafka_config, thread_sensitive=False)(kafka.conn_id)
    admin = await asyncio.to_thread(Clients(config, kafka).observer, errors.append)
    try:
        reader = WaitingReader(admin, kafka.consumer_group, kafka.input_topic)
        known_at, partitions = -math.inf, list[int]()
        while True:
            now = time.monotonic()
            if now - known_at > PARTITIONS_SECONDS:
                partitions, known_at = await reader.partitions(), now
            yield bell.look(await reader.waiting(partitions), time.monotonic())
            await asyncio.sleep(LOOK_SECONDS)
    except KafkaException as failed:
        admin.poll(0)  # has `errors` told why no broker answers
        if errors:
            raise KafkaException(errors[-1]) from failed
        raise
    finally:
        await asyncio.to_thread(admin.__exit__, None, None, None)


def what_waits(r: Resources, batch: Batch) -> Ring | None:
    """What is to be done after a batch that is published: messages that its run left waiting or, if it is time for
    them, those that came into the lane since. None if nothing is, or the brokers do not say."""
    from confluent_kafka import KafkaException

    from enrichment.group.doorbell import Ring, is_due
    from enrichment.kafka.waiting import WaitingReader

    job = r.ledger.get(batch.batch_id)
    if job is None:
        return None
    age = (datetime.now(UTC) - job.claimed_at).total_seconds()
    if job.left:
        return Ring(job.left, age)
    reader = WaitingReader(r.clients.admin(), batch.group_id, batch.topic)

    async def ask() -> Ring:
        of_lane = [p for p in await reader.partitions() if p % r.settings.kafka.lanes == batch.lane]
        waiting = await reader.waiting(of_lane)
        return Ring(sum(found.span for found in waiting.values()), age)

    try:
        ring = asyncio.run(ask())
    except KafkaException as untold:
        log.warning("wake_up.unknown batch=%s error=%s: the next run starts by the minute", batch.batch_id, untold)
        return None
    return ring if is_due(ring, r.settings.wake_up) else None
