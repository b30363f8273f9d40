"""The declaration of an enrichment. Cheap to import: DAG files do.

Everything that the pipeline does with an enrichment follows from the declarations, in their order
(`enrichment.enrichers.registry`): its columns, its statuses, its task, its cache table, its repair.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar

import msgspec
from pydantic import Field
from pydantic_settings import BaseSettings

from enrichment.variables import LONGEST, PositiveFloat, PositiveInt, Share, room_config

# In `LookupEnricher.reads`: the columns and the statuses of all enrichments that stand before it.
EVERY_EARLIER = ("*",)


class EnricherSettings(BaseSettings):
    """What every enrichment has settings for; a subclass has a prefix (`room_config`) and adds its own."""

    cache_size: PositiveInt = Field(5_000, description="keys kept in a task's memory")
    cache_max_rows: PositiveInt = Field(500_000, description="keys kept in PostgreSQL after an eviction")
    max_keyless_share: Share = Field(
        0.95, description="share of messages without a key above which run and hour say so; 1: never"
    )

    # Fields that change no message: the fingerprint of a batch's settings leaves them out.
    leaves_messages_alone: ClassVar[frozenset[str]] = frozenset({"cache_max_rows", "max_keyless_share"})

    @property
    @abstractmethod
    def cache_ttl_sec(self) -> float:
        """How long an answer may be served, in seconds."""

    @property
    def contents(self) -> tuple[bytes, ...]:
        """The files that decide what is added to a message, for the fingerprint. Raises `SettingsError` where one
        cannot be read."""
        return ()


class HourlyCacheSettings(EnricherSettings):
    """Settings of an enrichment whose answers are served for hours."""

    cache_ttl_hours: PositiveFloat = Field(1, description="how long an answer may be served")

    @property
    def cache_ttl_sec(self) -> float:
        """See `EnricherSettings`."""
        return 3600 * self.cache_ttl_hours


class CacheSettings(BaseSettings):
    """What all caches have in common."""

    model_config = room_config("CACHE_")

    negative_ttl_minutes: PositiveFloat = Field(10, description="how long a key is known not to exist")
    error_ttl_sec: PositiveFloat = Field(30, description="how long a task remembers that a source failed for a key")
    stale_grace_hours: Annotated[float, Field(ge=0, le=LONGEST)] = Field(
        24, description="how long after its expiry an entry may still be served while its source is down"
    )
    touch_after_hours: PositiveFloat = Field(
        0.25, description="age from which a row's last use is noted anew when it is read; eviction goes by it"
    )
    eviction_chunk_rows: PositiveInt = Field(5_000, description="rows that one transaction of an eviction deletes")
    refresh_keys: Annotated[int, Field(ge=0)] = Field(
        1_000, description="keys of each cache at most that are renewed before they expire, the ones used last; 0: none"
    )
    refresh_ahead_minutes: PositiveFloat = Field(
        20, description="how long before its expiry a key that is in use is renewed; more than the eviction's interval"
    )


def prefixed(prefix: str) -> Callable[[str], str]:
    """Names an output column after its field: `class Place(msgspec.Struct, rename=prefixed("geo_"))`."""
    return lambda name: f"{prefix}{name}"


@dataclass(frozen=True, kw_only=True)
class CountedColumns:
    """Output columns of an enrichment whose values are counted by message, for the page: one, or a pair whose
    combinations are counted. They hold texts; a single one may hold lists of texts. `is_country`: they are ISO codes,
    and a map can show them."""

    columns: tuple[str, ...]
    title: str  # on the page: "Fraud indicators"
    is_country: bool = False

    @property
    def name(self) -> str:
        """What its counts are kept under."""
        return " ".join(self.columns)


@dataclass(frozen=True, kw_only=True, eq=False)
class LookupEnricher:
    """An enrichment that looks something up by a field of the message.

    `name` is that of its task, stage, cache and metrics; `source` is its name in `enrichment_sources`. `columns` is the
    struct of an answer, all fields optional: cached under the names of the fields, published under their encoded names.
    `computed` has the columns that are computed for every batch, from the answer and from what `reads` names: earlier
    enrichments, or `EVERY_EARLIER`.

    The reasons for a missing answer are values of `enrichment_errors`, each with its meaning for an operator who sees
    it often. With one of `outages` the source could not be asked: such messages are counted, held or published partial,
    and repaired. One of `unknown` is an answer: the source does not have the key, but may have it later. One of
    `invalid` is a permanent answer.

    `counted` names output columns whose values are counted in each batch and shown on the page: few of them, and such
    as have few values.

    `open` names the function that opens the source, as `module:function`; it takes `enrichment.enrichers.wiring.Site`
    and these settings, and returns an `OpenedSource`. `dependents` are tables with the cache's key column whose rows
    are evicted when the cache no longer has the key.
    """

    name: str
    source: str
    title: str  # in Airflow's graph: "place by address"
    doc: str  # of its task, in Markdown
    key: str  # the field of the message
    columns: type[msgspec.Struct]
    settings: type[EnricherSettings]
    open: str
    outages: Mapping[str, str]
    unknown: Mapping[str, str]
    invalid: Mapping[str, str] = field(default_factory=dict)
    computed: type[msgspec.Struct] | None = None
    reads: tuple[str, ...] = ()
    cache_table: str = ""  # empty: the name and `_cache`
    cache_key: str = ""  # empty: the field of the message
    dependents: tuple[str, ...] = ()
    counted: tuple[CountedColumns, ...] = ()

    @property
    def structs(self) -> tuple[type[msgspec.Struct], ...]:
        """The structs of its output columns, in order."""
        return (self.columns,) if self.computed is None else (self.columns, self.computed)

    @cached_property
    def output_columns(self) -> tuple[str, ...]:
        """Its columns by the names that they have in a published message, in order."""
        return tuple(f.encode_name for struct in self.structs for f in msgspec.structs.fields(struct))

    @property
    def table(self) -> str:
        """The cache table."""
        return self.cache_table or f"{self.name}_cache"

    @property
    def key_column(self) -> str:
        """The key column of the cache table."""
        return self.cache_key or self.key

    @cached_property
    def reasons(self) -> dict[str, str]:
        """All its reasons, with what they mean: `invalid`, then `outages`, then `unknown`."""
        return {**self.invalid, **self.outages, **self.unknown}

    @property
    def status_column(self) -> str:
        """The name of this enrichment's status in rules: `geo_status` is the reason why the columns are null."""
        return f"{self.name}_status"
