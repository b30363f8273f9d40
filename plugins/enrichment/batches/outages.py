"""What an enricher added to the chunks of a batch in; whether its source was down, or failed for a few keys, out.

A key counts as asked when its source was asked for it, or is remembered to have failed. It counts as failed when the
source could not answer and there was no stale value; a stale "not found" is not a value. A key that does not exist has
been answered.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec
import numpy as np
import pandas as pd

from enrichment.batch import Batch
from enrichment.enrichers.base import Enrichment, OnChunk
from enrichment.enrichers.registry import REGISTRY
from enrichment.errors import OutageHeld
from enrichment.settings import PipelineSettings
from enrichment.store.jobs import Ledger

log = logging.getLogger(__name__)


class SourceTally(msgspec.Struct, frozen=True):
    """How a source answered for a batch, by key; `messages` counts those without an answer because it failed."""

    keys: int = 0
    failed: int = 0
    messages: int = 0

    @classmethod
    def of(cls, added: Enrichment) -> SourceTally:
        """Of one chunk."""
        failed = added.have(REGISTRY.unanswered)
        rows = np.bincount(added.codes, minlength=len(failed))
        asked = (added.fetched | failed) & (rows > 0)
        return cls(int(asked.sum()), int((failed & asked).sum()), int(rows[failed].sum()))

    def __add__(self, other: SourceTally) -> SourceTally:
        return SourceTally(self.keys + other.keys, self.failed + other.failed, self.messages + other.messages)

    def is_outage(self, share: float) -> bool:
        """Whether the share of failed keys is so large that the source must have been down."""
        return self.failed > share * self.keys


class OutageDetector:
    """Tallies the chunks of a batch as they are enriched, and passes them on."""

    def __init__(self, on_chunk: OnChunk | None = None) -> None:
        self._on_chunk = on_chunk
        self.asked = SourceTally()

    def __call__(self, events: pd.DataFrame, added: Enrichment) -> None:
        """Tally a chunk."""
        self.asked += SourceTally.of(added)
        if self._on_chunk is not None:
            self._on_chunk(events, added)


class Outage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A source that is missing in messages of a batch because it was `down`, or failed for a few keys."""

    source: str
    messages: int
    down: bool = True

    @classmethod
    def of(cls, source: str, asked: SourceTally, share: float) -> Outage | None:
        """The outage, or None where the source answered for every message."""
        return cls(source, asked.messages, asked.is_outage(share)) if asked.messages else None


def without_down(required: Iterable[str], outages: Iterable[Outage]) -> frozenset[str]:
    """The required sources without those that are down: an outage costs columns until the repair, not messages."""
    return frozenset(required) - {outage.source for outage in outages if outage.down}


def repairable(required: Iterable[str], outages: Iterable[Outage]) -> list[Outage]:
    """The outages that are published and wait for a repair. Where a required source failed for a few keys, their
    messages are dead letters instead, which a redrive sends in again."""
    fatal = without_down(required, outages)
    return [outage for outage in outages if outage.source not in fatal]


def hold(ledger: Ledger, settings: PipelineSettings, batch: Batch, outage: Outage) -> None:
    """Raise `OutageHeld` when the configured policy makes the batch wait for its source."""
    if settings.outage_policy != "hold" or batch.dry_run:
        return
    held, deadline = ledger.held_seconds(batch), 60 * settings.outage_hold_deadline_minutes
    if held < deadline:
        raise OutageHeld(
            f"batch {batch.batch_id}: {outage.source} is down, {outage.messages} messages wait for it since "
            f"{held:.0f} s; after {deadline:.0f} s they are published without it"
        )
    log.warning("outage.deadline batch_id=%s source=%s held_seconds=%.0f", batch.batch_id, outage.source, held)
