"""A redrive through the real scheduler: dry unless told otherwise, then for real, cleared and run again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from enrichment.kafka.topics import MESSAGE_BYTES
from enrichment.settings import load
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)

LETTERS = 300
LARGE = 3_000  # bytes; what is published while the limit is low is smaller


@contextmanager
def limit(stream: Stream, size: int) -> Iterator[None]:
    """The output topic takes only messages of this size meanwhile."""

    def alter(value: int) -> None:
        entry = ConfigEntry("max.message.bytes", str(value), incremental_operation=AlterConfigOpType.SET)
        topic = ConfigResource(ResourceType.TOPIC, load().kafka.output_topic, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": stream.stack.bootstrap_servers})  # answers die with it
        admin.incremental_alter_configs([topic])[topic].result()

    alter(size)
    try:
        yield
    finally:
        alter(MESSAGE_BYTES)


def xcom(airflow: Airflow, run_id: str, task_id: str, key: str, map_index: int = -1) -> Any:
    """What a task of a run left behind."""
    path = f"/api/v2/dags/{airflow.dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
    return airflow.call("GET", path, deserialize=True, map_index=map_index)["value"]


def test_redrive_of_letters_whose_cause_is_mended(airflow: Airflow, stream: Stream) -> None:
    """Letters that were too large are counted by a run that is only triggered, and sent in by one that is told to;
    each message is out once, and whatever is cleared or run again changes nothing."""
    redrive = airflow.of("stacklens_dlq_redrive")
    with limit(stream, LARGE):
        stream.produce([message(n, message="x" * LARGE) for n in range(LETTERS)] + [b"no JSON"] * 7)
        airflow.run()
        eventually(lambda: stream.lag() == 0, "the end of the backlog")
    before = stream.check()
    assert before.ok, before.summary()
    assert before.dead_reasons["message-too-large"] == LETTERS

    dry = redrive.run()
    survey = xcom(redrive, dry, "claim", "survey")
    groups = {(g["verdict"], g["reason"]): (g["detail"], g["letters"]) for g in survey["groups"]}
    assert groups["redrive", "message-too-large"] == ("<n> bytes enriched; <n> at most", LETTERS)
    assert groups["left", "invalid-json"][1] >= 7
    published = xcom(redrive, dry, "batch.publish", "return_value", 0)
    assert (published["produced"], published["counts"]["dead"]) == (False, 0)
    unchanged = stream.check()
    assert (unchanged.analytics, unchanged.dead, unchanged.redriven) == (before.analytics, before.dead, 0)

    real = redrive.run(dry_run=False)
    assert xcom(redrive, real, "batch.publish", "return_value", 0)["produced"] is True
    redrive.clear(real)
    assert redrive.finish(real) == "success"
    again = redrive.run(dry_run=False)
    assert redrive.tasks(again)["batch.publish"]["state"] == "skipped"
    assert xcom(redrive, again, "claim", "survey")["already_redriven"] == LETTERS
    after = stream.check()
    assert after.ok, after.summary()
    assert (after.analytics, after.dead, after.redriven) == (
        before.analytics + LETTERS, before.dead - LETTERS, LETTERS
    )  # fmt: skip
