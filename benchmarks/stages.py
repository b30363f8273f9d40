"""The pipeline's stages in this process, one after the other and batch by batch, as the task that claims does them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

from benchmarks.cores import Used, used
from benchmarks.stand import Stand
from enrichment.batch import Batch
from enrichment.batches import stages
from enrichment.batches.at_once import give_back
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
Stage = Callable[[str], AbstractContextManager[None]]


@dataclass
class Pass:
    """One time through the backlog. `stages` has the seconds of each, the opening of what it needs included; `used`
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
        with stand.resources(settings) as r:
            stage = partial(_stage, stand.broker_pid, done)
            with stage("claim"):
                batches = claim(
                    r.clients, r.ledger, settings, dag_id=DAG_ID, run_id=f"{run_id}/{run}", max_messages=max_messages
                )
            for batch in batches:
                done.messages += _run(r, stage, done.counts, batch)
        published += batches
        if max_messages is not None or done.messages >= stand.messages:
            break
    done.seconds = time.perf_counter() - start
    return done, published


def _run(r: Resources, stage: Stage, counts: dict[str, LookupCounts], claimed: Batch) -> int:
    def drain(batch: Batch) -> Drained:
        with stage("drain"):
            drained = stages.drain_batch(r, LIVE_KIND, batch)
            give_back(r)
        return drained

    def look_up(drained: Drained, enricher: LookupEnricher, _earlier: Sequence[LookedUp]) -> LookedUp:
        with stage(enricher.name):
            looked_up = stages.look_up(r, enricher, drained.batch)
            give_back(r)
        counts[enricher.name] += looked_up.counts
        return looked_up

    def publish(drained: Drained, lookups: Mapping[str, LookedUp]) -> Published | None:
        with stage("publish"):
            return stages.publish_batch(r, LIVE_KIND, drained, lookups)

    published = run_stages(claimed, drain, look_up, publish)
    with stage("clean"):
        r.staging.remove(claimed.batch_id)
    return published.counts.total if published is not None else 0


@contextmanager
def _stage(broker_pid: int, done: Pass, name: str) -> Iterator[None]:
    """The clock of a stage."""
    start, before = time.perf_counter(), used(broker_pid)
    yield
    done.stages[name] += time.perf_counter() - start
    done.used[name] = done.used[name].plus(used(broker_pid).minus(before))
