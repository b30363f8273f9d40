"""A rollup in, the service levels that it breaches out. An unknown value breaches nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from enrichment.enrichers.registry import REGISTRY
from enrichment.rollup.rollup import Rollup
from enrichment.settings import ServiceLevelSettings


class Level(StrEnum):
    """The service levels of each hour of the live stream."""

    HIT_RATE = "hit-rate"
    ERROR_RATE = "error-rate"
    FRESHNESS = "freshness"
    LAG = "lag"


KEYLESS = "keyless-"  # a level of each enrichment: this and its name


class Breach(msgspec.Struct, frozen=True):
    """A level that an hour missed: the value seen, and the limit, a maximum (for the hit rate: a minimum). `level` is
    one of `Level`, or that of an enrichment's missing keys."""

    level: str
    observed: float
    threshold: float

    def __str__(self) -> str:
        if self.level.startswith(KEYLESS):
            name = self.level.removeprefix(KEYLESS)
            key = f"`{REGISTRY.by_name[name].key}`" if name in REGISTRY.by_name else f"a key of {name}"
            return f"{self.observed:.1%} of the messages without {key}, {self.threshold:.1%} at most wanted"
        return _LEVELS[Level(self.level)].sentence.format(self.observed, self.threshold)


class _Level(NamedTuple):
    observed: Callable[[Rollup], float | None]
    threshold: Callable[[ServiceLevelSettings], float]
    kept: Callable[[float, float], bool]
    sentence: str


_LEVELS: dict[Level, _Level] = {
    Level.HIT_RATE: _Level(
        lambda r: r.hit_rate,
        lambda s: s.min_hit_rate,
        lambda seen, least: seen >= least,
        "cache hit rate {:.1%}, at least {:.1%} wanted",
    ),
    Level.ERROR_RATE: _Level(
        lambda r: r.error_rate,
        lambda s: s.max_error_rate,
        lambda seen, limit: seen < limit,
        "{:.1%} of the messages with an error, less than {:.1%} wanted",
    ),
    Level.FRESHNESS: _Level(
        lambda r: r.freshness.quantile(0.95),
        lambda s: s.max_freshness_sec,
        lambda seen, limit: seen <= limit,
        "95 % of the messages published within {:,.1f} s of their timestamp, {:,.1f} s wanted",
    ),
    Level.LAG: _Level(
        lambda r: r.lag_max,
        lambda s: s.max_lag,
        lambda seen, limit: seen <= limit,
        "{:,.0f} messages left behind a claim, {:,.0f} at most wanted",
    ),
}


def thresholds(settings: ServiceLevelSettings) -> dict[Level, float]:
    """What is wanted of each level: a maximum, of the hit rate a minimum."""
    return {level: how.threshold(settings) for level, how in _LEVELS.items()}


def find_breaches(rollup: Rollup, settings: ServiceLevelSettings, max_keyless: Mapping[str, float]) -> list[Breach]:
    """The levels that were missed, in the order of `Level`, then the enrichments with more messages without a key than
    `max_keyless` allows."""
    breaches = []
    for level, how in _LEVELS.items():
        observed, threshold = how.observed(rollup), how.threshold(settings)
        if observed is not None and not how.kept(observed, threshold):
            breaches.append(Breach(level, observed, threshold))
    shares = rollup.keyless_shares
    return breaches + [
        Breach(f"{KEYLESS}{name}", shares[name], most)
        for name, most in max_keyless.items()
        if shares.get(name, 0.0) > most
    ]
