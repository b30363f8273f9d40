"""The pipeline's stages in this process, one after the other and batch by batch, as the tasks of the DAG call them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from benchmarks.cores import Used, used
from benchmarks.stand import Stand
from enrichment.batch import Batch
from enrichment.batches import stages
from enrichment.batches.claim import claim
from enrichment.batches.kinds import LIVE_KIND
from enrichment.batches.pipeline import run_stages
from enrichment.batches.staged import Drained, Published
from enrichment.batches.stages import LookedUp
from enrichment.caches.base import LookupCounts
from enrichment.enrichers.declare import LookupEnricher
from enrichment.enrichers.registry import REGISTRY
from enrichment.resources import Resources
from enrichment.settings import Settings

DAG_ID = "benchmark"


@dataclass
class Pass:
    """One time through the backlog. `stages` has the seconds of each, the opening of its connections included; `used`
    its processor time."""

    messages: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    used: dict[str, Used] = field(default_factory=lambda: defaultdict(Used))
    counts: dict[str, LookupCounts] = field(default_factory=lambda: dict.fromkeys(REGISTRY.by_name, LookupCounts()))

    @property
    def shares(self) -> Mapping[str, float]:
        """Each stage's share of the time."""
        return {name: seconds / self.seconds for name, seconds in self.stages.items()}


def drain_backlog(
    stand: Stand, settings: Settings, run_id: str, max_messages: int | None = None
) -> tuple[Pass, list[Batch]]:
    """Run after run until the backlog (or `max_messages`, one batch) is published; returns the pass and its batches."""
    done, published = Pass(), []
    start = time.perf_counter()
    for run in range(stand.messages):
        with _stage(stand, settings, done, "claim") as r:
            batches = claim(
                r.clients, r.ledger, settings, dag_id=DAG_ID, run_id=f"{run_id}/{run}", max_messages=max_messages
            )
        for batch in batches:
            done.messages += _run(stand, settings, done, batch)
        published += batches
        if max_messages is not None or done.messages >= stand.messages:
            break
    done.seconds = time.perf_counter() - start
    return done, published


def _run(stand: Stand, settings: Settings, done: Pass, claimed: Batch) -> int:
    stage = partial(_stage, stand, settings, done)

    def drain(batch: Batch) -> Drained:
        with stage("drain") as r:
            return stages.drain_batch(r, LIVE_KIND, batch)

    def look_up(drained: Drained, enricher: LookupEnricher, _earlier: Sequence[LookedUp]) -> LookedUp:
        with stage(enricher.name) as r:
            looked_up = stages.look_up(r, enricher, drained.batch)
        done.counts[enricher.name] += looked_up.counts
        return looked_up

    def publish(drained: Drained, lookups: Mapping[str, LookedUp]) -> Published | None:
        with stage("publish") as r:
            return stages.publish_batch(r, LIVE_KIND, drained, lookups)

    published = run_stages(claimed, drain, look_up, publish)
    with stage("clean") as r:
        r.staging.remove(claimed.batch_id)
    return published.counts.total if published is not None else 0


@contextmanager
def _stage(stand: Stand, settings: Settings, done: Pass, name: str) -> Iterator[Resources]:
    """Resources of a stage's own, as a task has them, and the clock."""
    start, before = time.perf_counter(), used(stand.broker_pid)
    with stand.resources(settings) as r:
        yield r
    done.stages[name] += time.perf_counter() - start
    done.used[name] = done.used[name].plus(used(stand.broker_pid).minus(before))
