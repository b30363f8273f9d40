"""The arguments with which commands are told of the brokers."""

from __future__ import annotations

import argparse


def add_brokers(parser: argparse.ArgumentParser) -> None:
    """Where the brokers are, and how to connect."""
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument(
        "--client",
        metavar="NAME=VALUE",
        type=_option,
        action="append",
        default=[],
        help="an option of librdkafka, such as security.protocol=SSL; may be repeated",
    )


def brokers(chosen: argparse.Namespace) -> dict[str, str]:
    """What was chosen, as options of librdkafka."""
    return dict(chosen.client) | {"bootstrap.servers": chosen.bootstrap_servers}


def _option(text: str) -> tuple[str, str]:
    name, value = text.split("=", 1)
    return name, value
