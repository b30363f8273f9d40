"""Hit rates of the three caches on a file of log messages, with the settings as they are: cold, and in a later run."""

from __future__ import annotations

from typing import Any

from benchmarks.backlog import Seen
from benchmarks.stages import drain_backlog
from benchmarks.stand import Stand
from enrichment.enrichers.registry import REGISTRY
from include.local.config import ROOT
from include.local.generate import Options, messages
from include.local.records import play_file, produce

WEB_ACCESS = ROOT.parent / "shared" / "data" / "web-access.jsonl.gz"
GENERATED = 10_000


def hit_rates(stand: Stand) -> dict[str, Any]:
    """Rates by cache, of the messages that have the key: `cold`, `warm`, and what one pass over the data `allows`."""
    seen = Seen()
    known = WEB_ACCESS.exists()
    # Their own times are years old: the broker would delete them.
    records = play_file(WEB_ACCESS, keep_times=False) if known else messages(Options(count=GENERATED))
    other = stand.with_topic("bench-hits")
    count = produce(seen.watch(records), other.bootstrap_servers, other.settings.kafka.input_topic)
    other = other.with_backlog()
    other.empty_caches()
    return {
        "data": WEB_ACCESS.name if known else "generated messages",
        "messages": count,
        "allowed": {
            name: 1 - len(seen.distinct[key]) / max(1, seen.messages[key])
            for name, key in ((e.name, e.key) for e in REGISTRY.enrichers)
        },
        "cold": _rates(other, "hits-cold"),
        "warm": _rates(other, "hits-warm"),
    }


def _rates(stand: Stand, name: str) -> dict[str, float | None]:
    with stand.outputs(name) as settings:
        done, _ = drain_backlog(stand, settings, name)
    return {lookup: done.counts[lookup].hit_rate for lookup in REGISTRY.by_name}
