"""Enrich, chunk by chunk, without services."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event
from weakref import finalize

import pandas as pd
import pyarrow as pa

from enrichment.batch import Batch
from enrichment.batches.enrich import enrich
from enrichment.batches.staged import KEYS, key_schema
from enrichment.caches.base import Answer
from enrichment.enrichers.base import Enrichment
from enrichment.enrichers.registry import REGISTRY
from enrichment.enrichers.testing import FixedLookup, open_over
from enrichment.enrichers.user import Profile
from enrichment.store.staging import Staging

SECONDS = 10.0  # after which a test that hangs fails
BATCH = Batch("dag/run/0", "in", "us", 0, ())
USER = REGISTRY.by_name["user"]


class Slow(FixedLookup):
    """Answers for a second chunk once what was added to the first is gone."""

    gone = Event()

    def answer_many(self, keys: Sequence[str]) -> list[Answer]:
        """See `KeyLookup`."""
        if self.asked:
            assert self.gone.wait(SECONDS), "the chunk before is still in memory"
        return super().answer_many(keys)


def test_chunk_is_not_kept_while_the_next_one_is_looked_up(tmp_path: Path) -> None:
    """A look-up needs the memory: of a source that answers slowly it is where a task spends its time."""
    staging, lookup = Staging(tmp_path), Slow({"a": Profile("free"), "b": Profile("free")})
    with staging.write(BATCH.batch_id, KEYS, "drain") as keys:
        for user in ("a", "b"):
            keys.write(pa.RecordBatch.from_pylist([{"user_id": user}], key_schema()))

    def notice(_events: pd.DataFrame, added: Enrichment) -> None:
        finalize(added.values, lookup.gone.set)

    counts = enrich(staging, BATCH, open_over(USER, lookup), notice)
    assert counts.messages == 2
