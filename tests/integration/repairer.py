"""A pass of a repair in a process of its own that dies where a test says.

python -m tests.integration.repairer mid-transaction|before-commit|after-offsets|after-commit < manifest
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from enrichment.batches.publish import utc_now
from enrichment.repair import passes as repair
from enrichment.repair.pending import PendingStore
from tests.fixtures.pipeline import Pipeline
from tests.integration.publisher import die, interrupt


def main(where: str) -> None:
    """Run the pass, and die."""
    manifest = json.load(sys.stdin)
    one = msgspec.convert(manifest.pop("pass"), repair.Pass)
    pipeline = Pipeline(**manifest | {"folder": Path(manifest["folder"]), "environment": {}})
    interrupt(where)
    if where == "after-commit":
        # Not even up to where its corrections lie is noted then.
        PendingStore.settle = lambda *_: die()  # type: ignore[method-assign]
    with pipeline.resources() as r:
        repair.run(r, one, utc_now)


if __name__ == "__main__":
    main(sys.argv[1])
