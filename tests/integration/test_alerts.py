"""A batch that is green and odd says so: in the ledger, whence run note and report have it, and in the task's log."""

from __future__ import annotations

import json
import logging

import pytest

from tests.fixtures.pipeline import Pipeline, message
from tests.fixtures.tasks import run_tasks


def foreign(number: int) -> bytes:
    """A message whose keys have other names than the contract's."""
    event = json.loads(message(number))
    event["clientIp"], event["uid"] = event.pop("source_ip"), event.pop("user_id")
    return json.dumps(event).encode()


def test_messages_of_another_contract_are_noticed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are published with nulls, as a message without these fields is, and it is said under which names they have
    them."""
    pipeline.produce([foreign(n) for n in range(40)])
    with caplog.at_level(logging.WARNING):
        [batch] = pipeline.claim("foreign")
        run_tasks(pipeline, batch, monkeypatch)
    with pipeline.resources() as r:
        job = r.ledger.get(batch.batch_id)
    assert job is not None
    [said] = job.warnings
    assert said.startswith(
        "hardly one of 40 messages has `source_ip` (100.0% go without it), `user_id` (100.0% go without it), so"
    )
    assert "The first has `clientIp`, `uid`:" in said
    assert said in caplog.text


def test_messages_that_nobody_knows_and_junk_are_noticed(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial ones in one batch, dead ones in another."""
    said = {}
    for run_id, values in {
        "partial": [message(n, request_id=f"nobody-{n}") for n in range(20)],
        "dead": [b"no JSON"] * 19 + [message(n) for n in range(6)],
    }.items():
        pipeline.produce(values, partition=0)
        [batch] = pipeline.claim(run_id)
        run_tasks(pipeline, batch, monkeypatch)
        with pipeline.resources() as r:
            job = r.ledger.get(batch.batch_id)
        assert job is not None
        [said[run_id]] = job.warnings
    assert said["partial"].startswith("20 of 20 messages were published partial: business-context-not-found 20 (your")
    assert said["dead"].startswith("19 of 25 messages became dead letters: invalid-json 19. A dry run of")
