"""The consumer group of a replay's window: it has an offset from the window's plan on, until Kafka forgets it."""

from __future__ import annotations

from collections.abc import Mapping

from enrichment.batch import Batch
from enrichment.errors import ReplayRefused
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import committed_offsets
from enrichment.kafka.sink import LanePublisher
from enrichment.kafka.stamps import Committed


class WindowPublisher(LanePublisher):
    """Publishes the batches of a window. A group without an offset is not new but expired: raises `ReplayRefused`."""

    def _committed(self) -> Mapping[int, Committed]:
        committed = super()._committed()
        if any(each.offset is None for each in committed.values()):
            raise expired(self._batch)
        return committed


def check_group(clients: Clients, batch: Batch) -> dict[int, int]:
    """The group's offsets. Raises `ReplayRefused` when Kafka has forgotten one."""
    with clients.for_batch(batch).offsets_reader() as reader:
        partitions = [r.partition for r in batch.ranges]
        committed = committed_offsets(reader, batch.topic, partitions, clients.settings.request_timeout_sec)
    known = {partition: offset for partition, offset in committed.items() if offset is not None}
    if len(known) < len(committed):
        raise expired(batch)
    return known


def expired(batch: Batch) -> ReplayRefused:
    """What to do about a window's group that has no offset any more."""
    return ReplayRefused(f"the group {batch.group_id} has expired: clear the run's `plan` with everything downstream")
