"""What is known of a moment in, a verdict out: healthy, degraded or down, and why, in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from urllib.parse import urlencode

import msgspec

from enrichment.errors import SettingsError
from enrichment.health.now import RECENT, Now, UnfinishedBatch
from enrichment.health.remedies import (
    ANSWERS_AGAIN,
    RUN_NOW,
    SET_RIGHT,
    STANDS_STILL,
    TAKEN_AGAIN,
    TRIED_AGAIN,
    Remedy,
    of_breach,
    of_breaker,
    of_lateness,
    repair_of,
)
from enrichment.settings import ServiceLevelSettings

# Runs start at least once a minute, and a try that failed comes again within another.
STALLED = timedelta(minutes=3)


class Health(StrEnum):
    """`DOWN`: messages are not enriched. `DEGRADED`: they are, later or with less than they should have."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it should be, and what helps.

    `tab` is where the page shows more of it. Where a batch is the matter, `dag_id` and `run_id` name its run, and
    `label` its square there."""

    health: Health
    text: str
    remedies: list[Remedy]
    tab: str = ""
    dag_id: str = ""
    run_id: str = ""
    label: str = ""


class HealthVerdict(msgspec.Struct, frozen=True):
    """The worst of what was found, a sentence, and the findings, the worst first."""

    health: Health
    summary: str
    findings: list[Finding]


def judge(now: Now, levels: ServiceLevelSettings) -> HealthVerdict:
    """The verdict on a moment."""
    found = sorted(_findings(now, levels), key=lambda finding: finding.health is not Health.DOWN)
    if not found:
        return HealthVerdict(Health.HEALTHY, _good_news(now), [])
    others = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return HealthVerdict(found[0].health, f"{found[0].text}{others}", found)


def _findings(now: Now, levels: ServiceLevelSettings) -> Iterator[Finding]:
    if now.kafka_error:
        yield Finding(Health.DOWN, f"the brokers do not say what waits: {now.kafka_error}", [ANSWERS_AGAIN])
    yield from _waiting_too_long(now, levels)
    for batch in now.unfinished:
        of = f"batch {batch.batch_id} of lane {batch.lane}"
        if batch.state == "failed":
            others = f" like {batch.alike - 1:,} before it" if batch.alike > 1 else ""
            text = f"{of} has failed{others}, and its lane waits: {batch.error or 'its task log says why'}"
            yield _of_batch(Health.DOWN, text, batch, [TAKEN_AGAIN, RUN_NOW])
        elif batch.error and batch.alike > 1:
            text = f"{of} fails like {batch.alike - 1:,} before it, and its lane waits: {batch.error}"
            yield _of_batch(Health.DOWN, text, batch, [STANDS_STILL])
        elif batch.error:
            text = f"{of} is tried again, it failed {batch.attempts} times: {batch.error}"
            yield _of_batch(Health.DEGRADED, text, batch, [TRIED_AGAIN])
    for breach in now.recent.breaches:
        text = f"in the last {RECENT.total_seconds() / 60:.0f} minutes {breach}"
        yield Finding(Health.DEGRADED, text, of_breach(breach, now.recent, now.at))
    for breaker in now.breakers:
        since = "" if breaker.opened_at is None else f" for {_duration(now.at - breaker.opened_at)}"
        text = f"{breaker.name} is not asked, its circuit breaker is {breaker.state}{since}"
        yield Finding(Health.DEGRADED, text, of_breaker(breaker))
    for pending in now.pending:
        text = f"{pending.messages:,} published messages lack {pending.source} until they are repaired"
        text = f"{text}, since {_duration(now.at - pending.since)}"
        yield Finding(Health.DEGRADED, text, [repair_of(pending.source)])


def _of_batch(health: Health, text: str, batch: UnfinishedBatch, remedies: list[Remedy]) -> Finding:
    tab = f"batch?{urlencode({'id': batch.batch_id})}"
    return Finding(health, text, remedies, tab, batch.dag_id, batch.run_id, batch.label)


def _waiting_too_long(now: Now, levels: ServiceLevelSettings) -> Iterator[Finding]:
    """A message may be older than its stay in the topic: what counts is whether anything moves."""
    if not now.waiting or now.oldest_at is None:
        return
    age = now.at - now.oldest_at
    still = None if now.last is None else now.at - now.last.published_at
    waits = f"{now.waiting:,} messages wait, the oldest is of {_duration(age)} ago"
    if age > STALLED and (still is None or still > STALLED):
        moved = "nothing was ever published" if still is None else f"nothing was published for {_duration(still)}"
        yield Finding(Health.DOWN, f"{waits}, and {moved}", [RUN_NOW])
    elif age.total_seconds() > levels.max_freshness_sec:
        yield Finding(Health.DEGRADED, f"{waits}: more than {levels.max_freshness_sec:,.0f} s", of_lateness())


def _good_news(now: Now) -> str:
    recent, minutes = now.recent, f"{RECENT.total_seconds() / 60:.0f} minutes"
    if recent.messages:
        share = "" if recent.fully_enriched is None else f", {recent.fully_enriched:.1%} fully enriched"
        return f"{recent.messages:,} messages in the last {minutes}{share}"
    if now.last is None:
        waits = f"{now.waiting:,} messages wait for the first run" if now.waiting else "nothing has come in"
        return f"nothing was published yet; {waits}"
    ago = _duration(now.at - now.last.published_at)
    waits = f"{now.waiting:,} messages wait" if now.waiting else "nothing waits"
    return f"{waits}; the last batch was published {ago} ago"


def _duration(time: timedelta) -> str:
    """In the largest unit of which there are two."""
    seconds = max(0.0, time.total_seconds())
    for unit, name in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.0f} s"


def unknown(failed: Exception) -> HealthVerdict:
    """The verdict where neither ledger nor figures can be read: a setting is wrong, or the database does not answer."""
    is_setting = isinstance(failed, SettingsError)
    what = "a setting is wrong" if is_setting else "PostgreSQL does not answer"
    finding = Finding(Health.DOWN, f"{what}: {str(failed).strip()}", [SET_RIGHT if is_setting else ANSWERS_AGAIN])
    return HealthVerdict(Health.DOWN, finding.text, [finding])
