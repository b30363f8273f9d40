"""Messages into the input topic, and the keys in them that lookups need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from benchmarks.stand import Stand
from enrichment.enrichers.registry import REGISTRY
from include.local.generate import Options, messages
from include.local.progress import progress
from include.local.records import Record, produce

# One message in a thousand is malformed in one of the ways of `include.local.malform`, so that dead letters are in it.
MALFORMED = 0.001


_Keys = msgspec.defstruct("_Keys", [(name, str | None, None) for name in REGISTRY.keys])


@dataclass
class Seen:
    """The distinct keys of messages, and how many messages had each kind."""

    distinct: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in REGISTRY.keys})
    messages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REGISTRY.keys, 0))

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Pass records on and note their keys."""
        decode = msgspec.json.Decoder(_Keys).decode
        for record in records:
            with suppress(msgspec.MsgspecError, TypeError, RecursionError, UnicodeDecodeError):
                keys = decode(record.value or b"{}")
                for name in REGISTRY.keys:
                    if key := getattr(keys, name):
                        self.distinct[name].add(key)
                        self.messages[name] += 1
            yield record


def fill(stand: Stand, count: int) -> tuple[Stand, Seen]:
    """Fill the input topic with `count` generated messages; the same ones each time but for their times."""
    seen = Seen()
    records = seen.watch(messages(Options(count=count, malformed=MALFORMED)))
    with progress("Filling the backlog", count) as advance:
        produce(records, stand.bootstrap_servers, stand.settings.kafka.input_topic, advance=advance)
    return stand.with_backlog(), seen
