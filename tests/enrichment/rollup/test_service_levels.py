"""Which service levels an hour misses: each at its threshold, and what is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from enrichment.caches.base import LookupCounts
from enrichment.rollup.rollup import Rollup
from enrichment.rollup.service_levels import Breach, Level, find_breaches
from enrichment.settings import ServiceLevelSettings
from enrichment.store.histogram import Histogram

SETTINGS = ServiceLevelSettings(min_hit_rate=0.8, max_error_rate=0.05, max_freshness_sec=60, max_lag=1000)


MOST = {"geo": 0.9, "user": 1.0}


def keyed(geo: int, user: int) -> dict[str, LookupCounts]:
    """So many messages with an address and with a user."""
    return {"geo": LookupCounts(messages=geo, memory=geo), "user": LookupCounts(messages=user, memory=user)}


def hits(memory: int, misses: int) -> dict[str, LookupCounts]:
    """A cache with as many hits and misses."""
    return {"geo": LookupCounts(messages=memory + misses, memory=memory, misses=misses)}


@pytest.mark.parametrize(
    ("hour", "missed"),
    [
        ({"caches": hits(80, 20)}, []),
        ({"caches": hits(79, 21)}, [(Level.HIT_RATE, 0.79, 0.8)]),
        ({"messages": 1000, "messages_partial": 30, "messages_dead": 19}, []),
        ({"messages": 1000, "messages_partial": 30, "messages_dead": 20}, [(Level.ERROR_RATE, 0.05, 0.05)]),
        ({"freshness": Histogram.of([50.0] * 95 + [900.0] * 5)}, []),
        (
            {"freshness": Histogram.of([50.0] * 94 + [900.0] * 6)},
            [(Level.FRESHNESS, pytest.approx(900, rel=0.01), 60)],
        ),
        ({"lag_max": 1000}, []),
        ({"lag_max": 1001}, [(Level.LAG, 1001, 1000)]),
        ({"caches": hits(0, 9), "lag_max": 5000}, [(Level.HIT_RATE, 0.0, 0.8), (Level.LAG, 5000, 1000)]),
        ({"messages_enriched": 60, "messages_partial": 40, "caches": keyed(10, 0)}, []),
        (
            {"messages_enriched": 60, "messages_partial": 40, "caches": keyed(9, 0)},
            [("keyless-geo", pytest.approx(0.91), 0.9)],
        ),
        (
            {"messages": 10, "messages_enriched": 1, "messages_dead": 9, "caches": keyed(10, 10)},
            [(Level.ERROR_RATE, 0.9, 0.05)],
        ),
        ({"hours": 1}, []),
    ],
    ids=[
        "enough hits", "too few hits", "few errors", "at the limit is too many", "95 of 100 are fresh",
        "94 of 100 are fresh", "lag at the limit", "lag past it", "two at once", "few keys", "too few keys",
        "keys of dead letters", "an hour without a batch",
    ],
)  # fmt: skip
def test_breaches_are_found(hour: dict[str, Any], missed: list[tuple[Level, float, float]]) -> None:
    """Hit rate at least, errors below, freshness and lag at most; what is unknown is no breach."""
    assert find_breaches(Rollup(**hour), SETTINGS, MOST) == [Breach(*each) for each in missed]


def test_breach_is_told_in_a_sentence() -> None:
    """A person who is woken by it reads what was seen and what was wanted."""
    breaches = find_breaches(
        Rollup(
            caches=hits(1, 1), messages=10, messages_dead=1, freshness=Histogram({576: 1}), lag_max=2_000_000,
            messages_enriched=80,
        ),
        SETTINGS,
        MOST,
    )  # fmt: skip
    assert [str(breach) for breach in breaches] == [
        "cache hit rate 50.0%, at least 80.0% wanted",
        "10.0% of the messages with an error, less than 5.0% wanted",
        "95 % of the messages published within 99.7 s of their timestamp, 60.0 s wanted",
        "2,000,000 messages left behind a claim, 1,000 at most wanted",
        "97.5% of the messages without `source_ip`, 90.0% at most wanted",
    ]
