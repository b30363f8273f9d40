"""The declared enrichments in, every list and map that follows from them out. Nothing else lists enrichments.

Modules read `REGISTRY` when they need it and keep no copy: tests declare further enrichments
(`enrichment.enrichers.testing.declared`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from enrichment.enrichers import ENRICHERS
from enrichment.enrichers.declare import EVERY_EARLIER, LookupEnricher
from enrichment.messages import EVENT_FIELDS, PROVENANCE_COLUMNS, Reason, event_type

# What a column of a cache table may hold; a computed one may be a list of texts, too.
SCALARS: tuple[Any, ...] = (str, int, float, bool)
# An enrichment's name is that of its task and of its room of settings: these have one.
TAKEN = frozenset({
    "claim", "drain", "publish", "clean",
    "kafka", "wake_up", "cache", "postgres", "pipeline", "service_levels", "replay", "retention",
})  # fmt: skip
# What a status column says beside reasons: the key was absent, answered, or answered past its expiry.
NO_KEY, OK, STALE = "", "ok", "stale"


class Registry:
    """Raises `ValueError` where declarations contradict each other."""

    def __init__(self, enrichers: Sequence[LookupEnricher]) -> None:
        self.enrichers = tuple(enrichers)
        self._check()

    @cached_property
    def by_name(self) -> dict[str, LookupEnricher]:
        """The enrichments by their names, in order."""
        return {enricher.name: enricher for enricher in self.enrichers}

    @cached_property
    def by_source(self) -> dict[str, LookupEnricher]:
        """The enrichments by their names in `enrichment_sources`, in order."""
        return {enricher.source: enricher for enricher in self.enrichers}

    def earlier(self, enricher: LookupEnricher) -> tuple[LookupEnricher, ...]:
        """The enrichments whose columns one reads, in order."""
        before = self.enrichers[: self.enrichers.index(enricher)]
        return before if enricher.reads == EVERY_EARLIER else tuple(e for e in before if e.name in enricher.reads)

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The fields that a drain takes out of a message."""
        return tuple(dict.fromkeys(enricher.key for enricher in self.enrichers))

    @cached_property
    def output_columns(self) -> tuple[str, ...]:
        """All that is added to a message, in order."""
        return (*(column for e in self.enrichers for column in e.output_columns), *PROVENANCE_COLUMNS)

    @cached_property
    def added(self) -> frozenset[str]:
        """The same without order."""
        return frozenset(self.output_columns)

    @cached_property
    def reasons(self) -> dict[str, str]:
        """The reasons of all lookups, with what they mean."""
        return {reason: meaning for e in self.enrichers for reason, meaning in e.reasons.items()}

    @cached_property
    def source_of(self) -> dict[str, str]:
        """The source that gives a reason."""
        return {reason: enricher.source for enricher in self.enrichers for reason in enricher.reasons}

    @cached_property
    def outages(self) -> dict[str, str]:
        """The source that could not be asked, by its reasons for outages. Another try may succeed."""
        return {reason: enricher.source for enricher in self.enrichers for reason in enricher.outages}

    @cached_property
    def stale_reasons(self) -> dict[str, str]:
        """The statuses of reasons that were served past their expiry, each with its reason: an earlier answer of a
        source that could not be asked again."""
        return {f"{STALE} {reason}": reason for reason in (*map(str, Reason), *self.reasons)}

    @cached_property
    def unanswered(self) -> frozenset[str]:
        """The statuses of messages without a current answer. A stale "not found" counts as one: users sign up."""
        return frozenset({*self.outages, *self.stale_reasons})

    def seconds_side_by_side(self, durations: Mapping[str, float]) -> float:
        """How long the enrichments take when each begins as soon as those that it reads have ended."""
        ends: dict[str, float] = {}
        for enricher in self.enrichers:
            start = max((ends[e.name] for e in self.earlier(enricher)), default=0.0)
            ends[enricher.name] = start + durations.get(enricher.name, 0.0)
        return max(ends.values(), default=0.0)

    def _check(self) -> None:
        for what, found in {
            "name": [e.name for e in self.enrichers],
            "source": [e.source for e in self.enrichers],
            "cache table": [e.table for e in self.enrichers],
            "reason": [*map(str, Reason), *(reason for e in self.enrichers for reason in e.reasons)],
            "prefix of settings": [str(e.settings.model_config["env_prefix"]) for e in self.enrichers],
            "column": [*EVENT_FIELDS, *self.output_columns, *(e.status_column for e in self.enrichers)],
        }.items():
            twice = sorted(value for value, count in Counter(found).items() if count > 1)
            if twice:
                raise ValueError(f"enrichments need a {what} of their own: {', '.join(twice)} is there twice")
        event_type(self.keys)
        if added := self.added.intersection(self.keys):
            raise ValueError(f"what is added to a message cannot be a key: {', '.join(sorted(added))}")
        for number, enricher in enumerate(self.enrichers):
            _check(enricher, {e.name for e in self.enrichers[:number]})


def _check(enricher: LookupEnricher, before: set[str]) -> None:
    """Check a declaration against those before it. Raises `ValueError`."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", enricher.name) or enricher.name in TAKEN:
        raise ValueError(
            f"{enricher.name!r} cannot be an enrichment's name: small letters, digits and _, none of "
            + ", ".join(sorted(TAKEN))
        )
    if enricher.reads != EVERY_EARLIER and not before.issuperset(enricher.reads):
        unknown = sorted(set(enricher.reads) - before)
        raise ValueError(f"{enricher.name} reads {', '.join(unknown)}, which does not stand before it")
    if not enricher.outages:
        raise ValueError(f"{enricher.name} has no reason for a source that cannot be asked (outages)")
    for struct, kinds in zip(enricher.structs, (SCALARS, (*SCALARS, tuple[str, ...])), strict=False):
        for field in msgspec.structs.fields(struct):
            if field.default is not None or field.type not in [kind | None for kind in kinds]:
                types = ", ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
                raise ValueError(f"{struct.__name__}.{field.name} must be one of {types}, each with `| None = None`")
    _check_counted(enricher)


def _check_counted(enricher: LookupEnricher) -> None:
    types = {f.encode_name: f.type for struct in enricher.structs for f in msgspec.structs.fields(struct)}
    for counted in enricher.counted:
        texts = (str | None,) if len(counted.columns) > 1 else (str | None, tuple[str, ...] | None)
        wrong = [name for name in counted.columns if types.get(name) not in texts]
        if wrong or not 1 <= len(counted.columns) <= 2:
            raise ValueError(
                f"{enricher.name} cannot count {counted.name}: it takes one or two of its own output columns of texts, "
                "of which a single one may hold lists"
            )


REGISTRY = Registry(ENRICHERS)
