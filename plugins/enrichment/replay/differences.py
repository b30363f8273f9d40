"""How a replay's output differs from what was published before: outputs of the same messages, joined by their origin.

The replayed outputs of some batches are read first, keeping a few numbers of each (a 32-bit hash of every added field);
then the earlier outputs, of which the last one of a message counts. Memory is bounded by `JOINED_MESSAGES`: a larger
window is joined part by part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from enrichment.batch import OffsetRange, ReplayWindow
from enrichment.codec.records import Chunk
from enrichment.enrichers.registry import REGISTRY
from enrichment.kafka.clients import Clients
from enrichment.kafka.source import read_ranges
from enrichment.messages import MessageOrigin
from enrichment.replay.published import outputs

JOINED_MESSAGES = 500_000  # 200 bytes each
EXAMPLES = 5
ABSENT, ENRICHED, DEAD = 0, 1, 2
_PARTITION_SHIFT = 44  # an origin as one number: offsets below 2**44, partitions below 2**19
_NULL = msgspec.Raw(b"null")

Hashes = np.ndarray[Any, np.dtype[np.uint32]]


class Differences(msgspec.Struct, frozen=True, omit_defaults=False):
    """How the outputs of the replayed messages compare with those published before.

    Each is one of: `same`, `changed` (in `fields`, counted by field), `new` (nothing was published of it), `recovered`
    (it was a dead letter), `died` (it is one now). `examples` are changed messages as `partition@offset: fields`.
    """

    replayed: int = 0
    same: int = 0
    changed: int = 0
    new: int = 0
    recovered: int = 0
    died: int = 0
    fields: dict[str, int] = {}
    examples: list[str] = []

    def __add__(self, other: Differences) -> Differences:
        return Differences(
            self.replayed + other.replayed,
            self.same + other.same,
            self.changed + other.changed,
            self.new + other.new,
            self.recovered + other.recovered,
            self.died + other.died,
            dict((Counter(self.fields) + Counter(other.fields)).most_common()),
            (self.examples + other.examples)[:EXAMPLES],
        )


def compared() -> tuple[str, ...]:
    """The columns that are compared: all but the processing time, which always differs."""
    return tuple(name for name in REGISTRY.output_columns if name != "enriched_at")


@lru_cache
def _decoder(columns: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Reads these columns, undecoded, each null where a message has none."""
    return msgspec.json.Decoder(msgspec.defstruct("_Added", [(name, msgspec.Raw, _NULL) for name in columns]))


class Side:
    """The topics on one side of the join, each with its ranges: enriched messages, dead letters."""

    def __init__(self, analytics: tuple[str, Sequence[OffsetRange]], dead: tuple[str, Sequence[OffsetRange]]) -> None:
        self._topics = ((DEAD, *dead), (ENRICHED, *analytics))

    def chunks(self, clients: Clients) -> Iterator[tuple[int, Chunk]]:
        """All chunks, those with dead letters first: where a message has both, it was redriven, and the other
        counts."""
        for kind, topic, ranges in self._topics:
            for chunk in read_ranges(clients, topic, ranges):
                yield kind, chunk


class _Outputs:
    """One output a message, found by its origin."""

    def __init__(self, keys: np.ndarray[Any, Any], kinds: np.ndarray[Any, Any], hashes: Hashes) -> None:
        self.keys, self.kinds, self.hashes = keys, kinds, hashes

    @classmethod
    def of(cls, clients: Clients, side: Side, topic: str, window: ReplayWindow, batch_ids: frozenset[str]) -> _Outputs:
        """The outputs of these batches, in the order of their origins."""
        found: list[tuple[Any, Any, Hashes]] = [_rows([], ABSENT, [])]
        for kind, chunk in side.chunks(clients):
            chosen = [
                (row, o) for row, o in outputs(chunk, topic, window) if o.batch_id in batch_ids and _has_number(o)
            ]
            found.append(_rows([o for _, o in chosen], kind, [chunk.values[row] for row, _ in chosen]))
        keys, kinds, hashes = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], kinds[order], hashes[order])

    def earlier(self, clients: Clients, side: Side, topic: str, window: ReplayWindow) -> _Outputs:
        """What was published of the same messages before; the last of each counts."""
        before = _Outputs(self.keys, np.zeros_like(self.kinds), np.zeros_like(self.hashes))
        if not len(self.keys):
            return before
        for kind, chunk in side.chunks(clients):
            chosen = [(row, o) for row, o in outputs(chunk, topic, window) if _has_number(o)]
            keys, kinds, hashes = _rows([o for _, o in chosen], kind, [chunk.values[row] for row, _ in chosen])
            at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            joined = self.keys[at] == keys
            before.kinds[at[joined]] = kinds[joined]
            before.hashes[at[joined]] = hashes[joined]
        return before

    def against(self, before: _Outputs) -> Differences:
        """Count the differences."""
        both = (self.kinds == ENRICHED) & (before.kinds == ENRICHED)
        unequal = (self.hashes != before.hashes) & both[:, None]
        changed = unequal.any(axis=1)
        fields = {name: int(n) for name, n in zip(compared(), unequal.sum(axis=0), strict=True) if n}
        known = before.kinds != ABSENT
        return Differences(
            replayed=len(self.keys),
            same=int(((self.kinds == before.kinds) & ~changed).sum()),
            changed=int(changed.sum()),
            new=int((~known).sum()),
            recovered=int(((before.kinds == DEAD) & (self.kinds == ENRICHED)).sum()),
            died=int(((before.kinds == ENRICHED) & (self.kinds == DEAD)).sum()),
            fields=dict(Counter(fields).most_common()),
            examples=[self._example(row, unequal[row]) for row in np.flatnonzero(changed)[:EXAMPLES].tolist()],
        )

    def _example(self, row: int, unequal: np.ndarray[Any, Any]) -> str:
        partition, offset = divmod(int(self.keys[row]), 1 << _PARTITION_SHIFT)
        return f"{partition}@{offset}: {', '.join(np.array(compared())[unequal].tolist())}"


def _has_number(origin: MessageOrigin) -> bool:
    """Whether an origin fits into one number: any real one does, but anybody can write to the output topic."""
    return origin.partition < 1 << 63 - _PARTITION_SHIFT and origin.offset < 1 << _PARTITION_SHIFT


def _rows(origins: Sequence[MessageOrigin], kind: int, values: Sequence[bytes | None]) -> tuple[Any, Any, Hashes]:
    keys = np.array([(o.partition << _PARTITION_SHIFT) + o.offset for o in origins], dtype=np.int64)
    kinds = np.full(len(keys), kind, dtype=np.int8)
    hashes = np.zeros((len(keys), len(compared())), dtype=np.uint32)
    decode = _decoder(compared()).decode
    if kind == ENRICHED:
        for row, value in enumerate(values):
            hashes[row] = [hash(bytes(raw)) & 0xFFFF_FFFF for raw in msgspec.structs.astuple(decode(value or b""))]
    return keys, kinds, hashes


def compare(
    clients: Clients, topic: str, window: ReplayWindow, batches: Mapping[str, int], replayed: Side, before: Side
) -> Differences:
    """Join the outputs of `batches` (id to messages) on the one side with those of the same messages on the other."""
    total = Differences()
    for part in _parts(batches):
        outputs_now = _Outputs.of(clients, replayed, topic, window, part)
        total = total + outputs_now.against(outputs_now.earlier(clients, before, topic, window))
    return total


def _parts(batches: Mapping[str, int]) -> Iterator[frozenset[str]]:
    """The batches in groups of at most `JOINED_MESSAGES`, or of one that is larger."""
    part: list[str] = []
    size = 0
    for batch_id, messages in batches.items():
        if part and size + messages > JOINED_MESSAGES:
            yield frozenset(part)
            part, size = [], 0
        part.append(batch_id)
        size += messages
    if part:
        yield frozenset(part)
