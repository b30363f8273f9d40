"""What became of the messages of a chunk: which sources answered for each, which failed, and the counts by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from enrichment.enrichers.base import JSON, STATUS, Enrichment, reason_of
from enrichment.enrichers.registry import NO_KEY, OK, REGISTRY, STALE
from enrichment.messages import Provenance

_encode = msgspec.json.Encoder().encode


class Counts(msgspec.Struct, frozen=True):
    """What became of messages. `by_source` are the published messages that list the source, `by_reason` the errors of
    published messages and the reasons of dead letters, `dead_by_reason` the latter alone."""

    enriched: int = 0
    partial: int = 0
    dead: int = 0
    by_source: dict[str, int] = {}
    by_reason: dict[str, int] = {}
    dead_by_reason: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Every message is one of the three."""
        return self.enriched + self.partial + self.dead

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.enriched + other.enriched,
            self.partial + other.partial,
            self.dead + other.dead,
            _sum(self.by_source, other.by_source),
            _sum(self.by_reason, other.by_reason),
            _sum(self.dead_by_reason, other.dead_by_reason),
        )


def _sum(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {name: left.get(name, 0) + right.get(name, 0) for name in sorted({*left, *right})}


class StagedEnrichment(NamedTuple):
    """One enricher's staged work on a chunk: its source's name, and row numbers into `status` and `json`."""

    source: str
    codes: np.ndarray[Any, np.dtype[np.int32]]
    status: pa.Array
    json: pa.Array

    @classmethod
    def of(cls, source: str, added: Enrichment) -> StagedEnrichment:
        """The same of what was not staged."""
        status = pa.array(added.values[STATUS].tolist(), pa.string())
        return cls(source, added.codes, status, pa.array(added.values[JSON].array))


@dataclass(frozen=True, slots=True)
class Statuses:
    """Which combinations of the enrichers' statuses occur in a chunk: a code per row, the tail of the JSON per code."""

    codes: np.ndarray[Any, np.dtype[np.int64]]
    rows: np.ndarray[Any, np.dtype[np.int64]]
    tails: list[bytes | None]
    provenance: dict[int, Provenance]
    fatal: dict[int, str]

    @classmethod
    def of(cls, additions: Sequence[StagedEnrichment], required: frozenset[str], now: str) -> Statuses:
        """Find the combinations and write each one's tail once."""
        count = len(additions[0].codes)
        codes = np.zeros(count, dtype=np.int64)
        vocabularies: list[list[str]] = []
        for addition in additions:
            encoded = addition.status.dictionary_encode()
            vocabulary = encoded.dictionary.to_pylist()
            codes = codes * len(vocabulary) + encoded.indices.to_numpy()[addition.codes]
            vocabularies.append(vocabulary)
        rows = np.bincount(codes, minlength=int(np.prod([len(v) for v in vocabularies])))
        tails: list[bytes | None] = [None] * len(rows)
        provenance, fatal = {}, {}
        for code in np.flatnonzero(rows).tolist():
            statuses = _statuses(code, vocabularies)
            provenance[code] = provenance_of(additions, statuses, now)
            tails[code] = _encode(provenance[code])[1:]
            failed = [_fatal(a.source, s) for a, s in zip(additions, statuses, strict=True) if a.source in required]
            if any(failed):
                fatal[code] = next(filter(None, failed))
        return cls(codes, rows, tails, provenance, fatal)

    def fatal_rows(self, rows: slice) -> list[tuple[int, str]]:
        """Which of these rows are missing a required source, counted from the first of them, each with the reason."""
        if not self.fatal:
            return []
        codes = self.codes[rows]
        missing = np.flatnonzero(np.isin(codes, list(self.fatal)))
        return [(row, self.fatal[int(codes[row])]) for row in missing.tolist()]

    def counts(self, dead: Mapping[int, Any]) -> Counts:
        """Count the rows that are published: all but the dead ones."""
        gone = self.codes[sorted(dead)] if dead else np.empty(0, dtype=np.int64)
        published = self.rows - np.bincount(gone, minlength=len(self.rows))
        counts = Counts()
        for code, provenance in self.provenance.items():
            n = int(published[code])
            errors = provenance.enrichment_errors or ()
            counts = counts + Counts(
                enriched=0 if errors else n,
                partial=n if errors else 0,
                by_source=dict.fromkeys(provenance.enrichment_sources, n),
                by_reason=dict.fromkeys(errors, n),
            )
        return counts


def _statuses(code: int, vocabularies: Sequence[Sequence[str]]) -> list[str]:
    statuses = []
    for vocabulary in reversed(vocabularies):
        code, index = divmod(code, len(vocabulary))
        statuses.append(vocabulary[index])
    return statuses[::-1]


def _failed(status: str) -> bool:
    return status not in (NO_KEY, OK, STALE)


def _fatal(source: str, status: str) -> str | None:
    """The reason of a dead letter for a required source. A stale error is not one: the source has failed now."""
    if status in REGISTRY.stale_reasons:
        return list(REGISTRY.by_source[source].outages)[-1]
    return status if _failed(status) else None


def provenance_of(additions: Sequence[StagedEnrichment], statuses: Sequence[str], now: str) -> Provenance:
    """The sources that answered, the errors of those that did not, and the sources whose answer or error was served
    past its expiry."""
    by_source = list(zip([a.source for a in additions], statuses, strict=True))
    errors = tuple(dict.fromkeys(reason_of(status) for _, status in by_source if _failed(status)))
    stale = tuple(source for source, status in by_source if status == STALE or status in REGISTRY.stale_reasons)
    return Provenance(
        tuple(source for source, status in by_source if status in (OK, STALE)), errors or None, stale or None, now
    )
