"""How many lanes publish for a group, which must be the same for all: checked by claim and publish, changed here.

A lane is a transactional id, and the number of lanes decides which partition belongs to which. Two publishers of a
partition that assume different numbers do not fence each other. So the first claim records the number, and claim and
publish compare it with their own; publish does so after fencing its lane: either a change fences it, since it fences
every lane that there may be, or it comes later and finds the change.
"""

from __future__ import annotations

import logging

import msgspec
from confluent_kafka import TopicPartition

from enrichment.batch import Batch
from enrichment.errors import ChangeRefused, LanesChanged, SettingsError
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import commit, committed_offsets, fence_lanes, input_partitions, read_committed
from enrichment.store.lanes import LaneCount, LaneCounts, OpenBatch

log = logging.getLogger(__name__)


def check_claim(clients: Clients, counts: LaneCounts, *, dry_run: bool = False) -> None:
    """Raise `SettingsError` when KAFKA_LANES is not the group's number of lanes, `LanesChanged` while it is changing.
    The first claim records it; a dry run does not."""
    settings = clients.settings
    recorded = counts.get(settings.consumer_group)
    if recorded is None:
        if dry_run:
            return
        if _is_in_use(clients):
            # Claimed by an earlier release, which recorded no number: its publishers may have another one.
            fence_all(clients)
        recorded = counts.record(settings.consumer_group, settings.lanes)
    _check_setting(recorded, settings.consumer_group, settings.lanes)


def check_publish(counts: LaneCounts, batch: Batch, setting: int) -> None:
    """For a publisher of a live batch that has fenced its lane: raise `SettingsError` when KAFKA_LANES is not the
    group's number of lanes, `LanesChanged` while it is changing, or when the batch was claimed with another one."""
    recorded = counts.get(batch.group_id)
    if recorded is None:
        if batch.dry_run:
            return
        recorded = counts.record(batch.group_id, setting)
    _check_setting(recorded, batch.group_id, setting)
    # A batch of an earlier release has no number, but shows whether its lane is the same one under this number.
    claimed = {batch.lanes} if batch.lanes is not None else set()
    if claimed - {recorded.lanes} or any(r.partition % recorded.lanes != batch.lane for r in batch.ranges):
        raise LanesChanged(
            f"batch {batch.batch_id} was claimed with {batch.lanes or 'another number of'} lanes, and group "
            f"{batch.group_id} has {recorded.lanes} by now. Nothing was published; the next run claims these messages"
        )


def _check_setting(recorded: LaneCount, group_id: str, setting: int) -> None:
    if recorded.changing_to is not None:
        raise LanesChanged(
            f"the lanes of group {group_id} are being changed from {recorded.lanes} to {recorded.changing_to}. Nothing "
            f"is published until that is done; if nobody is at it, run `python -m enrichment.group set-lanes "
            f"{recorded.changing_to}` again, or with {recorded.lanes} to go back"
        )
    if recorded.lanes != setting:
        raise SettingsError(
            f"KAFKA_LANES={setting}, but group {group_id} is published in {recorded.lanes} lanes: the number is the "
            f"group's, the same for all workers. Set KAFKA_LANES={recorded.lanes}, or change it for the group: "
            f"`python -m enrichment.group set-lanes {setting}` (docs/operate.md, Lanes)"
        )


def change(clients: Clients, counts: LaneCounts, lanes: int, *, despite_open: bool = False) -> LaneCount | None:
    """Give the group another number of lanes; returns what was recorded before.

    Nothing is published from the first step to the last; after a crash in between, not until it is run again. Running
    it with the present number makes sure that all publishers and offsets have that number. Raises `ChangeRefused` for
    a group that has neither a recorded number nor offsets of the topic, and when a batch of the group is open, unless
    that is allowed: its offsets are then claimed again.
    """
    settings = clients.settings
    group_id = settings.consumer_group
    before = counts.get(group_id)
    if before is None and not _is_in_use(clients):
        raise ChangeRefused(
            f"group {group_id} has no lanes recorded and no offsets of topic {settings.input_topic}: is that its name? "
            "A new group needs no change: its first claim records KAFKA_LANES"
        )
    still_open = find_open(clients, counts.open_batches(group_id))
    if still_open and not despite_open:
        raise ChangeRefused(
            f"{len(still_open)} batches of group {group_id} are open: {', '.join(b.batch_id for b in still_open)}. Let "
            "their runs end, or clear those that failed. With --despite-open-batches they are given up: their tasks "
            "are fenced, nothing of them is published, and the next run claims their messages again"
        )
    counts.begin_change(group_id, lanes)
    fence_all(clients, at_least=before.lanes if before else 1)
    restamp(clients, lanes)
    if not counts.finish_change(group_id, lanes):
        raise ChangeRefused(f"somebody else changes the lanes of group {group_id}, too: run it again when that is done")
    log.warning("lanes.changed group=%s before=%s lanes=%d", group_id, before.lanes if before else None, lanes)
    return before


def find_open(clients: Clients, batches: list[OpenBatch]) -> list[OpenBatch]:
    """Those batches that the group has not passed: the others were published, or their offsets claimed again."""
    found, timeout = [], clients.settings.request_timeout_sec
    with clients.offsets_reader("read_uncommitted") as reader:
        for batch in batches:
            committed = committed_offsets(reader, batch.topic, [r.partition for r in batch.ranges], timeout)
            if any((committed[r.partition] or 0) < r.end for r in batch.ranges):
                found.append(batch)
    return found


def restamp(clients: Clients, lanes: int) -> None:
    """Write the new number beside the group's offsets. No publisher commits meanwhile: all lanes are fenced, and later
    publishers find the change."""
    settings = clients.settings
    topic, timeout = settings.input_topic, settings.request_timeout_sec
    with clients.offsets_reader() as reader:
        committed = read_committed(reader, topic, input_partitions(reader, topic, timeout), timeout)
        offsets = [
            TopicPartition(topic, partition, stamp.end, msgspec.structs.replace(stamp, lanes=lanes).to_metadata())
            for partition, (_, stamp) in committed.items()
            if stamp is not None
        ]
        if offsets:
            commit(reader, offsets, timeout)


def _is_in_use(clients: Clients) -> bool:
    settings = clients.settings
    topic, timeout = settings.input_topic, settings.request_timeout_sec
    # Not held back by an open transaction.
    with clients.offsets_reader("read_uncommitted") as reader:
        committed = committed_offsets(reader, topic, input_partitions(reader, topic, timeout), timeout)
    return any(offset is not None for offset in committed.values())


def fence_all(clients: Clients, at_least: int = 1) -> None:
    """Fence every publisher of the group and abort its open transaction, whichever number of lanes it assumes: the lane
    `p % n` of a partition is `p` at most. At least `at_least` lanes are fenced, for a topic that had more."""
    settings = clients.settings
    with clients.offsets_reader() as reader:
        partitions = input_partitions(reader, settings.input_topic, settings.request_timeout_sec)
    fence_lanes(clients, range(max(at_least, 1 + max(partitions))))
