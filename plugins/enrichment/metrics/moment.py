"""A look at live enrichment in, or the service levels that an hour missed, the samples of it out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator

from enrichment.enrichers.registry import REGISTRY
from enrichment.health.now import LastBatch, Now
from enrichment.health.verdict import Health, HealthVerdict
from enrichment.metrics import names
from enrichment.metrics.names import Sample
from enrichment.rollup.service_levels import KEYLESS, Breach, Level

SEVERITY = {Health.HEALTHY: 0, Health.DEGRADED: 1, Health.DOWN: 2}
BREAKER_STATES = {"closed": 0, "half-open": 1, "open": 2}
# The states of batches that may still be published.
UNPUBLISHED_STATES = ("claimed", "drained", "failed")
# The build of a MaxMind database ends with the time at which it was made, in seconds since the epoch.
BUILD_TIME = re.compile(r"-(\d{9,10})$")


def samples_of_moment(verdict: HealthVerdict, now: Now | None) -> Iterator[Sample]:
    """The samples of a moment: of the verdict alone, where the database did not answer.

    A backend keeps the last value of a gauge, so what is over is sent, too: nothing waits, the breaker is closed.
    """
    yield names.HEALTH.of(SEVERITY[verdict.health])
    if now is None:
        return
    if not now.kafka_error:
        for partition in now.backlog:
            yield names.LAG.of(partition.waiting, partition.partition)
        oldest = 0.0 if now.oldest_at is None else (now.at - now.oldest_at).total_seconds()
        yield names.OLDEST_WAITING.of(max(0.0, oldest))
    states: Counter[str] = Counter()
    for batch in now.unfinished:
        states[batch.state] += batch.alike
    for state in UNPUBLISHED_STATES:
        yield names.UNPUBLISHED.of(states[state], state)
    yield from _samples_of_sources(now)
    if now.last is not None:
        yield names.SINCE_PUBLISHED.of(max(0.0, (now.at - now.last.published_at).total_seconds()))
        yield from _samples_of_builds(now.last, now.at.timestamp())


def _samples_of_sources(now: Now) -> Iterator[Sample]:
    breakers = dict.fromkeys(REGISTRY.by_source, 0)
    for breaker in now.breakers:
        source = breaker.name.partition(" ")[0]  # an address follows
        breakers[source] = max(breakers.get(source, 0), BREAKER_STATES[breaker.state])
    pending = dict.fromkeys(REGISTRY.by_source, 0) | {each.source: each.messages for each in now.pending}
    for source, state in breakers.items():
        yield names.BREAKER.of(state, source)
    for source, messages in pending.items():
        yield names.PENDING.of(messages, source)


def _samples_of_builds(last: LastBatch, now: float) -> Iterator[Sample]:
    for name, build in last.source_builds.items():
        found = BUILD_TIME.search(build)
        if found and name in REGISTRY.by_name:
            yield names.SOURCE_AGE.of(max(0.0, now - int(found[1])), REGISTRY.by_name[name].source)


def samples_of_breaches(breaches: Collection[Breach]) -> Iterator[Sample]:
    """Each service level, and whether the hour missed it."""
    missed = {breach.level for breach in breaches}
    for level in (*Level, *(f"{KEYLESS}{name}" for name in REGISTRY.by_name)):
        yield names.BREACHED.of(int(level in missed), level)
