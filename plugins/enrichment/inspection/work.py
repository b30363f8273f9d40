"""A piece of work in, the JSON that a browser gets for it out. What a kind of work needs is imported with its first."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, assert_never

from enrichment.inspection.asked import (
    Browse,
    Conservation,
    Preview,
    RecentDead,
    Search,
    WasRedriven,
    Whole,
    Work,
)
from enrichment.kafka.clients import Clients
from enrichment.resources import Resources

DEAD_LETTERS_SECONDS = 5.0  # that a broker has for an answer: somebody is looking on


def do(r: Resources, work: Work, stopped: Callable[[], bool]) -> Any:
    """Do it; the result is a struct. Raises `NotShown`, `KafkaException`, `psycopg.Error`, and `EnrichmentError` where
    a setting is wrong or messages have left their topic."""
    match work:
        case Browse() | Search() | Whole():
            return _look(r, work, stopped)
        case WasRedriven():
            from enrichment.inspection.redrives import redriven

            return redriven(r, work)
        case Preview():
            from enrichment.inspection.given import given
            from enrichment.inspection.preview import preview

            return preview(r, given(r, work), lambda: datetime.now(UTC))
        case RecentDead():
            from enrichment.dead_letters.recent import Reach, look_at_recent

            kafka = r.settings.kafka
            hurried = {"request_timeout_sec": min(DEAD_LETTERS_SECONDS, kafka.request_timeout_sec)}
            return look_at_recent(Clients(r.kafka_config(), kafka.model_copy(update=hurried)), Reach())
        case Conservation():
            from enrichment.conservation.one_batch import check_batch

            topics = r.clients.for_batch(work.batch).settings
            return check_batch(
                r.kafka_config(), work.batch, work.claimed_at, topics.output_topic, topics.dlq_topic,
                redriven_topic=topics.redriven_topic if work.has_dead_letters else None,
            )  # fmt: skip
        case _:
            assert_never(work)


def _look(r: Resources, work: Browse | Search | Whole, stopped: Callable[[], bool]) -> Any:
    from enrichment.inspection.browsing import browse, search, whole

    match work:
        case Browse():
            return browse(r, work, stopped)
        case Search():
            return search(r, work, stopped)
        case Whole():
            return whole(r, work)
        case _:
            assert_never(work)
