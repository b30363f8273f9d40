"""Proof that the loops are peers: they publish what the pipeline publishes, field by field, of the same messages."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from benchmarks.backlog import Seen
from benchmarks.loop import PEERS, run_loop
from benchmarks.stages import drain_backlog
from benchmarks.stand import Stand
from enrichment.codec.headers import split_origin
from enrichment.conservation.committed import log_ranges, read
from enrichment.conservation.origins import Origin, headers_of, origin_of
from enrichment.settings import Settings
from include.local.errors import StackError

SAMPLE = 20_000
Outputs = dict[Origin | None, Any]


def check_same_work(stand: Stand, seen: Seen) -> None:
    """Raise `StackError` when a loop and the pipeline differ in any of the first messages."""
    with stand.outputs("sample") as settings:
        _, batches = drain_backlog(stand, settings, "sample", SAMPLE)
        expected = _outputs(stand, settings)
    ranges = [r for batch in batches for r in batch.ranges]
    for name, peer in PEERS.items():
        with stand.outputs(f"sample-{name}") as own:
            run_loop(stand, own, peer.codec, peer.answers(stand, seen), ranges)
            _compare(name, expected, _outputs(stand, own))


def _compare(name: str, expected: Outputs, found: Outputs) -> None:
    different = [origin for origin in expected.keys() | found.keys() if expected.get(origin) != found.get(origin)]
    if different:
        origin = different[0]
        raise StackError(
            f"{name} does not do the same work: {len(different)} of {len(expected)} outputs differ, "
            f"as that of {origin}:\n"
            f"  pipeline: {expected.get(origin)}\n  loop:     {found.get(origin)}"
        )


def _outputs(stand: Stand, settings: Settings) -> Outputs:
    """What was published, by origin: of dead letters only that they are."""
    found: Outputs = {}
    for topic in (settings.kafka.output_topic, settings.kafka.dlq_topic):
        ranges = log_ranges(stand.bootstrap_servers, topic)
        with closing(read(stand.bootstrap_servers, topic, ranges)) as messages:
            for message in messages:
                headers, _ = split_origin(headers_of(message))
                content = None
                if topic == settings.kafka.output_topic:
                    content = json.loads(message.value() or b"") | {"enriched_at": None}
                found[origin_of(message)] = (topic[-3:], message.key(), message.timestamp(), headers, content)
    return found
