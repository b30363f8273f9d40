"""The limits of a topic: messages in; which of them it would refuse, and why, out.

These are the refusals that follow from a topic's configuration, known before anything is produced. Where the broker's
clock decides, timestamps within `CLOCKS_MS` of the limit are left to the broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from enrichment.codec.records import Chunk, message_sizes
from enrichment.messages import Reason, Refusal

FOREVER = 2**63 - 1  # Kafka's own "no limit", and its largest timestamp
CLOCKS_MS = 60_000  # more than our clock and the broker's ever differ by, and than a chunk is on its way

Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """What a topic requires of its messages; by default, only that none is larger than `max_bytes`.

    `max_age_ms` and `max_ahead_ms` are how far before and after the broker's time a timestamp may lie. A `compacted`
    topic takes no message without a key. `known` is what the broker has refused before: the packed headers of each
    message, which identify it, and the broker's error.
    """

    topic: str
    max_bytes: int
    max_age_ms: int = FOREVER
    max_ahead_ms: int = FOREVER
    compacted: bool = False
    known: Mapping[bytes, str] = field(default_factory=dict)

    def refusals(self, messages: Chunk, now_ms: int) -> dict[int, Refusal]:
        """The rows that the topic would refuse by any clock, each with one reason."""
        columns = messages.columns
        found: dict[int, Refusal] = {}
        if self.known:
            known = pc.is_in(columns["headers"], pa.array(self.known, pa.binary())).to_numpy(zero_copy_only=False)
            for row in np.flatnonzero(known).tolist():
                found[row] = Refusal(Reason.MESSAGE_REFUSED, self.known[columns["headers"][row].as_py()])
        if self.compacted:
            for row in np.flatnonzero(columns["key"].is_null().to_numpy(zero_copy_only=False)).tolist():
                found[row] = Refusal(Reason.MESSAGE_REFUSED, self._keyless())
        times = columns["timestamp"]
        for row in np.flatnonzero(self.out_of_time(times, now_ms, CLOCKS_MS)).tolist():
            found[row] = Refusal(Reason.MESSAGE_REFUSED, self._untimely(times[row].as_py(), now_ms))
        sizes = message_sizes(messages)
        for row in np.flatnonzero(sizes > self.max_bytes).tolist():
            found[row] = Refusal(Reason.MESSAGE_TOO_LARGE, f"{sizes[row]} bytes enriched; {self.max_bytes} at most")
        return found

    def out_of_time(self, timestamps: pa.Array, now_ms: int, tolerance_ms: int) -> Flags:
        """Which timestamps lie outside what the topic takes by more than `tolerance_ms`; with a negative one, also
        those that are close to its limits. -1 is no timestamp."""
        times = timestamps.to_numpy()
        oldest = max(0, now_ms - self.max_age_ms - tolerance_ms)
        latest = min(FOREVER, now_ms + self.max_ahead_ms + tolerance_ms)
        late: Flags = (times >= 0) & ((times < oldest) | (times > latest))
        return late

    def _keyless(self) -> str:
        return f"INVALID_RECORD: no key, and {self.topic} is compacted (cleanup.policy)"

    def _untimely(self, timestamp: int, now_ms: int) -> str:
        ahead = timestamp - now_ms
        setting, limit = ("after", self.max_ahead_ms) if ahead > 0 else ("before", self.max_age_ms)
        return (
            f"INVALID_TIMESTAMP: {timestamp} is {abs(ahead)} ms {setting} the time of publishing; {self.topic} takes "
            f"{limit} at most (message.timestamp.{setting}.max.ms)"
        )
