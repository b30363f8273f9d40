"""What a batch's purpose takes of the messages that its drain reads."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from enrichment import selection
from enrichment.messages import Purpose
from enrichment.pipeline import EVENTS
from tests.fixtures.pipeline import Pipeline, message


def test_only_what_the_purpose_selects_goes_on(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is staged and counted nowhere, chunks of nothing are not staged, and the group moves past
    it."""
    monkeypatch.setitem(
        selection.MAKERS, "even",
        lambda clients, batch: lambda chunk: chunk.take([n for n, at in enumerate(chunk.offsets) if 60 < at < 70]),
    )  # fmt: skip
    pipeline.produce([message(n) for n in range(120)], partition=0)
    [claimed] = pipeline.claim()
    batch = replace(claimed, purpose=Purpose("even"))
    drained = pipeline.stage(batch)
    assert drained.messages == 9
    with pipeline.resources() as r:
        assert [chunk["offset"].to_pylist() for chunk in r.staging.read(batch.batch_id, EVENTS)] == [[*range(61, 70)]]
    assert pipeline.publish(drained).counts.total == 9
    assert pipeline.claim("next") == []
