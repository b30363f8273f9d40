"""The command-line arguments that name the brokers."""

from __future__ import annotations

import argparse
from typing import Any

from enrichment.settings import KafkaSettings


def add_brokers(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the brokers' addresses and how to connect."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--bootstrap-servers")
    where.add_argument("--connection", action="store_true", help="as the tasks do: by Airflow's connection")
    parser.add_argument(
        "--client",
        metavar="NAME=VALUE",
        type=_option,
        action="append",
        default=[],
        help="an option of librdkafka, such as security.protocol=SSL; may be repeated",
    )


def brokers(chosen: argparse.Namespace, settings: KafkaSettings) -> dict[str, Any]:
    """The chosen brokers as options of librdkafka. Raises `SettingsError` for an unusable connection."""
    options = dict(chosen.client)
    if chosen.connection:
        from enrichment.sources.airflow_connections import kafka_config  # Airflow is needed only here

        return kafka_config(settings.conn_id) | options
    return options | {"bootstrap.servers": chosen.bootstrap_servers}


def _option(text: str) -> tuple[str, str]:
    name, is_given, value = text.partition("=")
    if not (name and is_given):
        raise argparse.ArgumentTypeError(f"{text!r} is no option with a value, such as security.protocol=SSL")
    return name, value
