"""See and change the group of live draining, from a shell: `python -m enrichment.group --help`.

Topic, group and lanes are those of the settings unless they are named.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import psycopg
from confluent_kafka import KafkaException
from psycopg.conninfo import conninfo_to_dict

from enrichment.errors import EnrichmentError
from enrichment.group.accept import accept_offsets
from enrichment.group.lanes import change
from enrichment.kafka.clients import Clients
from enrichment.kafka.command_line import add_brokers, brokers
from enrichment.kafka.offsets import input_partitions, read_backlog
from enrichment.kafka.topics import read_topic_id
from enrichment.settings import Settings, load
from enrichment.settings.kafka import MOST_LANES
from enrichment.store.connections import Connections
from enrichment.store.jobs import Ledger


def placed(text: str) -> tuple[int, int]:
    """`partition=offset`. Raises `ArgumentTypeError`."""
    try:
        partition, offset = map(int, text.split("="))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no PARTITION=OFFSET, such as 0=1200") from None
    return partition, offset


def lane_count(text: str) -> int:
    """A number of lanes. Raises `ArgumentTypeError`."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST_LANES:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lanes from 1 to {MOST_LANES:,}")
    return int(text)


def status(clients: Clients, ledger: Ledger, _chosen: argparse.Namespace) -> None:
    """Say where the group is, where it should be, and how it was moved other than by publishing."""
    settings = clients.settings
    topic, group_id = settings.input_topic, settings.consumer_group
    lanes, known = ledger.lanes.get(group_id), ledger.positions.get(topic, group_id)
    in_force = (
        f"{lanes.lanes}{f', being changed to {lanes.changing_to}' * bool(lanes.changing_to)}"
        if lanes
        else "not recorded"
    )
    say(f"topic {topic} (id {read_topic_id(clients, topic)}), group {group_id}, lanes: {in_force}")
    # Not held back by an open transaction, and without taking over a lane.
    with clients.offsets_reader("read_uncommitted") as reader:
        backlog = read_backlog(reader, clients.admin(), topic, settings.request_timeout_sec)
    for b in backlog:
        by = f", published by {b.stamp.batch_id}" if b.stamp is not None else ""
        position = known.get(b.partition)
        recorded = f"{position.next_offset} (topic id {position.topic_id})" if position is not None else "nothing"
        say(f"partition {b.partition}: log {b.low} to {b.high}, group at {b.committed}{by}, recorded {recorded}")
    for move in ledger.positions.moves(topic, group_id):
        say(
            f"{move.moved_at:%Y-%m-%d %H:%M:%S%z} {move.reason} by {move.moved_by}: partition {move.partition} from "
            f"{move.group_offset} to {move.moved_to}, {move.skipped} offsets left out"
        )


def accept(clients: Clients, ledger: Ledger, chosen: argparse.Namespace) -> None:
    """Move the group."""
    for move in accept_offsets(clients, ledger.positions, dict(chosen.offsets)):
        say(f"partition {move.partition}: from {move.group_offset} to {move.moved_to}, {move.skipped} offsets left out")


def set_lanes(clients: Clients, ledger: Ledger, chosen: argparse.Namespace) -> None:
    """Change the number of lanes."""
    settings = clients.settings
    group_id = settings.consumer_group
    with clients.offsets_reader() as reader:
        partitions = len(input_partitions(reader, settings.input_topic, settings.request_timeout_sec))
    before = change(clients, ledger.lanes, chosen.lanes, despite_open=chosen.despite_open_batches)
    if chosen.lanes > partitions:
        say(f"topic {settings.input_topic} has {partitions} partitions: the lanes from {partitions} on have none of it")
    say(
        f"group {group_id} is published in {chosen.lanes} lanes (before: {before.lanes if before else 'not recorded'})."
        f" Set KAFKA_LANES={chosen.lanes} on the DAG processor, the scheduler and all workers"
    )


def database(chosen: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """libpq's parameters of the StackLens database."""
    if chosen.connection and not chosen.database:
        from enrichment.sources.airflow_connections import database_parameters  # Airflow is needed only here

        return database_parameters(settings.pipeline.postgres_conn_id)
    return conninfo_to_dict(chosen.database)


def say(line: str) -> None:
    """Print a line for the person who ran the command."""
    sys.stdout.write(f"{line}\n")


def parse() -> argparse.Namespace:
    """The parsed arguments."""
    parser = argparse.ArgumentParser(prog="python -m enrichment.group", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    described: dict[str, tuple[Callable[..., None], str]] = {
        "status": (status, "say where the group is, where it should be, and how it was moved"),
        "accept-offsets": (accept, "have live draining go on at these offsets; what that leaves out is recorded"),
        "set-lanes": (set_lanes, "change the number of lanes of the group, while none of its batches is open"),
    }
    made = {}
    for name, (run, text) in described.items():
        made[name] = command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        add_brokers(command)
        command.add_argument(
            "--database",
            default="",
            help="of StackLens: postgresql://user@host:port/database; libpq's variables count; with --connection, "
            "Airflow's where none is named",
        )
        command.add_argument("--topic", help="(default: KAFKA_INPUT_TOPIC)")
        command.add_argument("--group", help="(default: KAFKA_CONSUMER_GROUP)")
    made["accept-offsets"].add_argument("offsets", metavar="PARTITION=OFFSET", type=placed, nargs="+")
    made["set-lanes"].add_argument("lanes", type=lane_count, metavar="LANES")
    made["set-lanes"].add_argument(
        "--despite-open-batches", action="store_true", help="give up open batches; their messages are claimed again"
    )
    return parser.parse_args()


def main() -> int:
    """Run a command; on an error, say in one line what was wrong and exit with 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    chosen = parse()
    try:
        settings = load()
        named = {"input_topic": chosen.topic, "consumer_group": chosen.group}
        kafka = settings.kafka.model_copy(update={name: value for name, value in named.items() if value})
        clients = Clients(brokers(chosen, kafka), kafka)
        connections = Connections(partial(database, chosen, settings), settings.postgres)
        with closing(connections):
            chosen.run(clients, Ledger(connections.ledger), chosen)
    except KafkaException as failed:
        sys.stderr.write(f"Kafka: {failed.args[0].str()}\n")
        return 1
    except (EnrichmentError, psycopg.Error) as failed:
        sys.stderr.write(f"{failed}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
