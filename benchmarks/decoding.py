"""Decoding alone: what recognising flat messages saves, and what it costs where no message is flat.

`PYTHONPATH=plugins:. .venv/bin/python -m benchmarks.decoding` prints a table. Rounds take turns, the best of each
counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from enrichment.batches.drain import SLICE
from enrichment.codec.decode import decode
from enrichment.codec.flat import read_flat
from enrichment.codec.hot_loops import quiet_gc
from enrichment.enrichers.registry import REGISTRY
from enrichment.messages import Event
from include.local.generate import Options, messages

MESSAGES, ROUNDS = 100_000, 7


def typed_decode(column: pa.Array) -> dict[str, pa.Array]:
    """The keys of messages by a typed decode of each, as before flat messages were recognised; checks nothing else."""
    events = list(map(msgspec.json.Decoder(Event).decode, column.to_pylist()))
    return {name: pa.array([getattr(event, name) for event in events], pa.string()) for name in REGISTRY.keys}


def main() -> None:
    """Measure and print."""
    flat = [message.value for message in messages(Options(count=MESSAGES, malformed=0)) if message.value is not None]
    others = [value[:-1] + b',"extra":"text"}' for value in flat]
    runs: dict[str, tuple[Callable[[pa.Array], object], Sequence[pa.Array]]] = {
        "flat: typed decode": (typed_decode, _slices(flat)),
        "flat: recognised": (partial(decode, keys=REGISTRY.keys), _slices(flat)),
        "not flat: typed decode": (typed_decode, _slices(others)),
        "not flat: the attempt": (partial(read_flat, keys=REGISTRY.keys), _slices(others)),
        "not flat: all of it": (partial(decode, keys=REGISTRY.keys), _slices(others)),
    }
    best = dict.fromkeys(runs, float("inf"))
    with quiet_gc():
        for _ in range(ROUNDS):
            for name, (read, slices) in runs.items():
                start = time.perf_counter()
                for values in slices:
                    read(values)
                best[name] = min(best[name], time.perf_counter() - start)
    table = Table("decoding", "us/message")
    for name, seconds in best.items():
        table.add_row(name, f"{seconds / MESSAGES * 1e6:.2f}")
    Console().print(table)


def _slices(values: Sequence[bytes]) -> list[pa.Array]:
    return [pa.array(values[start : start + SLICE], pa.binary()) for start in range(0, len(values), SLICE)]


if __name__ == "__main__":
    main()
