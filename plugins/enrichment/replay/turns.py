"""Where a window's batches begin, and whose turn it is: they are published one after the other in each lane."""

from __future__ import annotations

from confluent_kafka import TopicPartition

from enrichment.batch import Batch
from enrichment.errors import OffsetsLost, ReplayRefused
from enrichment.kafka.clients import Clients
from enrichment.kafka.offsets import commit, committed_offsets
from enrichment.replay.group import check_group
from enrichment.replay.published import outputs
from enrichment.replay.sides import sides_of
from enrichment.replay.table import Replay
from enrichment.replay.window import window_of
from enrichment.store.jobs import Ledger


def begin(clients: Clients, ledger: Ledger, replay: Replay) -> None:
    """Set the window's group, where it has no offset, to the start of the first batch that is not published.

    Without this, a batch after the first would find the group without an offset and take that for its turn. Where the
    group has expired, only ledger and output show how far it was; raises `ReplayRefused` when they do not.
    """
    jobs = {batch.batch_id: ledger.get(batch.batch_id) for batch in replay.batches}
    published = {batch_id for batch_id, job in jobs.items() if job is not None and job.is_published}
    if len(published) == len(jobs):
        return
    own = clients.for_batch(replay.batches[0])
    topic, timeout = replay.batches[0].topic, clients.settings.request_timeout_sec
    partitions = sorted({r.partition for batch in replay.batches for r in batch.ranges})
    with own.offsets_reader() as reader:
        committed = committed_offsets(reader, topic, partitions, timeout)
        unset = [partition for partition in partitions if committed[partition] is None]
        # A batch that was read and not recorded as published may have died between its commit and its record.
        read = {batch_id for batch_id, job in jobs.items() if job is not None and job.drained_at is not None}
        if unset and read - published:
            published |= _found_in_output(clients, replay, read - published)
        reached: dict[int, int] = {}
        for batch in replay.batches[::-1]:
            for r in batch.ranges:
                if batch.batch_id in published:
                    reached.setdefault(r.partition, r.end)
                else:
                    reached[r.partition] = r.start
        if unset:
            offsets = [TopicPartition(topic, partition, reached[partition]) for partition in unset]
            commit(reader, offsets, timeout)


def _found_in_output(clients: Clients, replay: Replay, batch_ids: set[str]) -> set[str]:
    """Which of these batches the output topics hold messages of: a batch is there as a whole, or not at all."""
    topic, window = clients.settings.input_topic, window_of(replay.purpose)
    replayed, _ = sides_of(clients, replay)
    try:
        found = {o.batch_id for _, chunk in replayed.chunks(clients) for _, o in outputs(chunk, topic, window)}
    except OffsetsLost as lost:
        raise ReplayRefused(
            f"the group {replay.group_id} has expired, and nobody can tell any more whether {', '.join(batch_ids)} was "
            f"published: {lost}. Take another replay id, or, if you know, set the group's offsets by hand."
        ) from lost
    return batch_ids & found


def is_next(clients: Clients, ledger: Ledger, batch: Batch) -> bool:
    """Whether all batches before this one in its lane are published: the window's group has come to its start.

    Raises `ReplayRefused` when the group has lost its offset: waiting would not bring it back.
    """
    job = ledger.get(batch.batch_id)
    if job is not None and job.is_published:
        return True
    committed = check_group(clients, batch)
    return all(committed[r.partition] >= r.start for r in batch.ranges)
