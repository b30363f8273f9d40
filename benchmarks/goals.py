"""What the figures are to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.freshness import RATE
from enrichment.enrichers.registry import REGISTRY

PEAK_MB = 400
FIRST_SECONDS = 5
FRESHNESS_GOALS = {"p50": 2, "p99": 5}
IDLE_SECONDS = 15  # of processor time
HOP_GOALS = {"0": 0.6, "1000": 1.5, "10000": 2.0}  # seconds from the trigger to the commit


def goals(found: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """The goals of which all figures were measured: what is to be, what is, and whether it is met."""
    return [*_rate_goals(found), *_memory_goals(found), *_time_goals(found), *_hit_goals(found)]


Goals = Iterator[tuple[str, str, bool]]


def _rate_goals(found: Mapping[str, Any]) -> Goals:
    ceiling, warm = found["passthrough_msgs_per_s"], found["pipeline_warm_msgs_per_s"]
    for state, share in (("warm", 0.5), ("cold", 0.35)):
        rate = found[f"pipeline_{state}_msgs_per_s"]
        if rate and ceiling:
            yield f"{state} at least {share} of pass-through", f"{rate / ceiling:.2f}", rate >= share * ceiling
    if not warm:
        return
    for name, loop in found["peers"].items():
        yield f"warm at least twice {name}", f"{warm / loop:.2f}", warm >= 2 * loop
    by_defaults = (d["msgs_per_s"] for d in found["dag_drain_by_settings"] if not d["settings"])
    through = {
        "best of the scheduler": (0.7, found["dag_drain_msgs_per_s"]),
        "scheduler with defaults": (0.6, next(by_defaults, None)),
        "nobody triggers": (0.6, found["dag_catch_up_msgs_per_s"]),
    }
    for name, (share, rate) in through.items():
        if rate:
            yield f"{name} at least {share} of warm", f"{rate / warm:.2f}", rate >= share * warm


def _memory_goals(found: Mapping[str, Any]) -> Goals:
    largest = max([*found["peak_rss_mb"].values(), *(row["peak_rss_mb"] for row in found["growth"])], default=0)
    if largest:
        yield f"no task above {PEAK_MB} MB", f"{largest} MB", largest <= PEAK_MB


def _time_goals(found: Mapping[str, Any]) -> Goals:
    hops = found["hops"]
    for size, seconds in HOP_GOALS.items() if hops else ():
        took = hops[size]["to_commit_s"]
        yield f"{int(size):,} messages within {seconds} s of the trigger", f"{took} s", took <= seconds
    if hops:
        slowest = hops["first_run_slowest_task_s"]
        yield f"no task of the first run above {FIRST_SECONDS} s", f"{slowest} s", slowest <= FIRST_SECONDS
    if found["freshness_p50_s"] is not None:
        for name, seconds in FRESHNESS_GOALS.items():
            took = found[f"freshness_{name}_s"]
            yield f"{name} within {seconds} s at {RATE:,} messages/s", f"{took} s", took <= seconds
        idle = sum(found["idle_minute_processor_s"].values())
        yield f"an idle minute costs at most {IDLE_SECONDS} s", f"{idle:.1f} s", idle <= IDLE_SECONDS


def _hit_goals(found: Mapping[str, Any]) -> Goals:
    if found["hit_rate_data"]:
        cold, allowed, warm = (found[f"hit_rate_{name}"] for name in ("cold", "allowed", "warm"))
        gap = max(abs(allowed[name] - cold[name]) for name in REGISTRY.by_name)
        yield "cold hits within 1 point of the data's", f"{100 * gap:.2f} points", gap <= 0.01
        lowest = min(warm[name] for name in REGISTRY.by_name)
        yield "warm hits at least 95 %", f"{lowest:.1%}", lowest >= 0.95
