"""The pipeline's stages in this process, one after the other and batch by batch, as the tasks of the DAG call them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks.cores import Used, used
from benchmarks.stand import Stand
from enrichment.batch import Batch
from enrichment.batches import pipeline
from enrichment.batches.kinds import LIVE_KIND
from enrichment.batches.pipeline import Drained
from enrichment.batches.stage_clock import timed_stage
from enrichment.caches.base import LookupCounts
from enrichment.enrichers.base import Enricher
from enrichment.messages import Source
from enrichment.resources import Resources
from enrichment.settings import Settings

DAG_ID = "benchmark"
LOOKUPS = ("geo", "user", "business")


@dataclass
class Pass:
    """One time through the backlog. `stages` has the seconds of each, the opening of its connections included; `used`
    its processor time."""

    messages: int = 0
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    used: dict[str, Used] = field(default_factory=lambda: defaultdict(Used))
    counts: dict[str, LookupCounts] = field(default_factory=lambda: dict.fromkeys(LOOKUPS, LookupCounts()))

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
            batches = pipeline.claim(
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
    drained = _drain(stand, settings, done, claimed)
    seconds = {name: _look_up(stand, settings, done, drained.batch, name) for name in LOOKUPS}
    with _stage(stand, settings, done, "publish") as r:
        with timed_stage(r, claimed.batch_id, "publish") as stage:
            published = pipeline.publish(r.clients, r.staging, drained, LIVE_KIND, settings)
            stage.messages, stage.counts = published.counts.total, msgspec.to_builtins(published)
        pipeline.record(
            r.ledger, drained, published,
            cache_counts=done.counts, durations={"publish": stage.seconds} | seconds,
            source_builds={"geo": r.geo_database.build},
        )  # fmt: skip
    with _stage(stand, settings, done, "clean") as r:
        r.staging.remove(claimed.batch_id)
    return published.counts.total


def _drain(stand: Stand, settings: Settings, done: Pass, claimed: Batch) -> Drained:
    with _stage(stand, settings, done, "drain") as r:
        with timed_stage(r, claimed.batch_id, "drain") as stage:
            drained = pipeline.drain(r.clients, r.staging, claimed, LIVE_KIND)
            stage.messages = drained.messages
        r.ledger.drained(drained.batch, drained.messages, drained.value_bytes)
    return drained


def _look_up(stand: Stand, settings: Settings, done: Pass, batch: Batch, name: str) -> float:
    with _stage(stand, settings, done, name) as r, timed_stage(r, batch.batch_id, name) as stage:
        enricher, how = _enricher(r, name)
        counts = pipeline.enrich(r.staging, batch, enricher, **how)
        stage.messages, stage.counts = counts.messages, msgspec.to_builtins(counts)
    done.counts[name] += counts
    return stage.seconds


def _enricher(r: Resources, name: str) -> tuple[Enricher, dict[str, Any]]:
    if name == "business":
        return r.business_enricher(), {"after": (Source.GEO, Source.USER), "on_chunk": r.record_risks}
    return (r.geo_enricher() if name == "geo" else r.user_enricher()), {}


@contextmanager
def _stage(stand: Stand, settings: Settings, done: Pass, name: str) -> Iterator[Resources]:
    """Resources of a stage's own, as a task has them, and the clock."""
    start, before = time.perf_counter(), used(stand.broker_pid)
    with stand.resources(settings) as r:
        yield r
    done.stages[name] += time.perf_counter() - start
    done.used[name] = done.used[name].plus(used(stand.broker_pid).minus(before))
