"""Messages into the input topic, and the keys in them that lookups need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from confluent_kafka import Producer

from benchmarks.stand import Stand
from enrichment.conservation.committed import read
from enrichment.enrichers.registry import REGISTRY
from include.local.generate import Options, messages
from include.local.progress import progress
from include.local.records import FLUSH_SECONDS, PRODUCING, Record, produce

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


def multiply(stand: Stand, times: int) -> Stand:
    """Append the backlog to itself until it is `times` as large: quicker than generating as many."""
    topic = stand.settings.kafka.input_topic
    producer = Producer({**PRODUCING, "bootstrap.servers": stand.bootstrap_servers})
    whole = times * stand.messages
    with progress("Multiplying the backlog", whole) as advance:
        for copy in range(1, times):
            with closing(read(stand.bootstrap_servers, topic, stand.backlog)) as originals:
                for number, message in enumerate(originals, copy * stand.messages):
                    if number % 1_000 == 0:
                        producer.flush(FLUSH_SECONDS)
                        advance(number)
                    producer.produce(
                        topic, message.value(), message.key(), message.partition() or 0,
                        timestamp=message.timestamp()[1], headers=cast(Any, message.headers()),
                    )  # fmt: skip
        producer.flush(FLUSH_SECONDS)
        advance(whole)
    return stand.with_backlog()
