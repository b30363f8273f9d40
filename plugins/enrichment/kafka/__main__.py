"""Create the topics that the pipeline needs, from a shell: `python -m enrichment.kafka --help`."""

from __future__ import annotations

import argparse
import sys

from confluent_kafka import KafkaError, KafkaException

from enrichment.errors import SettingsError, TopicRefused
from enrichment.kafka.clients import Clients
from enrichment.kafka.command_line import add_brokers, brokers
from enrichment.kafka.retention import unfit
from enrichment.kafka.topics import BROKERS_DEFAULT, PARTITIONS, count_partitions, create_topics
from enrichment.settings import load


def main() -> int:
    """Create the topics; on an error, say in one line what was wrong and exit with 1."""
    parser = argparse.ArgumentParser(
        prog="python -m enrichment.kafka",
        description="Create the topics that the settings name, with the sizes and the retention that "
        "they need; existing ones stay as they are, and a warning says which do not keep what goes into them.",
    )
    add_brokers(parser)
    parser.add_argument("--partitions", type=int, default=PARTITIONS, help="of each topic (default %(default)s)")
    parser.add_argument("--replication-factor", type=int, default=BROKERS_DEFAULT, help="(default: the broker's own)")
    chosen = parser.parse_args()
    unreachable: list[KafkaError] = []
    try:
        settings = load()
        # The client's own log has a line for each of its tries to connect, twenty a second.
        client = {"log_level": 0, "error_cb": unreachable.append, **brokers(chosen, settings.kafka)}
        there = create_topics(
            client,
            settings.kafka,
            settings.replay,
            partitions=chosen.partitions,
            replication_factor=chosen.replication_factor,
        )
        clients = Clients(client, settings.kafka)
        for topic, partitions in count_partitions(clients, there).items():
            if partitions != chosen.partitions:
                sys.stderr.write(f"topic {topic} exists, with {partitions} partitions, and stays as it is\n")
        for text in unfit(clients, there):
            sys.stderr.write(f"warning: {text}\n")
    except (SettingsError, TopicRefused) as failed:
        why = f" ({unreachable[-1].str()})" if unreachable else ""
        sys.stderr.write(f"{failed}{why}\n")
        return 1
    except KafkaException as silent:
        sys.stderr.write(f"Kafka does not tell about its topics: {silent.args[0]}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
