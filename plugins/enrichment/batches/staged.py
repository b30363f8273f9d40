"""What a batch has staged, file by file, and the results of its stages."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from enrichment.batch import Batch
from enrichment.batches.provenance import Counts
from enrichment.codec.records import MESSAGE_FIELDS
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY
from enrichment.store.contents import Contents
from enrichment.store.histogram import Histogram

EVENTS, KEYS, REFUSED = "events", "keys", "refused"
EVENT_SCHEMA = pa.schema([*MESSAGE_FIELDS, ("fast", pa.bool_())])
REFUSED_SCHEMA = pa.schema([*MESSAGE_FIELDS, ("reason", pa.string()), ("detail", pa.string())])
CODE_SCHEMA = pa.schema([("code", pa.int32())])


class Drained(msgspec.Struct, frozen=True):
    """What drain staged: the batch with the ranges that were read, and how much was read."""

    batch: Batch
    messages: int
    refused: int
    value_bytes: int

    def to_manifest(self) -> dict[str, Any]:
        """As plain JSON types, for XCom."""
        manifest: dict[str, Any] = msgspec.to_builtins(self)
        return manifest


class Published(msgspec.Struct, frozen=True):
    """What became of a batch. `produced` is false when the group's offsets said that it had been published before.

    `freshness` is the time from each enriched message's timestamp to its publication, or, if it had been published
    before, to the discovery of that; empty in a dry run or without timestamps. `warnings` are for the ledger: what
    somebody should look at, although the batch is published. `contents` counts its dead letters by fingerprint.
    `recorded` is false where another try was the first to complete the ledger.
    """

    counts: Counts
    produced: bool
    freshness: Histogram = Histogram()
    warnings: tuple[str, ...] = ()
    contents: Contents = {}
    recorded: bool = True


def key_schema() -> pa.Schema:
    """The columns of the file of keys."""
    return pa.schema([(name, pa.string()) for name in REGISTRY.keys])


def codes_of(declaration: LookupEnricher) -> str:
    """The file of the codes that an enricher staged."""
    return f"{declaration.source}.codes"


def values_of(declaration: LookupEnricher) -> str:
    """The file of its values."""
    return f"{declaration.source}.values"
