"""A batch whose frames are staged on S3: every stage opens the store by itself, as tasks on different machines do."""

from __future__ import annotations

from typing import Any

import pytest

from enrichment.batches.enrich import enrich
from enrichment.enrichers.base import OpenEnricher
from enrichment.enrichers.user import USER
from enrichment.errors import StagingMissing
from enrichment.store.jobs import JobState
from tests.fixtures.object_store import S3Server
from tests.fixtures.pipeline import Pipeline, message


@pytest.fixture
def on_s3(pipeline: Pipeline, s3_url: str) -> Pipeline:
    """The pipeline with a bucket of its own."""
    pipeline.staging_url = s3_url
    return pipeline


@pytest.fixture
def bucket(s3_url: str) -> str:
    """The bucket's name."""
    return s3_url.split("@")[1].split("/", maxsplit=1)[0]


def remove(pipeline: Pipeline, batch_id: str) -> None:
    """What `clean` does."""
    with pipeline.resources() as r:
        r.staging.remove(batch_id)


def test_batch_is_published_once_and_cleaned(on_s3: Pipeline, object_store: S3Server, bucket: str) -> None:
    """Messages of all kinds come out as they do from a disk; the teardown leaves nothing and may run twice."""
    on_s3.produce([message(n) for n in range(398)] + [b"no JSON", None])
    [batch] = on_s3.claim()
    drained = on_s3.stage(batch)
    assert object_store.keys(bucket)
    published = on_s3.finish(drained)
    assert (published.produced, on_s3.publish(drained).produced) == (True, False)
    for _ in range(2):
        remove(on_s3, batch.batch_id)
        assert object_store.keys(bucket) == []
    with on_s3.resources() as r:
        job = r.ledger.get(batch.batch_id)
    assert job is not None
    assert job.state is JobState.PUBLISHED
    report = on_s3.check()
    assert report.ok, report.summary()
    assert (report.read, report.dead) == (400, 2)


def test_stage_that_failed_is_done_again(
    on_s3: Pipeline, object_store: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that fails in the middle of its files leaves none of them, and the next try's are the batch's."""
    on_s3.produce([message(n) for n in range(400)])
    [batch] = on_s3.claim()
    drained = on_s3.drain(batch)
    before = object_store.keys(bucket)
    look_up, asked = OpenEnricher.look_up, iter(range(100))

    def fails_once(enricher: OpenEnricher, *arguments: Any) -> Any:
        if next(asked) == 3:
            raise RuntimeError("in the middle")
        return look_up(enricher, *arguments)

    monkeypatch.setattr(OpenEnricher, "look_up", fails_once)
    with on_s3.resources() as r, pytest.raises(RuntimeError, match="in the middle"):
        enrich(r.staging, drained.batch, r.enricher(USER))
    assert object_store.keys(bucket) == before
    with pytest.raises(StagingMissing, match="codes is not staged"):
        on_s3.publish(drained)
    on_s3.enrich(drained.batch)
    assert on_s3.publish(drained).produced
    report = on_s3.check()
    assert report.ok, report.summary()


def test_files_of_two_drains_are_not_published_together(on_s3: Pipeline) -> None:
    """A drain that ran again replaces its files, and what was added to the first one's does not fit."""
    on_s3.produce([message(n) for n in range(100)])
    [batch] = on_s3.claim()
    on_s3.stage(batch)
    again = on_s3.drain(batch)
    with pytest.raises(StagingMissing, match="does not fit to the batch's latest drain"):
        on_s3.publish(again)
    on_s3.enrich(again.batch)
    assert on_s3.publish(again).produced


def test_publish_after_the_clean_up_says_what_to_clear(on_s3: Pipeline) -> None:
    """A publish that is cleared alone when its files are gone names what else to clear, and commits nothing."""
    on_s3.produce([message(n) for n in range(100)])
    [batch] = on_s3.claim()
    drained = on_s3.stage(batch)
    remove(on_s3, batch.batch_id)
    with pytest.raises(StagingMissing, match=r"clear the batch's `drain` task.*ENRICHMENT_STAGING_URL"):
        on_s3.publish(drained)
    assert on_s3.check([]).foreign == 0
