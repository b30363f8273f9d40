"""Publishing alone: what it costs to say a message's origin, in one header or in a header for each part of it.

`PYTHONPATH=plugins:. .venv/bin/python -m benchmarks.headers` passes a backlog on in bulk, on servers of its own, and
prints a table. Rounds take turns, medians count.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import cache
from statistics import median

import msgspec
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.alone import alone
from benchmarks.backlog import fill
from benchmarks.cores import Used, used
from benchmarks.passthrough import pass_through_in_bulk
from benchmarks.stand import Stand, environment, remove, services
from enrichment.codec.headers import FORMER_ORIGIN, origin_header
from enrichment.codec.records import MESSAGE_SCHEMA, Chunk, Header, pack_headers
from enrichment.messages import MessageOrigin
from enrichment.settings import Settings
from include.local.steps import Steps

MESSAGES, ROUNDS = 500_000, 5
# The same for all messages, so that the making of headers is no part of what is measured.
ORIGIN = MessageOrigin(
    "stacklens-enriched", 3, "stacklens_enrichment/scheduled__2026-12-01T03:18:00+00:00/0", 1_234_567
)
OWN: list[Header] = [("tenant", b"acme")]
PARTS: list[Header] = [
    (name, str(part).encode()) for name, part in zip(FORMER_ORIGIN, msgspec.structs.astuple(ORIGIN), strict=True)
]
KINDS: dict[str, list[Header]] = {
    "no origin": OWN,
    "one header": [*OWN, origin_header(ORIGIN)],
    "four headers": [*OWN, *PARTS],
}


@cache
def column_of(kind: str, rows: int) -> pa.Array:
    """The headers of so many messages."""
    return pa.array([pack_headers(KINDS[kind])] * rows, pa.binary())


def publish(stand: Stand, settings: Settings, kind: str) -> tuple[float, Used]:
    """Pass the backlog on with these headers; the seconds, and who worked."""

    def changed(chunk: Chunk) -> Chunk:
        column = column_of(kind, len(chunk))
        return Chunk(chunk.columns.set_column(MESSAGE_SCHEMA.get_field_index("headers"), "headers", column))

    before = used(stand.broker_pid)
    return pass_through_in_bulk(stand, settings, changed), used(stand.broker_pid).minus(before)


def main() -> int:
    """Measure and print."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environ, console = environment(os.environ), Console()
    seen: dict[str, list[tuple[float, Used]]] = {kind: [] for kind in KINDS}
    with Steps(console) as steps:
        remove(environ)
        with services(environ, steps) as empty:
            stand, _ = fill(empty, MESSAGES)
            for number in range(ROUNDS + 1):
                for kind, runs in seen.items():
                    with stand.outputs(f"{kind.replace(' ', '-')}-{number}") as settings:
                        runs.append(alone(publish, stand, settings, kind))
        remove(environ)
    table = Table("us per message", "in all", "its thread", "other threads", "the broker")
    for kind, runs in seen.items():
        parts = [(seconds, *who) for seconds, who in runs[1:]]  # the first round warms the broker
        table.add_row(kind, *(f"{median(part) / MESSAGES * 1e6:.2f}" for part in zip(*parts, strict=True)))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
