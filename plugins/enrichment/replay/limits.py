"""Whether the topics of a replay still take messages of its window's time."""

from __future__ import annotations

import logging

from enrichment.batch import Purpose, ReplayWindow
from enrichment.errors import EnrichmentError
from enrichment.kafka.clients import Clients
from enrichment.kafka.limits import topic_limits
from enrichment.kafka.retention import alter, now_in_milliseconds
from enrichment.kafka.times import to_text
from enrichment.kafka.topic_limits import FOREVER

log = logging.getLogger(__name__)


def check_times(
    clients: Clients, purpose: Purpose, window: ReplayWindow, refusal: type[EnrichmentError] | None
) -> None:
    """Raise `refusal` when a topic accepts no messages as old as the window's: each would be a dead letter. Without
    one, as in a dry run, this is only logged."""
    now = now_in_milliseconds()
    for limits in topic_limits(clients, purpose.output_topic, purpose.dlq_topic):
        oldest = now - limits.max_age_ms
        if window.start < oldest:
            text = (
                f"{limits.topic} takes no messages from before {to_text(oldest)} (message.timestamp.before.max.ms="
                f"{limits.max_age_ms}), and the window begins at {to_text(window.start)}. Let it take them: "
                f"{alter(limits.topic, {'message.timestamp.before.max.ms': FOREVER})}"
            )
            if refusal is not None:
                raise refusal(text)
            log.warning("replay.too_old %s", text)
