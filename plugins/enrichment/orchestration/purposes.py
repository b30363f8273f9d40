"""The kinds of batches, by the names in their purposes: the drain filter and the publisher of each."""

from __future__ import annotations

from enrichment.batch import REDRIVE, REPLAY, Batch
from enrichment.batches.kinds import LIVE_KIND, Kind
from enrichment.dead_letters.markers import RedrivePublisher
from enrichment.dead_letters.selection import wanted_letters
from enrichment.replay.group import WindowPublisher
from enrichment.replay.window import window_selection

KINDS = {
    kind.name: kind
    for kind in (
        LIVE_KIND,
        Kind(REPLAY, window_selection, WindowPublisher),
        Kind(REDRIVE, wanted_letters, RedrivePublisher),
    )
}


def kind_of(batch: Batch) -> Kind:
    """The kind of a batch. Raises `KeyError` for one of a later release."""
    return KINDS[batch.purpose.kind]
