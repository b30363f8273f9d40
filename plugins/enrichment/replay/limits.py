"""Whether the topics of a replay still take messages of its window's time."""

from __future__ import annotations

import time

from enrichment.errors import ReplayRefused
from enrichment.kafka.clients import Clients
from enrichment.kafka.limits import topic_limits
from enrichment.kafka.times import to_text
from enrichment.messages import Purpose, Window


def check_times(clients: Clients, purpose: Purpose, window: Window) -> None:
    """Raise `ReplayRefused` when a topic takes no messages as old as the window's: each would be a dead letter."""
    now = int(time.time() * 1000)
    for limits in topic_limits(clients, purpose.output_topic, purpose.dlq_topic):
        oldest = now - limits.max_age_ms
        if window.start < oldest:
            raise ReplayRefused(
                f"{limits.topic} takes no messages from before {to_text(oldest)} (message.timestamp.before.max.ms="
                f"{limits.max_age_ms}), and the window begins at {to_text(window.start)}. Let it take them: "
                f"kafka-configs.sh --bootstrap-server <brokers> --entity-type topics --entity-name {limits.topic} "
                f"--alter --add-config message.timestamp.before.max.ms={2**63 - 1}"
            )
