"""What a kind of batch lets pass of the messages that its drain reads."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from enrichment.batch import Purpose
from enrichment.batches.kinds import Kind
from enrichment.batches.staged import EVENTS
from enrichment.kafka.refusals import Refusals
from enrichment.orchestration import purposes
from tests.fixtures.pipeline import Pipeline, message


def test_only_what_the_filter_lets_pass_goes_on(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is staged and counted nowhere, chunks of nothing are not staged, and the group moves past
    it."""
    even = Kind(
        "even",
        lambda clients, batch: lambda chunk: chunk.take([n for n, at in enumerate(chunk.offsets) if 60 < at < 70]),
    )
    monkeypatch.setitem(purposes.KINDS, "even", even)
    pipeline.produce([message(n) for n in range(120)], partition=0)
    [claimed] = pipeline.claim()
    batch = replace(claimed, purpose=Purpose("even"))
    drained = pipeline.stage(batch)
    assert drained.messages == 9
    with pipeline.resources() as r:
        assert [chunk["offset"].to_pylist() for chunk in r.staging.read(batch.batch_id, EVENTS)] == [[*range(61, 70)]]
    assert pipeline.publish(drained).counts.total == 9
    assert pipeline.claim("next") == []


def test_batch_is_no_other_kinds(pipeline: Pipeline) -> None:
    """To drain or publish it as another kind would select or commit something else."""
    pipeline.produce([message(1)])
    [batch] = pipeline.claim()
    other = Kind("even")
    with pipeline.resources() as r:
        with pytest.raises(ValueError, match=r"batch dag/run/0 is for live, not for even"):
            other.filter_of(r.clients, batch)
        with pytest.raises(ValueError, match=r"batch dag/run/0 is for live, not for even"):
            other.publisher_of(r.clients, batch, Refusals())
