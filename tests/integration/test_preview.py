"""What a message would become, by the pipeline's own stages on the real Kafka, PostgreSQL and user service: the same as
what a batch makes of it, and nothing of it is left anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from enrichment.codec.records import NO_HEADERS, NO_TIMESTAMP
from enrichment.inspection import untouched
from enrichment.inspection.preview import Previewed, PreviewedAnswer, preview
from enrichment.inspection.scan import FoundMessage
from tests.fixtures.kafka import free_ports
from tests.fixtures.partials import outputs
from tests.fixtures.pipeline import MakePipeline, Pipeline, message
from tests.fixtures.postgres import CACHES
from tests.fixtures.user_service import UserService

EVERYTHING = (
    *CACHES, "business_risks", "circuit_breakers", "enrichment_jobs", "enrichment_metrics", "enrichment_pending",
)  # fmt: skip


def tried(pipeline: Pipeline, value: bytes | None) -> Previewed:
    """A preview of a message that is in no topic."""
    with pipeline.resources() as r:
        given = FoundMessage(pipeline.input_topic, 0, 0, NO_TIMESTAMP, None, NO_HEADERS, value)
        return preview(r, given, lambda: datetime.now(UTC))


def kept(pipeline: Pipeline) -> dict[str, list[Any]]:
    """All that a preview might leave in the database."""
    with psycopg.connect(pipeline.dsn) as connection:
        return {
            table: connection.execute(f"SELECT t::text FROM {table} AS t ORDER BY 1".encode()).fetchall()
            for table in EVERYTHING
        }


def answer(previewed: Previewed, name: str) -> PreviewedAnswer:
    """That of an enrichment."""
    return next(each for each in previewed.answers if each.name == name)


def test_preview_is_what_a_batch_makes(pipeline: Pipeline) -> None:
    """Field by field but for the time, from the sources first and from the tables once a batch has filled them; the
    tables, the ledger and the topics stay as they are, also the rows' last use."""
    values = [message(n, amount=str(n)) for n in range(6)]
    before = kept(pipeline)
    previews = [tried(pipeline, value) for value in values]
    assert kept(pipeline) == before
    assert {each.came_from for each in previews[0].answers} == {"the source, asked now"}
    pipeline.produce(values)
    pipeline.run()
    published = {json.loads(one.value() or b"")["amount"]: json.loads(one.value() or b"") for one in outputs(pipeline)}
    for number, previewed in enumerate(previews):
        made = json.loads(previewed.outcome.value.text)
        assert made.pop("enriched_at") < published[str(number)].pop("enriched_at")
        assert made == published[str(number)]
    with psycopg.connect(pipeline.dsn) as connection:  # a use that a batch would note
        for table in CACHES:
            connection.execute(f"UPDATE {table} SET last_used_at = now() - interval '1 day'".encode())
    filled = kept(pipeline)
    again = tried(pipeline, values[0])
    assert {each.came_from for each in again.answers} == {"the cache table"}
    assert kept(pipeline) == filled
    assert len(list(outputs(pipeline))) == 6


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"no json", "invalid-json"), (b"", "empty-message"), (None, "empty-message"), (b"[1]", "not-an-object"),
     (b"\xff", "invalid-encoding"), (b'{"service": "s"}', "missing-field")],
    ids=["text", "empty", "tombstone", "array", "bytes", "fields missing"],
)  # fmt: skip
def test_what_cannot_be_processed_becomes_a_dead_letter(pipeline: Pipeline, value: bytes | None, reason: str) -> None:
    """With its reason; no source is asked."""
    made = tried(pipeline, value)
    assert (made.outcome.row.told.reason, made.answers) == (reason, [])
    assert json.loads(made.outcome.value.text)["error_reason"] == reason


def test_rules_say_why_they_fire(pipeline: Pipeline) -> None:
    """Those that fire are the published indicators; each condition has the value that it was checked with."""
    made = tried(pipeline, message(1))
    why = answer(made, "business").why
    assert why is not None
    fired = [rule.name for rule in why.rules if rule.has_fired]
    assert fired == json.loads(made.outcome.value.text)["business_fraud_indicators"]
    assert all(rule.has_fired == all(c.holds for c in rule.conditions) for rule in why.rules)
    values = {c.text.split()[0]: c.value for rule in why.rules for c in rule.conditions}
    enriched = json.loads(made.outcome.value.text)
    columns = [name for name in values if name in enriched]
    assert columns
    assert {name: values[name] for name in columns} == {name: enriched[name] for name in columns}


def test_no_rule_fires_without_a_context(pipeline: Pipeline) -> None:
    """And it is said why."""
    why = answer(tried(pipeline, message(1, request_id="unheard-of")), "business").why
    assert why is not None
    assert not any(rule.has_fired for rule in why.rules)
    assert "without context" in why.note


def test_keys_that_are_missing_are_not_asked_for(pipeline: Pipeline) -> None:
    """Their columns are null, as in a batch."""
    made = tried(pipeline, message(1, user_id=None))
    user = answer(made, "user")
    assert (user.key, user.status, user.came_from) == (None, "not asked", "")
    assert "user-profile" not in json.loads(made.outcome.value.text)["enrichment_sources"]


def test_source_that_fails_gives_its_reason_and_moves_no_breaker(pipeline: Pipeline, user_service: UserService) -> None:
    """However often it is tried."""
    user_service.set_fault(status=500)
    for _ in range(3):
        user = answer(made := tried(pipeline, message(1)), "user")
        assert user.status == "user-service-error"
        assert "answered 500" in user.detail
    assert made.outcome.row.told.errors == ("user-service-error",)
    assert kept(pipeline)["circuit_breakers"] == []


def test_open_breaker_is_heeded(pipeline: Pipeline) -> None:
    """A batch would not ask either; the breaker stays as it is."""
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute(
            "INSERT INTO circuit_breakers (name, state, opened_at) VALUES (%s, 'open', now())",
            [f"user-profile {pipeline.user_service_url}"],
        )
    before = kept(pipeline)
    user = answer(tried(pipeline, message(1)), "user")
    assert user.status == "user-service-error"
    assert "breaker" in user.detail
    assert kept(pipeline) == before


def test_source_that_does_not_answer_is_not_waited_for(
    pipeline: Pipeline, user_service: UserService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch has more patience; here it counts as the outage that it would be."""
    monkeypatch.setattr(untouched, "SOURCE_SECONDS", 0.2)
    user_service.set_fault(latency_seconds=1)
    user = answer(tried(pipeline, message(1)), "user")
    assert user.status == "user-lookup-timeout"
    assert "no answer within 0.2 s" in user.detail


def test_database_that_is_down_costs_only_what_is_in_it(pipeline: Pipeline) -> None:
    """The sources elsewhere are asked."""
    [port] = free_ports(1)
    pipeline.dsn = f"postgresql://postgres@127.0.0.1:{port}/none"
    made = tried(pipeline, message(1))
    assert [each.status for each in made.answers] == ["answered", "answered", "database-connection-error"]


def test_brokers_that_are_down_are_said_to_be(pipeline: Pipeline) -> None:
    """What their topics take is not known then: the rest is."""
    [port] = free_ports(1)
    pipeline.bootstrap_servers = f"127.0.0.1:{port}"
    made = tried(pipeline, message(1))
    assert made.outcome.row.told.errors == ()
    [note] = made.notes
    assert "the brokers do not say" in note


def test_message_that_is_too_large_is_a_dead_letter(make_pipeline: MakePipeline) -> None:
    """By the limits of the topics and the settings."""
    made = tried(make_pipeline(KAFKA_MAX_MESSAGE_BYTES="5000"), message(1, message="x" * 5_000))
    assert made.outcome.row.told.reason == "message-too-large"


def test_required_source_decides_as_in_a_batch(make_pipeline: MakePipeline) -> None:
    """A user that does not exist makes a dead letter where users are required."""
    made = tried(make_pipeline(ENRICHMENT_REQUIRED_SOURCES="user-profile"), message(1, user_id="nobody"))
    assert made.outcome.row.told.reason == "user-not-found"
