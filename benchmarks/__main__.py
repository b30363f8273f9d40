"""Measure the pipeline on the real Kafka: `make bench`, or `python -m benchmarks --only pipeline --messages 200000`.

Starts a local stack of its own beside that of `make run` and stops it whatever happens. Prints tables and writes
`benchmarks/results/latest.json`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial

from confluent_kafka import KafkaException
from rich.console import Console

from benchmarks import report
from benchmarks.alone import alone, measure_loop
from benchmarks.backlog import Seen, fill, multiply
from benchmarks.freshness import measure_freshness
from benchmarks.growth import measure_growth
from benchmarks.hits import hit_rates
from benchmarks.hops import measure_hops
from benchmarks.loop import PEERS
from benchmarks.page import measure_page
from benchmarks.passthrough import pass_through, pass_through_in_bulk
from benchmarks.report import Results
from benchmarks.same_work import check_same_work
from benchmarks.scheduler import catch_up, drain_through_scheduler, move_group, variants
from benchmarks.stages import Pass, drain_backlog
from benchmarks.stand import Stand, environment, remove, services
from enrichment.errors import EnrichmentError
from enrichment.messages import REQUEST_ID
from enrichment.settings import Settings
from include.local.errors import StackError
from include.local.steps import Steps

PARTS = ("passthrough", "pipeline", "peers", "dag", "catch-up", "hits", "hops", "freshness", "growth", "page")
WITHOUT_BACKLOG = ("hops", "freshness", "growth", "page")  # these bring their own messages
CATCH_UP_TIMES = 4  # as large as the backlog is what nobody triggers for


def main() -> int:
    """Measure what is asked for; returns the exit code: 0 done, 1 something is in the way, 130 interrupted."""
    chosen = _parse()
    console = Console(soft_wrap=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: what was started is stopped
    try:
        environ = environment(os.environ)
        with Steps(console) as steps:
            remove(environ)
            found = report.summary(_measure(chosen, environ, steps, console))
            remove(environ)
    except (StackError, EnrichmentError, KafkaException) as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted", style="bold red")
        return 130
    report.show(found, console)
    console.print(f"\nWritten to {report.write(found)}", highlight=False)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000, help="in the backlog (default %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=3, help="passes of each kind; medians count (default %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="of steady load for freshness (default %(default)g)"
    )
    parser.add_argument(
        "--searching", type=int, default=0, help="people who search beside that load (default %(default)s)"
    )
    parser.add_argument("--only", default=",".join(PARTS), help="some of %(default)s")
    chosen = parser.parse_args()
    chosen.only = chosen.only.split(",")
    if unknown := set(chosen.only) - set(PARTS):
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    if min(chosen.messages, chosen.repeat) < 1:
        parser.error("--messages and --repeat must be at least 1")
    if chosen.searching < 0:
        parser.error("--searching must be at least 0")
    return chosen


def _measure(chosen: argparse.Namespace, environ: Mapping[str, str], steps: Steps, console: Console) -> Results:
    results = Results(chosen.messages, chosen.repeat)
    if set(chosen.only) - set(WITHOUT_BACKLOG):
        _measure_backlog(chosen, environ, steps, console, results)
    if "hops" in chosen.only:
        results.hops = measure_hops(environ, chosen.repeat, steps, console)
    if "freshness" in chosen.only:
        results.freshness = measure_freshness(environ, chosen.minutes, chosen.searching, steps, console)
    if "growth" in chosen.only:
        results.growth = measure_growth(environ, steps, console)
    if "page" in chosen.only:
        results.page = measure_page(environ, chosen.repeat, steps, console)
    return results


def _measure_backlog(
    chosen: argparse.Namespace, environ: Mapping[str, str], steps: Steps, console: Console, results: Results
) -> None:
    with services(environ, steps) as empty:
        stand, seen = fill(empty, chosen.messages)
        contestants = _contestants(chosen.only, stand, seen, results, steps)
        with steps.step("a first pass, to warm the broker"), stand.outputs("first") as settings:
            pass_through(stand, settings)
        for number in range(chosen.repeat):
            # One of each kind in turn, so that what else the machine does hits all alike.
            for name, run in contestants.items():
                with stand.outputs(f"{name}-{number}") as settings:
                    seconds = run(settings, f"{name}-{number}")
                console.print(f"  {name:<24} {stand.messages / seconds:>10,.0f} messages/s", highlight=False)
        if "hits" in chosen.only:
            with steps.step("hit rates"):
                results.hits = alone(hit_rates, stand)
        move_group(stand, stand.backlog)  # so that nothing is there to do when the scheduler comes up
    for own in variants(stand) if "dag" in chosen.only else ():
        results.scheduler.append(drain_through_scheduler(stand, environ, own, chosen.repeat, steps, console))
    if "catch-up" in chosen.only:
        with services(environ, steps):
            whole = multiply(stand, CATCH_UP_TIMES)
            move_group(whole, whole.backlog)
        results.catch_up_messages = whole.messages
        results.catch_up = catch_up(whole, environ, chosen.repeat, steps, console)


def _contestants(
    only: list[str], stand: Stand, seen: Seen, results: Results, steps: Steps
) -> dict[str, Callable[[Settings, str], float]]:
    """What is measured beside each other: each goes through the backlog once and returns its seconds."""
    found: dict[str, Callable[[Settings, str], float]] = {}
    if "passthrough" in only:
        found["passthrough"] = lambda settings, _: _passthrough(stand, settings, results)
        found["passthrough_bulk"] = lambda settings, _: _note(
            results.passthrough_bulk, alone(pass_through_in_bulk, stand, settings)
        )
    if "pipeline" in only:
        found["pipeline_cold"] = lambda settings, run: _emptied(stand, settings, run, results.cold)
        found["pipeline_steady"] = lambda settings, run: _emptied(stand, settings, run, results.steady, REQUEST_ID)
        found["pipeline_warm"] = lambda settings, run: _pass(stand, settings, run, results.warm)
    if "peers" in only:
        if "pipeline" not in only:
            with steps.step("filling the cache tables"), stand.outputs("filling") as settings:
                alone(drain_backlog, stand, settings, "filling")
        with steps.step("do the loops do the same work"):
            alone(check_same_work, stand, seen)
        results.peers = {name: [] for name in PEERS}
        found |= {name: partial(_loop, stand, seen, name, results) for name in PEERS}
    return found


def _note(kept: list[float], seconds: float) -> float:
    kept.append(seconds)
    return seconds


def _passthrough(stand: Stand, settings: Settings, results: Results) -> float:
    seconds, used = alone(pass_through, stand, settings)
    results.passthrough_used.append(used)
    return _note(results.passthrough, seconds)


def _emptied(stand: Stand, settings: Settings, run: str, kept: list[Pass], key: str | None = None) -> float:
    stand.empty_caches(key)
    return _pass(stand, settings, run, kept)


def _pass(stand: Stand, settings: Settings, run: str, kept: list[Pass]) -> float:
    done, _ = alone(drain_backlog, stand, settings, run)
    kept.append(done)
    return done.seconds


def _loop(stand: Stand, seen: Seen, name: str, results: Results, settings: Settings, _: str) -> float:
    return _note(results.peers[name], alone(measure_loop, stand, settings, seen, name))


if __name__ == "__main__":
    sys.exit(main())
