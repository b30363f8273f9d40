"""How speed and memory change with the batch, the partitions, the messages' size, their distinct keys, and the lanes.

A batch is enriched in a process of its own, as the claim does it: forked from one that has imported what a worker of
the scheduler has. What a run costs beside that is the same for all (`benchmarks.hops`).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.alone import workers
from benchmarks.backlog import MALFORMED
from benchmarks.stand import Stand, services
from enrichment.batch import Batch
from enrichment.batches import stages
from enrichment.batches.at_once import run_at_once
from enrichment.batches.claim import claim
from enrichment.batches.kinds import LIVE_KIND
from enrichment.kafka.topics import create_topics
from enrichment.settings import Settings
from include.local.generate import Options, messages
from include.local.progress import progress
from include.local.records import Record, produce
from include.local.steps import Steps

MESSAGES = 500_000
BYTES = 512 * 1024**2  # of messages at most in a backlog
MAX_BATCHES = 20  # of a pass
USUAL, FEW, MANY = (
    Options(),
    Options(users=100, addresses=100, requests=1_000),
    Options(users=200_000, addresses=200_000, skew=0, lines_per_request=(1, 1)),
)


@dataclass(frozen=True)
class Load:
    """A backlog, and the settings to drain it with. `size` is what a message has at least, in bytes."""

    name: str
    value: str
    options: Options = USUAL
    partitions: int = 4
    size: int = 0
    kafka: Mapping[str, Any] = field(default_factory=dict)

    @property
    def backlog(self) -> str:
        """What backlogs that are alike have in common."""
        options = self.options
        return f"growth-{self.partitions}-{self.size}-{options.users}-{options.requests}"

    @property
    def messages(self) -> int:
        """Messages in the backlog."""
        return min(MESSAGES, BYTES // self.size) if self.size else MESSAGES


LOADS = (
    *(Load("batch", f"{size:,}", kafka={"batch_size": size}) for size in (1_000, 10_000, 50_000, 100_000, 500_000)),
    *(Load("partitions", str(count), partitions=count) for count in (1, 4, 12)),
    *(Load("message", f"{size / 1000:g} kB", size=size) for size in (300, 3_000, 30_000)),
    Load("keys", "few", FEW), Load("keys", "as usual"), Load("keys", "nearly all distinct", MANY),
    *(Load("lanes", str(count), kafka={"lanes": count}) for count in (1, 2)),
)  # fmt: skip


@dataclass(frozen=True)
class Grown:
    """A pass with empty caches and one with full ones."""

    name: str
    value: str
    messages: int
    batches: int
    cold: float  # messages a second
    warm: float
    peak_mb: int  # of the largest process


def measure_growth(environ: Mapping[str, str], steps: Steps, console: Console) -> list[Grown]:
    """Every load in turn, on services of their own."""
    found: list[Grown] = []
    with services(environ, steps) as empty:
        filled: dict[str, Stand] = {}
        for load in LOADS:
            if load.backlog not in filled:
                filled[load.backlog] = _fill(empty, load)
            found.append(_measure(filled[load.backlog], load))
            console.print(f"  {_words(found[-1])}", highlight=False)
    return found


def _fill(stand: Stand, load: Load) -> Stand:
    topic = f"{load.backlog}-in"
    own = replace(stand.settings, kafka=stand.settings.kafka.model_copy(update={"input_topic": topic}))
    create_topics({"bootstrap.servers": stand.bootstrap_servers}, own.kafka, partitions=load.partitions)
    made = messages(replace(load.options, count=load.messages, malformed=MALFORMED))
    with progress(f"Filling, {load.name} {load.value}", load.messages) as advance:
        produce(_enlarged(made, load.size), stand.bootstrap_servers, topic, advance=advance)
    return replace(stand, settings=own).with_backlog()


def _enlarged(records: Iterable[Record], size: int) -> Iterator[Record]:
    """Give each message a text that makes it so large: of earlier messages, so that it packs as logs do."""
    text = b""
    for plain in records:
        record, value = plain, plain.value or b""
        room = size - len(value) - len(b',"stack_trace":""')
        if room > 0 and value.endswith(b"}"):
            text = (text + value.replace(b'"', b" ").replace(b"\\", b" "))[-room:]
            filler = (text * (room // len(text) + 1))[:room]
            record = plain._replace(value=value[:-1] + b',"stack_trace":"' + filler + b'"}')
        yield record


def _measure(stand: Stand, load: Load) -> Grown:
    stand.empty_caches()
    cold, batches, first = _pass(stand, load, "cold")
    warm, _, second = _pass(stand, load, "warm")
    done = sum(batch.span for batch in batches)
    return Grown(load.name, load.value, done, len(batches), done / cold, done / warm, round(max(first, second) / 2**20))


def _pass(stand: Stand, load: Load, state: str) -> tuple[float, list[Batch], int]:
    """The seconds of a pass, its batches, and the bytes of its largest process."""
    with _outputs(stand, load, state) as settings:
        done: list[Batch] = []
        seconds, peak = 0.0, 0
        with workers(settings.kafka.lanes) as pool:
            pool.submit(_nothing).result()  # the one that the others are forked from imports
            start = time.perf_counter()
            while len(done) < MAX_BATCHES:
                run_id = f"{settings.kafka.consumer_group}/{len(done)}"
                with stand.resources(settings) as r:
                    batches = claim(r.clients, r.ledger, settings, dag_id="growth", run_id=run_id)
                if not batches:
                    break
                working = [pool.submit(_enrich, stand, settings, batch) for batch in batches]
                peak = max(peak, *(work.result() for work in working))
                done += batches
                seconds = time.perf_counter() - start
    return seconds, done, peak


@contextmanager
def _outputs(stand: Stand, load: Load, state: str) -> Iterator[Settings]:
    with stand.outputs(f"{load.name}-{load.value.replace(' ', '-').replace(',', '')}-{state}") as settings:
        yield replace(settings, kafka=settings.kafka.model_copy(update=dict(load.kafka)))


def _nothing() -> None:
    """What the first process does."""


def _enrich(stand: Stand, settings: Settings, batch: Batch) -> int:
    """All stages of a batch; returns the largest memory of the process in bytes."""
    with stand.resources(settings) as r:
        run_at_once(r, LIVE_KIND, batch, partial(stages.publish_batch, r, LIVE_KIND))
        r.staging.remove(batch.batch_id)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def growth_summary(found: Sequence[Grown]) -> list[dict[str, Any]]:
    """What `latest.json` holds of it."""
    return [
        {
            "load": grown.name, "value": grown.value, "messages": grown.messages, "batches": grown.batches,
            "cold_msgs_per_s": round(grown.cold), "warm_msgs_per_s": round(grown.warm), "peak_rss_mb": grown.peak_mb,
        }
        for grown in found
    ]  # fmt: skip


def growth_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each load."""
    title = "Growth: one process a batch, without the scheduler"
    table = Table("", "", "messages", "batches", "messages/s cold", "messages/s warm", "peak RSS", title=title)
    for row in found:
        table.add_row(
            row["load"], row["value"], f"{row['messages']:,}", str(row["batches"]), f"{row['cold_msgs_per_s']:,}",
            f"{row['warm_msgs_per_s']:,}", f"{row['peak_rss_mb']} MB",
        )  # fmt: skip
    return table


def _words(grown: Grown) -> str:
    return f"{grown.name} {grown.value}: {grown.cold:,.0f} cold, {grown.warm:,.0f} warm messages/s, {grown.peak_mb} MB"
