"""The list of all metrics: the only place where they are named. Documentation, mapping and dashboard follow it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec


class MetricKind(StrEnum):
    """What a backend does with the values: add them up, keep the last one, or keep how they are distributed."""

    COUNTER = "counter"
    GAUGE = "gauge"
    TIMING = "timing"


class SentWith(StrEnum):
    """When a metric is sent: when a live batch has been published, by the run of the minute, by the hourly rollup."""

    BATCH = "batch"
    MINUTE = "minute"
    HOUR = "hour"


class Metric(msgspec.Struct, frozen=True):
    """A metric. Each of its tags has few values: partitions, lanes, stages, what is declared, but no ids.

    `unit` is the value's: of a timing seconds, which travel as milliseconds.
    """

    name: str
    kind: MetricKind
    unit: str
    tags: tuple[str, ...]
    sent_with: SentWith
    meaning: str

    def of(self, value: float, *tag_values: object) -> Sample:
        """A value of it; the values of its tags stand in their order."""
        return Sample(self, value, dict(zip(self.tags, map(str, tag_values), strict=True)))

    @property
    def prometheus_name(self) -> str:
        """What Prometheus has it as: with its unit, and as it expects of a counter or a histogram's bucket."""
        unit = f"_{self.unit}" if self.unit else ""
        ending = "" if self.kind is not MetricKind.COUNTER else "_bucket" if BOUND in self.tags else "_total"
        return f"{self.name.replace('.', '_')}{unit}{ending}"


class Sample(NamedTuple):
    """A value of a metric at a moment."""

    metric: Metric
    value: float
    tags: dict[str, str]


# The tag of a cumulative histogram, as Prometheus has it: "less than or equal to".
BOUND = "le"

_COUNTER, _GAUGE, _TIMING = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.TIMING
_BATCH, _MINUTE = SentWith.BATCH, SentWith.MINUTE

MESSAGES = Metric(
    "stacklens.messages", _COUNTER, "", ("outcome",), _BATCH,
    "messages of live batches, by what became of them: `enriched`, `partial` or `dead`",
)  # fmt: skip
READ = Metric("stacklens.read", _COUNTER, "bytes", (), _BATCH, "values that were read")
BATCHES = Metric("stacklens.batches", _COUNTER, "", ("lane",), _BATCH, "batches that were published")
BATCH_SIZE = Metric("stacklens.batch_size", _GAUGE, "messages", ("lane",), _BATCH, "messages of the last batch")
ERRORS = Metric(
    "stacklens.errors", _COUNTER, "", ("reason",), _BATCH,
    "messages that were published with this error or are dead for it; a message may have several",
)  # fmt: skip
ANSWERS = Metric(
    "stacklens.answers", _COUNTER, "", ("cache", "tier"), _BATCH,
    "messages that were looked up, by the tier that answered: `memory`, `postgres`, or the `source` itself",
)  # fmt: skip
UNUSUAL_ANSWERS = Metric(
    "stacklens.unusual_answers", _COUNTER, "", ("cache", "state"), _BATCH,
    "those of them whose answer was `stale` (past its expiry, the source did not answer), `absent` (there is no such "
    "key) or `failed`",
)  # fmt: skip
FRESHNESS = Metric(
    "stacklens.freshness", _COUNTER, "seconds", (BOUND,), _BATCH,
    "published messages whose age, from their Kafka timestamp to publication, was at most this; `inf` counts all that "
    "have a timestamp",
)  # fmt: skip
LATENCY = Metric("stacklens.latency", _TIMING, "seconds", (), _BATCH, "from claim to publication, by batch")
STAGE = Metric("stacklens.stage", _TIMING, "seconds", ("stage",), _BATCH, "what a stage took for a batch")
STAGE_PEAK_RSS = Metric(
    "stacklens.stage_peak_rss", _GAUGE, "bytes", ("stage",), _BATCH,
    "the most memory that the process of the last batch's stage had",
)  # fmt: skip
HEALTH = Metric(
    "stacklens.health", _GAUGE, "", (), _MINUTE, "the verdict of the page *StackLens*: 0 healthy, 1 degraded, 2 down"
)
LAG = Metric("stacklens.lag", _GAUGE, "messages", ("partition",), _MINUTE, "offsets that wait, by partition")
OLDEST_WAITING = Metric(
    "stacklens.oldest_waiting", _GAUGE, "seconds", (), _MINUTE, "age of the oldest message that waits, 0 without any"
)
SINCE_PUBLISHED = Metric(
    "stacklens.since_published", _GAUGE, "seconds", (), _MINUTE, "since the last live batch was published"
)
UNPUBLISHED = Metric(
    "stacklens.unpublished_batches", _GAUGE, "", ("state",), _MINUTE,
    "batches that are not published yet: `claimed`, `drained`, or `failed`",
)  # fmt: skip
BREAKER = Metric(
    "stacklens.breaker", _GAUGE, "", ("source",), _MINUTE, "the source's circuit breaker: 0 closed, 1 half-open, 2 open"
)
PENDING = Metric(
    "stacklens.pending", _GAUGE, "messages", ("source",), _MINUTE,
    "published messages that lack this source until `stacklens_repair` corrects them",
)  # fmt: skip
SOURCE_AGE = Metric(
    "stacklens.source_age", _GAUGE, "seconds", ("source",), _MINUTE,
    "since the source's database was built; only where a build tells its time, as MaxMind's do",
)  # fmt: skip
BREACHED = Metric(
    "stacklens.breached", _GAUGE, "", ("level",), SentWith.HOUR, "whether the last full hour missed this service level"
)

METRICS = (
    MESSAGES, READ, BATCHES, BATCH_SIZE, ERRORS, ANSWERS, UNUSUAL_ANSWERS, FRESHNESS, LATENCY, STAGE, STAGE_PEAK_RSS,
    HEALTH, LAG, OLDEST_WAITING, SINCE_PUBLISHED, UNPUBLISHED, BREAKER, PENDING, SOURCE_AGE,
    BREACHED,
)  # fmt: skip
