"""Something that is the matter in, what helps out: in words, as a tab of the page, and as a DAG with its parameters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from enrichment.dead_letters.reasons import SAME_AGAIN, all_reasons, rule_of
from enrichment.enrichers.registry import REGISTRY
from enrichment.health.now import RECENT, OpenBreaker, Recent
from enrichment.rollup.service_levels import KEYLESS, Breach, Level

LIVE_DAG, REPAIR_DAG, REDRIVE_DAG = "stacklens_enrichment", "stacklens_repair", "stacklens_dlq_redrive"


class Remedy(msgspec.Struct, frozen=True):
    """A way on. Where a run of a DAG helps, `dag_id` names it and `conf` has the parameters that are not as the DAG
    presets them; `tab` is where the page shows more. Either may be empty."""

    text: str
    dag_id: str = ""
    conf: dict[str, Any] = {}
    tab: str = ""


RUN_NOW = Remedy(
    "The next run takes what waits; one can be started now. Where runs fail, their log says why.", LIVE_DAG
)
TAKEN_AGAIN = Remedy(
    "Its log says what is wrong; where that is a topic or a setting, mend it. The next runs take its messages again, "
    "fewer at a time, until the one at fault is alone and becomes a dead letter. Nothing needs to be cleared."
)
STANDS_STILL = Remedy(
    "The logs of these runs say where. Once the cause is gone, the next run takes the messages; nothing needs to be "
    "cleared."
)
TRIED_AGAIN = Remedy("Its run tries it again by itself; when that has ended, the next run takes its messages.")
ANSWERS_AGAIN = Remedy("Runs fail meanwhile, which loses nothing: once there is an answer, the next one goes on.")
SET_RIGHT = Remedy("Set it right for all of Airflow's components, and restart them: then the next run goes on.")


def repair_of(source: str) -> Remedy:
    """What publishes corrections of the messages that lack a source."""
    text = f"{REPAIR_DAG} corrects them by itself once {source} answers, or now."
    return Remedy(text, REPAIR_DAG, {"source": source}, "partials")


def of_breaker(breaker: OpenBreaker) -> list[Remedy]:
    """A breaker that is not closed. Its name begins with that of its source."""
    source = breaker.name.partition(" ")[0]
    closing = "Mend what answers there: the breaker closes by itself with the first good answers."
    return [Remedy(closing), *([repair_of(source)] if source in REGISTRY.by_source else [])]


def of_breach(breach: Breach, recent: Recent, at: datetime) -> list[Remedy]:
    """A service level that the last minutes miss."""
    if breach.level.startswith(KEYLESS):
        text = "Often a producer has another name for that field: the messages show which one."
        return [Remedy(text, tab="messages")]
    return OF_LEVEL[Level(breach.level)](recent, at)


def _of_errors(recent: Recent, at: datetime) -> list[Remedy]:
    """Dead letters are redriven, partial messages repaired: what of both there is."""
    dead, all_bad = recent.dead_letter_rate or 0.0, recent.error_rate or 0.0
    remedies = []
    if dead:
        since = (at - RECENT).replace(second=0, microsecond=0).isoformat().replace("+00:00", "Z")
        found = [reason for reason in all_reasons() if reason in recent.errors_by_reason]
        hopeful = [reason for reason in found if rule_of(reason) is not SAME_AGAIN]
        if hopeful or not found:
            text = "Once the cause of the dead letters is gone, send them in again; a dry run first counts them."
            conf = {"reasons": hopeful, "since": since, "dry_run": True}
            remedies.append(Remedy(text, REDRIVE_DAG, conf, "dead-letters"))
        if len(hopeful) < len(found):
            at_fault = "Messages that are at fault themselves fail again as they are: tell who produces them."
            remedies.append(Remedy(at_fault, tab="dead-letters"))
    if all_bad > dead:
        unknown = "The partial ones have keys that their sources do not know: tell the owners of these."
        remedies += [repair_of(source) for source in _failing(recent)] or [Remedy(unknown, tab="content")]
    return remedies


def _failing(recent: Recent) -> list[str]:
    """The sources that could not be asked in these minutes."""
    found = (source for reason, source in REGISTRY.outages.items() if reason in recent.errors_by_reason)
    return list(dict.fromkeys(found))


def of_lateness(*_: Any) -> list[Remedy]:
    """Messages that are enriched, but late."""
    text = "A batch has the seconds of each of its stages: the slowest one says what holds it up."
    return [RUN_NOW, Remedy(text, tab="batches?kind=live")]


def _of_hits(*_: Any) -> list[Remedy]:
    text = "Emptied caches fill by themselves. Otherwise they are too small, or their answers live too short."
    return [Remedy(text, tab="history?range=24h")]


OF_LEVEL: dict[Level, Callable[[Recent, datetime], list[Remedy]]] = {
    Level.HIT_RATE: _of_hits,
    Level.ERROR_RATE: _of_errors,
    Level.FRESHNESS: of_lateness,
    Level.LAG: of_lateness,
}
