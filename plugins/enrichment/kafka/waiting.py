"""What waits in a topic for a group: its committed offsets and the last stable ones in, without reading a message.

Only requests of an admin client, which belongs to no group, and none of them blocks: they are awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

REQUEST_SECONDS = 10.0
EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Waiting(NamedTuple):
    """The offset at which the group goes on in a partition, and the last stable one."""

    start: int
    end: int

    @property
    def span(self) -> int:
        """Offsets that wait: an upper bound of the messages."""
        return max(0, self.end - self.start)


class WaitingReader:
    """Asks what waits in a topic for a group. Every method raises `KafkaException` when the brokers do not answer."""

    def __init__(self, admin: AdminClient, group_id: str, topic: str) -> None:
        self._admin = admin
        self._group_id = group_id
        self._topic = topic

    async def partitions(self) -> list[int]:
        """The topic's partitions in order. Raises `KafkaException`, too, when there is no such topic."""
        topics = TopicCollection([self._topic])
        asked = self._admin.describe_topics(topics, request_timeout=REQUEST_SECONDS)
        described = await asyncio.wrap_future(asked[self._topic])
        return sorted(partition.id for partition in described.partitions)

    async def waiting(self, partitions: Iterable[int]) -> dict[int, Waiting]:
        """What waits in each of these partitions.

        A group that has committed nothing in a partition begins at the start of its log. What a transaction hides that
        is still open does not wait yet.
        """
        homes = [TopicPartition(self._topic, partition) for partition in partitions]
        committed, ends = await asyncio.gather(self._committed(homes), self._offsets(homes, LATEST))
        unset = [home for home in homes if committed[home.partition] < 0]
        starts = {**committed, **(await self._offsets(unset, EARLIEST) if unset else {})}
        return {partition: Waiting(starts[partition], end) for partition, end in ends.items()}

    async def _committed(self, homes: list[TopicPartition]) -> dict[int, int]:
        """By partition; below 0 where the group has committed nothing."""
        group = ConsumerGroupTopicPartitions(self._group_id, homes)
        asked = self._admin.list_consumer_group_offsets([group], request_timeout=REQUEST_SECONDS)
        answer = await asyncio.wrap_future(asked[self._group_id])
        return {found.partition: found.offset for found in answer.topic_partitions}

    async def _offsets(self, homes: list[TopicPartition], which: OffsetSpec) -> Mapping[int, int]:
        asked = self._admin.list_offsets(
            dict.fromkeys(homes, which),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=REQUEST_SECONDS,
        )
        answers = await asyncio.gather(*map(asyncio.wrap_future, asked.values()))
        return {home.partition: answer.offset for home, answer in zip(asked, answers, strict=True)}
