"""Results in, `latest.json` and two tables for a person out."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import confluent_kafka
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.cores import Used
from benchmarks.database import database_table
from benchmarks.freshness import Freshness, freshness_summary, freshness_table
from benchmarks.goals import goals
from benchmarks.growth import Grown, growth_summary, growth_table
from benchmarks.hops import TimedRun, hop_summary, hop_tables
from benchmarks.page import Request, page_summary, page_table
from benchmarks.scheduler import Drained
from benchmarks.stages import Pass
from benchmarks.stand import changed_settings
from enrichment.enrichers.registry import REGISTRY
from include.local import kafka
from include.local.config import ROOT

LATEST = ROOT / "benchmarks" / "results" / "latest.json"
LIBRARIES = ("apache-airflow", "confluent-kafka", "msgspec", "numba", "numpy", "orjson", "pandas", "pyarrow")


@dataclass
class Results:
    """What was measured: seconds of each pass over `messages` messages; what was not measured is empty."""

    messages: int
    repeat: int
    passthrough: list[float] = field(default_factory=list)
    passthrough_bulk: list[float] = field(default_factory=list)
    passthrough_used: list[Used] = field(default_factory=list)
    cold: list[Pass] = field(default_factory=list)
    steady: list[Pass] = field(default_factory=list)
    warm: list[Pass] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=dict)
    scheduler: list[Drained] = field(default_factory=list)
    catch_up: list[float] = field(default_factory=list)
    catch_up_messages: int = 0
    hits: dict[str, Any] = field(default_factory=dict)
    hops: list[TimedRun] = field(default_factory=list)
    freshness: Freshness | None = None
    growth: list[Grown] = field(default_factory=list)
    page: list[Request] = field(default_factory=list)

    def rate(self, seconds: Sequence[float]) -> float | None:
        """Messages a second: the median; None when it was not measured."""
        return round(self.messages / statistics.median(seconds)) if seconds else None

    @property
    def best_scheduler(self) -> Drained | None:
        """That number of lanes with which the scheduler was fastest."""
        return max(self.scheduler, key=lambda drained: drained.rate(self.messages), default=None)

    @property
    def peaks(self) -> dict[str, int]:
        """The largest memory of each task, in MB."""
        found: dict[str, int] = {}
        for drained in self.scheduler:
            for stage, size in drained.peak_rss_bytes.items():
                found[stage] = max(found.get(stage, 0), round(size / 2**20))
        return found


def summary(results: Results) -> dict[str, Any]:
    """What `latest.json` holds."""
    best = results.best_scheduler
    return {
        "passthrough_msgs_per_s": results.rate(results.passthrough),
        "passthrough_bulk_msgs_per_s": results.rate(results.passthrough_bulk),
        "pipeline_warm_msgs_per_s": results.rate([p.seconds for p in results.warm]),
        "pipeline_steady_msgs_per_s": results.rate([p.seconds for p in results.steady]),
        "pipeline_cold_msgs_per_s": results.rate([p.seconds for p in results.cold]),
        "peers": {name: results.rate(seconds) for name, seconds in results.peers.items()},
        "dag_drain_msgs_per_s": None if best is None else round(best.rate(results.messages)),
        "dag_catch_up_msgs_per_s": round(results.catch_up_messages / statistics.median(results.catch_up))
        if results.catch_up
        else None,
        "dag_catch_up_messages": results.catch_up_messages or None,
        "peak_rss_mb": results.peaks,
        "hit_rate_cold": results.hits.get("cold"),
        "hit_rate_warm": results.hits.get("warm"),
        "dag_drain_settings": None if best is None else best.settings,
        "dag_drain_by_settings": [
            {
                "settings": drained.settings,
                "runs": drained.runs,
                "msgs_per_s": round(drained.rate(results.messages)),
                "seconds": [round(s, 2) for s in drained.seconds],
                "stage_seconds": {stage: round(s, 2) for stage, s in drained.stage_seconds.items()},
                "peak_worker_and_task_rss_mb": round(drained.peak_tree_bytes / 2**20),
            }
            for drained in results.scheduler
        ],
        "processor_us_per_message": processor_time(results),
        "stage_shares_warm": shares(results.warm),
        "stage_shares_steady": shares(results.steady),
        "stage_shares_cold": shares(results.cold),
        "hops": hop_summary(results.hops) if results.hops else None,
        "freshness_p50_s": None,
        "freshness_p99_s": None,
        **(freshness_summary(results.freshness) if results.freshness else {}),
        "growth": growth_summary(results.growth),
        "page": page_summary(results.page),
        "hit_rate_allowed": results.hits.get("allowed"),
        "hit_rate_data": results.hits.get("data"),
        "messages": results.messages,
        "repeat": results.repeat,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {name: version(name) for name in LIBRARIES}
        | {"python": platform.python_version(), "librdkafka": confluent_kafka.libversion()[0], "kafka": kafka.VERSION},
        "changed_settings": changed_settings(),
    }


def shares(passes: Sequence[Pass]) -> dict[str, float]:
    """Each stage's share of a pass: the median."""
    names = passes[0].stages if passes else ()
    return {name: round(statistics.median(p.shares[name] for p in passes), 3) for name in names}


def processor_time(results: Results) -> dict[str, dict[str, float]]:
    """Microseconds of processor time for each message, by who used them: the medians of all passes."""
    passes = {"pass-through": results.passthrough_used}
    for stage in results.warm[0].stages if results.warm else ():
        passes[f"{stage}, warm"] = [done.used[stage] for done in results.warm]
    return {
        name: {
            part: round(1e6 * statistics.median(seconds) / results.messages, 2)
            for part, seconds in zip(Used._fields, zip(*found, strict=True), strict=True)
        }
        for name, found in passes.items()
        if found
    }


def machine() -> dict[str, Any]:
    """What it was measured on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(": ")[2] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": platform.platform(),
    }


def write(found: Mapping[str, Any]) -> Path:
    """Keep the figures; not committed."""
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    LATEST.write_text(json.dumps(found, indent=2) + "\n")
    return LATEST


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print the figures, and whether the goals are met."""
    hops = hop_tables(found["hops"]) if found["hops"] else []
    fresh = [freshness_table(found), database_table(found["database"])] if found["freshness_p50_s"] else []
    others = growth_table(found["growth"]), page_table(found["page"]), _goals(found)
    tables = (_rates(found), _stages(found), _processor_time(found), _hits(found), *hops, *fresh, *others)
    for table in tables:
        if table.row_count:
            console.print(table)


def _rates(found: Mapping[str, Any]) -> Table:
    table = Table(
        "messages/s", "", "of pass-through", title=f"{found['messages']:,} messages, median of {found['repeat']}"
    )
    ceiling = found["passthrough_msgs_per_s"]
    rows = {
        "pass-through": ceiling,
        "pass-through in bulk": found["passthrough_bulk_msgs_per_s"],
        "pipeline, warm": found["pipeline_warm_msgs_per_s"],
        "pipeline, steady": found["pipeline_steady_msgs_per_s"],
        "pipeline, cold": found["pipeline_cold_msgs_per_s"],
        **found["peers"],
        **{
            f"scheduler, {_words(drained['settings'])}": drained["msgs_per_s"]
            for drained in found["dag_drain_by_settings"]
        },
        "scheduler, nobody triggers": found["dag_catch_up_msgs_per_s"],
    }
    for name, rate in rows.items():
        if rate is not None:
            table.add_row(name, f"{rate:,}", f"{rate / ceiling:.2f}" if ceiling else "-")
    return table


def _words(settings: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"


def _stages(found: Mapping[str, Any]) -> Table:
    table = Table("stage", "share warm", "share steady", "share cold", "peak RSS of its task", title="Stages")
    states, peaks = [found[f"stage_shares_{state}"] for state in ("warm", "steady", "cold")], found["peak_rss_mb"]
    for stage in dict.fromkeys([*states[0], *peaks]):
        memory = f"{peaks[stage]} MB" if stage in peaks else "-"
        table.add_row(stage, *(f"{shares[stage]:.1%}" if stage in shares else "-" for shares in states), memory)
    return table


def _processor_time(found: Mapping[str, Any]) -> Table:
    table = Table("us of processor time per message", "its thread", "other threads", "the broker", title="Who works")
    rows: dict[str, dict[str, float]] = found["processor_us_per_message"]
    for name, parts in rows.items():
        table.add_row(name, *(f"{part:.2f}" for part in parts.values()))
    stages = [parts for name, parts in rows.items() if name != "pass-through"]
    if stages:
        table.add_row(
            "all stages, warm", *(f"{sum(column):.2f}" for column in zip(*(s.values() for s in stages), strict=True))
        )
    return table


def _hits(found: Mapping[str, Any]) -> Table:
    table = Table("cache", "cold", "the data allows", "warm", title=f"Hit rates: {found['hit_rate_data']}")
    for name in REGISTRY.by_name if found["hit_rate_data"] else ():
        rates = (found[key][name] for key in ("hit_rate_cold", "hit_rate_allowed", "hit_rate_warm"))
        table.add_row(name, *(f"{rate:.2%}" for rate in rates))
    return table


def _goals(found: Mapping[str, Any]) -> Table:
    table = Table("goal", "measured", "met", title="Goals")
    for goal, measured, met in goals(found):
        table.add_row(goal, measured, "[green]yes[/]" if met else "[red]no[/]")
    return table
