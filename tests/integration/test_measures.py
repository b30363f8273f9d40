"""What a batch records for the rollup: how fresh its messages were when they became visible, and what it left
behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest

from enrichment.batches.kinds import LIVE_KIND
from enrichment.batches.publish import ages, publish
from tests.fixtures.pipeline import MakePipeline, Pipeline, message

FIRST = datetime.fromtimestamp(1_700_000_000, UTC)  # the timestamp that the fixture gives the first message


def lags(pipeline: Pipeline) -> list[dict[str, int]]:
    """What each batch's row says that was left behind, in the order of the lanes."""
    with psycopg.connect(pipeline.dsn) as connection:
        return [lag for (lag,) in connection.execute("SELECT lag FROM enrichment_jobs ORDER BY lane")]


def test_publish_tells_how_fresh_its_messages_were(pipeline: Pipeline) -> None:
    """Each enriched message counts, from its timestamp to when all were visible; a dead letter does not."""
    pipeline.produce([*(message(n) for n in range(120)), b"no json"])
    [batch] = pipeline.claim()
    drained = pipeline.stage(batch)
    with pipeline.resources() as r:
        published = publish(
            r.clients, r.staging, drained, LIVE_KIND, r.settings, now=lambda: FIRST + timedelta(seconds=100)
        )  # fmt: skip
    assert published.counts.dead == 1
    assert published.freshness.count == 120
    # The timestamps are a millisecond apart: from 100 s down to 99.881 s.
    assert published.freshness.quantile(0.5) == pytest.approx(100, rel=0.01)
    # Found to be published already: nothing is sent, and its age is told all the same.
    again = pipeline.publish(drained)
    assert (again.produced, again.freshness.count) == (False, 120)


def test_message_without_a_timestamp_has_no_age() -> None:
    """Neither 0 nor less is a time."""
    found = ages([np.array([0, -1, 1_700_000_000_000]), np.array([], dtype=np.int64)], FIRST)
    assert found.count == 1


def test_dry_run_is_never_fresh(pipeline: Pipeline) -> None:
    """Nothing became visible: there is no time of publication."""
    pipeline.produce([message(n) for n in range(10)])
    [published] = pipeline.run(dry_run=True)
    assert published.freshness.count == 0


def test_claim_keeps_what_it_leaves_behind(pipeline: Pipeline) -> None:
    """The messages of each partition behind the batch's end, none where all was taken; partitions not claimed too."""
    pipeline.produce([message(n) for n in range(30)], partition=0)
    pipeline.produce([message(n) for n in range(5)], partition=1)
    pipeline.claim(max_messages=10)
    assert lags(pipeline) == [{"0": 25, "1": 0, "2": 0, "3": 0}]


def test_claim_of_several_lanes_keeps_the_whole_lag_of_each(make_pipeline: MakePipeline) -> None:
    """Every batch of a run has the same picture, a lane that was not served in it: the largest of an hour is right."""
    pipeline = make_pipeline(KAFKA_LANES="2", KAFKA_BATCHES_PER_RUN="1")
    pipeline.produce([message(n) for n in range(30)], partition=0)
    pipeline.produce([message(n) for n in range(7)], partition=1)
    pipeline.claim(max_messages=20)
    assert lags(pipeline) == [{"0": 10, "1": 7, "2": 0, "3": 0}]
