"""The batches that had a message, found in the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from enrichment.batch import OffsetRange
from enrichment.conservation.origins import Origin
from enrichment.inspection import batches
from enrichment.inspection.batches import BatchFate, fates_of
from enrichment.settings import load
from enrichment.statements import Statements, jsonb
from tests.fixtures.pipeline import Pipeline, message

FIRST = datetime(2026, 1, 15, 10, tzinfo=UTC)
SEARCH = "enrichment_jobs/first_published_with"
HISTORY = """
INSERT INTO enrichment_jobs (
    batch_id, dag_id, run_id, lane, topic, group_id, ranges, state, messages_read, messages_enriched, messages_partial,
    messages_dead, settings_fingerprint, claimed_at, published_at
)
SELECT
    'b' || n, 'dag', 'run-' || n, 0, %(topic)s, %(group)s,
    jsonb_build_array(jsonb_build_object('partition', n %% 2, 'start', n / 2 * 10, 'end', n / 2 * 10 + 10)),
    'published', 10, 10, 0, 0, 'f', %(first)s + n * %(step)s, %(first)s + n * %(step)s
FROM generate_series(0, 2999) AS n
"""


def fates(pipeline: Pipeline, partition: int, offset: int, *batch_ids: str) -> list[BatchFate]:
    """As the page asks for them."""
    with pipeline.resources() as r, r.query_connection(5) as connection:
        origin = Origin(pipeline.input_topic, partition, offset)
        return fates_of(Statements(connection), r.settings.kafka, origin, batch_ids)


def fill(pipeline: Pipeline, step: timedelta) -> None:
    """A history of batches, by turns of two partitions."""
    with psycopg.connect(pipeline.dsn) as connection:
        group = load().kafka.consumer_group
        connection.execute(HISTORY, {"topic": pipeline.input_topic, "group": group, "first": FIRST, "step": step})


@pytest.mark.parametrize("step", [timedelta(seconds=2), timedelta(days=1), timedelta(microseconds=40)], ids=str)
def test_offset_leads_to_its_batch(pipeline: Pipeline, step: timedelta) -> None:
    """Whatever the time between batches, in few look-ups; what no batch has is found in none."""
    fill(pipeline, step)
    for partition, offset, batch_id in [
        (0, 0, "b0"),
        (0, 9, "b0"),
        (1, 10, "b3"),
        (0, 7_777, "b1554"),
        (1, 14_999, "b2999"),
    ]:
        assert [fate.batch_id for fate in fates(pipeline, partition, offset)] == [batch_id]
    assert fates(pipeline, 0, 15_000) == []
    assert fates(pipeline, 2, 0) == []


def test_batch_under_way_is_found(pipeline: Pipeline) -> None:
    """Before it is published, and after; with its run, and how its messages were answered."""
    pipeline.produce([message(n) for n in range(8)])
    [batch] = pipeline.claim("run-7")
    [under_way] = fates(pipeline, 1, 1)
    assert (under_way.batch_id, under_way.state, under_way.published_at) == (batch.batch_id, "claimed", None)
    pipeline.finish(pipeline.stage(batch))
    [published] = fates(pipeline, 1, 1)
    assert (published.run_id, published.state, published.kind) == ("run-7", "published", "live")
    assert published.published_at is not None


def test_last_failures_of_an_offset_are_found(pipeline: Pipeline) -> None:
    """A lane that fails all night leaves hundreds of batches with the same messages, and each is a look into the
    ledger."""
    fill(pipeline, timedelta(seconds=2))
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute(
            "UPDATE enrichment_jobs SET state = 'failed', published_at = NULL, ranges = %s"
            " WHERE run_id LIKE 'run-29__'",
            [jsonb([OffsetRange(0, 20_000, 20_010)])],
        )
    found = fates(pipeline, 0, 20_009)
    assert [fate.batch_id for fate in found] == [f"b{n}" for n in range(3_000 - batches.MOST_BATCHES, 3_000)]
    assert fates(pipeline, 0, 20_010) == []
    assert fates(pipeline, 1, 20_009) == []


def test_batches_are_found_by_id(pipeline: Pipeline) -> None:
    """Those that outputs name: of a replay, of a redrive. What the ledger does not know is left out."""
    fill(pipeline, timedelta(seconds=2))
    found = fates(pipeline, 0, 0, "b7", "never-heard-of", "b7")
    assert [fate.batch_id for fate in found] == ["b0", "b7"]


def test_other_topics_and_groups_do_not_count(pipeline: Pipeline) -> None:
    """Their offsets mean other messages."""
    fill(pipeline, timedelta(seconds=2))
    with pipeline.resources() as r, r.query_connection(5) as connection:
        statements, kafka = Statements(connection), r.settings.kafka
        assert fates_of(statements, kafka, Origin("another", 0, 0), []) == []
        other = kafka.model_copy(update={"consumer_group": "another"})
        assert fates_of(statements, other, Origin(pipeline.input_topic, 0, 0), []) == []


def test_partition_without_batches_costs_one_look_through_the_ledger(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step reads what the ones before have left over, and nothing after that."""
    step, read, row = timedelta(seconds=2), list[timedelta](), Statements.row
    fill(pipeline, step)

    def noticed(self: Statements, name: str, kind: Any, parameters: dict[str, Any]) -> Any:
        if name == SEARCH:
            read.append(parameters["before"] - parameters["at"])
        return row(self, name, kind, parameters)

    monkeypatch.setattr(Statements, "row", noticed)
    assert fates(pipeline, 2, 0) == []
    assert sum(read, timedelta()) < 3_000 * step + timedelta(seconds=1)


def test_step_ends_before_its_end(pipeline: Pipeline) -> None:
    """What was published then, or later, belongs to another step."""
    fill(pipeline, timedelta(seconds=2))
    asked = {"topic": pipeline.input_topic, "group_id": load().kafka.consumer_group, "partition": 1, "at": FIRST}
    with pipeline.resources() as r, r.query_connection(5) as connection:
        found = [
            Statements(connection).row(SEARCH, batches._Held, {**asked, "before": FIRST + timedelta(seconds=seconds)})
            for seconds in (2, 3)
        ]
    assert [held and held.batch_id for held in found] == [None, "b1"]


def test_range_that_was_cut_to_nothing_does_not_mislead() -> None:
    """A drain that ended early leaves a partition's range empty: it lies before what follows it."""
    empty = batches._Held("b", (OffsetRange(0, 7, 7),))
    assert [batches._compare(empty, Origin("t", 0, offset)) for offset in (6, 7)] == [1, -1]
