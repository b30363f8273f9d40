"""What a replayed window came to, once all its batches are published, and how its output differs from before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from enrichment.batch import Purpose
from enrichment.errors import ReplayRefused
from enrichment.kafka.clients import Clients
from enrichment.kafka.times import to_text
from enrichment.replay.differences import compare
from enrichment.replay.sides import sides_of
from enrichment.replay.table import CLAIMED, Replay, Replays
from enrichment.replay.window import window_of
from enrichment.store.jobs import Ledger


def report(clients: Clients, ledger: Ledger, replays: Replays, purpose: Purpose) -> dict[str, Any]:
    """The result of a window and how its output differs from what was published before; recorded the first time.

    Raises `ReplayRefused` when a batch of it is not published.
    """
    window, topic = window_of(purpose), clients.settings.input_topic
    replay = replays.get(topic, window)
    if replay is None:
        raise ReplayRefused(f"replay {window.replay_id} has not counted this window")
    if replay.state == CLAIMED:
        counts = _published_counts(ledger, replay)
        differences = compare(
            clients, topic, window, {b.batch_id: n for b, n in zip(replay.batches, counts["by_batch"], strict=True)},
            *sides_of(clients, replay),
        )  # fmt: skip
        totals = {name: counts[name] for name in ("enriched", "partial", "dead")}
        replays.finish(topic, window, totals, msgspec.to_builtins(differences))
        replay = replays.get(topic, window) or replay
    return {
        "replay_id": window.replay_id, "start": to_text(window.start), "end": to_text(window.end),
        "state": replay.state, "messages": replay.messages, "selected": replay.selected, "lost": replay.lost,
        "output_topic": replay.purpose.output_topic, "counts": replay.counts, "differences": replay.differences,
    }  # fmt: skip


def _published_counts(ledger: Ledger, replay: Replay) -> Mapping[str, Any]:
    jobs = [ledger.get(batch.batch_id) for batch in replay.batches]
    unpublished = [
        b.batch_id for b, job in zip(replay.batches, jobs, strict=True) if job is None or not job.is_published
    ]
    if unpublished:
        raise ReplayRefused(f"not published yet: {', '.join(unpublished)}. Clear the window's run.")
    done = [job for job in jobs if job is not None]
    return {
        "by_batch": [job.messages_read or 0 for job in done],
        "enriched": sum(job.messages_enriched or 0 for job in done),
        "partial": sum(job.messages_partial or 0 for job in done),
        "dead": sum(job.messages_dead or 0 for job in done),
    }
