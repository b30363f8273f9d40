"""The two sides of a comparison: the outputs published before, and those of a replay."""

from __future__ import annotations

from enrichment.batch import OffsetRange
from enrichment.kafka.clients import Clients
from enrichment.kafka.settled import require_stable
from enrichment.kafka.times import find_bounds
from enrichment.replay.differences import Side
from enrichment.replay.table import Replay


def sides_of(clients: Clients, replay: Replay) -> tuple[Side, Side]:
    """What the replay has published since it was claimed, and what was published of the window until then.

    Raises `TransactionOpen` when some of it is hidden.
    """
    settings, purpose, marks = clients.settings, replay.purpose, replay.marks
    require_stable(clients, purpose.output_topic, purpose.dlq_topic)

    def since(topic: str) -> tuple[str, list[OffsetRange]]:
        ends = {r.partition: r.end for r in marks[topic]}
        now = {b.partition: b.high for b in find_bounds(reader, topic, 0, settings.request_timeout_sec)}
        return topic, [OffsetRange(p, ends.get(p, 0), max(high, ends.get(p, 0))) for p, high in now.items()]

    with clients.offsets_reader() as reader:
        replayed = Side(since(purpose.output_topic), since(purpose.dlq_topic))
    before = Side(
        (settings.output_topic, marks[settings.output_topic]), (settings.dlq_topic, marks[settings.dlq_topic])
    )
    return replayed, before
