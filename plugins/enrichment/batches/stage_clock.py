"""Times the stages of a batch, and records what each did or why it failed."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg

from enrichment.errors import BatchRefused, BatchUnbalanced
from enrichment.log_lines import log_pairs
from enrichment.store import metrics
from enrichment.store.connections import Connection
from enrichment.store.jobs import Ledger

log = logging.getLogger(__name__)

# What code raises for data that it cannot handle. Brokers, databases, disks and settings raise other exceptions.
BATCH_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError, ValueError)


@dataclass
class Stage:
    """What a stage did to a batch; `seconds` and `peak_rss_bytes` are known when its block has ended.

    `details` are kept beside the counts and are not in the log line.
    """

    messages: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_rss_bytes: int = 0


class StageRecords(Protocol):
    """Where stages are recorded; opened when it is needed."""

    @property
    def postgres(self) -> Connection:
        """The connection for metrics."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The ledger of batches."""
        ...


@contextmanager
def timed_stage(records: StageRecords, batch_id: str, name: str) -> Iterator[Stage]:
    """Time a stage of a batch and record what it did, once it has ended well.

    A failure caused by the batch itself is recorded in the ledger: the next claim there takes less. Any other one (a
    broker's refusal, a wrong setting, a query of the user's) is recorded, too, and shrinks nothing.
    """
    stage, start = Stage(), time.perf_counter()
    try:
        yield stage
    except (BatchRefused, BatchUnbalanced) as fault:
        records.ledger.failed(batch_id, _said(name, fault), fault.partitions)
        raise
    except BATCH_FAULTS as fault:
        records.ledger.failed(batch_id, _said(name, fault))
        raise
    except Exception as outside:
        _note(records, batch_id, _said(name, outside))
        raise
    stage.seconds = time.perf_counter() - start
    stage.peak_rss_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    metrics.record(
        records.postgres, batch_id, name, messages=stage.messages, seconds=stage.seconds,
        peak_rss_bytes=stage.peak_rss_bytes, counts={**stage.counts, **stage.details},
    )  # fmt: skip
    done = {"stage": name, "messages": stage.messages, "seconds": round(stage.seconds, 3)}
    memory = {"peak_rss_mb": stage.peak_rss_bytes // 1024**2, "batch_id": batch_id}
    log_pairs(log, "stage.done", {**done, **memory})
    log_pairs(log, "stage.counts", stage.counts)


def _note(records: StageRecords, batch_id: str, error: str) -> None:
    try:
        records.ledger.noted(batch_id, error)
    except psycopg.Error as failed:  # often the failure itself, which is raised
        log.warning("stage.not_noted batch_id=%s error=%s", batch_id, str(failed).strip())


def _said(stage: str, error: Exception) -> str:
    return f"{stage}: {type(error).__name__}: {error}"
