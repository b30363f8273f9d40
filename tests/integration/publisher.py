"""A publish task in a process of its own that dies, or waits to be killed, where a test says.

python -m tests.integration.publisher WHERE < manifest

WHERE: never, mid-transaction, before-commit, after-offsets, after-commit, wait (for a signal), timeout (by waiting).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
from airflow.sdk.execution_time.timeout import TimeoutPosix

from enrichment.batches.outages import Outage
from enrichment.batches.publish import record
from enrichment.batches.staged import Drained
from enrichment.kafka.sink import LanePublisher, LaneTransaction
from enrichment.orchestration.common import stoppable
from tests.fixtures.pipeline import Pipeline

TIMEOUT_SECONDS = 5


def die() -> None:
    """As `kill -9` does it: no cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait() -> None:
    """Say so, and wait for a signal."""
    print("waiting", flush=True)
    time.sleep(60)


class DiesAtCommit:
    """A producer that has sent its offsets and is about to commit."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def commit_transaction(self, *timeout: float) -> None:
        """Never."""
        die()


def interrupt(where: str) -> None:
    """Make the pipeline stop at the place named."""
    what = wait if where in ("wait", "timeout") else die
    if where in ("mid-transaction", "wait", "timeout"):
        send = LaneTransaction.send

        def send_and_stop(self: LaneTransaction, topic: str, messages: Any) -> None:
            send(self, topic, messages)
            self._producer.flush(10)  # so that the broker has what will never be committed
            what()

        LaneTransaction.send = send_and_stop  # type: ignore[method-assign]
    if where == "before-commit":
        LanePublisher._commit = lambda self, producer: what()  # type: ignore[method-assign]
    if where == "after-offsets":
        commit = LanePublisher._commit
        LanePublisher._commit = lambda self, producer: commit(self, DiesAtCommit(producer))  # type: ignore[arg-type,method-assign]


def main(where: str) -> None:
    """Publish, and print what became of the batch."""
    manifest = json.load(sys.stdin)
    drained = msgspec.convert(manifest.pop("drained"), Drained)
    outages = msgspec.convert(manifest.pop("outages"), dict[str, list[Outage]])
    pipeline = Pipeline(**manifest | {"folder": Path(manifest["folder"]), "environment": {}, "outages": outages})
    interrupt(where)
    # As Airflow's task runner has it around a task with an `execution_timeout`.
    limit = TimeoutPosix(TIMEOUT_SECONDS) if where == "timeout" else nullcontext()  # type: ignore[no-untyped-call]
    with stoppable(), limit:
        published = pipeline.publish(drained)
    if where == "after-commit":
        die()
    with pipeline.resources() as r:
        record(r.ledger, drained, published)
    print(json.dumps(msgspec.to_builtins(published)))


if __name__ == "__main__":
    main(sys.argv[1])
