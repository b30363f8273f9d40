"""A dependency that is down for a whole batch: published partial and pending, or held until the deadline."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from typing import Any

import psycopg
import pytest

from enrichment.batch import Batch
from enrichment.batches import stages
from enrichment.batches.outages import Outage, hold
from enrichment.batches.stages import LookedUp
from enrichment.conservation.committed import read
from enrichment.enrichers.user import USER
from enrichment.errors import OutageHeld, SettingsError
from enrichment.repair.pending import Missing, Publication
from tests.fixtures.origins import said_origin
from tests.fixtures.partials import headers_of
from tests.fixtures.pipeline import MakePipeline, Pipeline, message
from tests.fixtures.user_service import UserService

MESSAGES = 200
QUICK = {"USER_SERVICE_RETRIES": "0", "KAFKA_CHUNK_SIZE": "50"}


def publish_without_users(pipeline: Pipeline, user_service: UserService, run_id: str = "run") -> Batch:
    """Publish a batch while the user service is down; the ledger knows it as published."""
    user_service.set_fault(status=503)
    pipeline.produce([message(n) for n in range(MESSAGES)])
    [batch] = pipeline.claim(run_id)
    pipeline.finish(pipeline.stage(batch))
    user_service.end_fault()
    return batch


def due(pipeline: Pipeline, **which: Any) -> list[Missing]:
    """What the repair would find."""
    with pipeline.resources() as r:
        return r.pending.due(**which)


def publications(pipeline: Pipeline, batch: Batch) -> list[Publication]:
    """Where a batch and its corrections lie."""
    with pipeline.resources() as r:
        return r.pending.publications(batch.batch_id)


def test_outage_leaves_a_partial_batch_that_is_pending(make_pipeline: MakePipeline, user_service: UserService) -> None:
    """The user service is down: every message is published without its profile, nothing is dead, and the batch waits
    for its repair. The same for a source without which a message is otherwise dead."""
    pipeline = make_pipeline(**QUICK, ENRICHMENT_REQUIRED_SOURCES="user-profile")
    batch = publish_without_users(pipeline, user_service)
    report = pipeline.check()
    assert report.ok, report.summary()
    assert (report.partial, report.dead) == (MESSAGES, 0)
    assert report.partial_errors == {"user-service-error": MESSAGES}
    [missing] = due(pipeline)
    assert (missing.batch_id, missing.source, missing.messages) == (batch.batch_id, "user-profile", MESSAGES)


def test_missing_user_is_still_fatal_where_required(make_pipeline: MakePipeline) -> None:
    """Without an outage the policy of required sources stays what it is."""
    pipeline = make_pipeline(**QUICK, ENRICHMENT_REQUIRED_SOURCES="user-profile")
    pipeline.produce([message(n, user_id="nobody") for n in range(10)])
    assert pipeline.run()[0].counts.dead == 10
    assert due(pipeline) == []


def test_wrong_business_query_fails_its_task_and_publishes_nothing(pipeline: Pipeline) -> None:
    """The users' own table has another name: that is no outage which ends by itself. With the query mended the same
    batch goes on."""
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute("ALTER TABLE demo_requests RENAME TO elsewhere")
    pipeline.produce([message(n) for n in range(MESSAGES)])
    [batch] = pipeline.claim()
    drained = pipeline.drain(batch)
    with pytest.raises(SettingsError, match=r'business_context/fetch.sql is wrong: relation "demo_requests" does not'):
        pipeline.enrich(drained.batch)
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute("ALTER TABLE elsewhere RENAME TO demo_requests")
    pipeline.enrich(drained.batch)
    assert pipeline.finish(drained).counts.by_source["business-context"] == MESSAGES
    assert due(pipeline) == []


def test_publication_holds_every_message_of_the_batch(pipeline: Pipeline, user_service: UserService) -> None:
    """Between the noted offsets lie all messages of the batch; those of others are told apart by a header."""
    pipeline.produce([message(n) for n in range(40)])
    pipeline.run("before")
    batch = publish_without_users(pipeline, user_service, "down")
    pipeline.produce([message(n) for n in range(40)])
    pipeline.run("after")
    [publication] = publications(pipeline, batch)
    topic = pipeline.environment["KAFKA_OUTPUT_TOPIC"]
    with closing(read(pipeline.bootstrap_servers, topic, publication.ranges)) as messages:
        ids = [said_origin(headers_of(m)).batch_id for m in messages]
    assert ids == [batch.batch_id] * MESSAGES


def test_publish_killed_after_its_commit_is_still_pending(pipeline: Pipeline, user_service: UserService) -> None:
    """`kill -9` between commit and ledger: nothing is due until the retry has said that the batch is published; then
    the repair finds all of its messages."""
    user_service.set_fault(status=503)
    pipeline.produce([message(n) for n in range(MESSAGES)])
    [batch] = pipeline.claim()
    staged = pipeline.stage(batch)
    process = pipeline.publish_in_process(staged, "after-commit")
    process.communicate(pipeline.manifest(staged), timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert due(pipeline) == []
    assert not pipeline.finish(staged).produced
    assert len(due(pipeline)) == 1
    [publication] = publications(pipeline, batch)
    with closing(read(pipeline.bootstrap_servers, pipeline.environment["KAFKA_OUTPUT_TOPIC"], publication.ranges)) as m:
        assert len(list(m)) == MESSAGES


def test_batch_is_held_until_the_deadline_of_its_first_claim(
    make_pipeline: MakePipeline, user_service: UserService
) -> None:
    """A held batch fails its task by name and loses nothing; the deadline counts from the first claim of its offsets,
    also when a later run claims them again; then it is published partial."""
    pipeline = make_pipeline(**QUICK, ENRICHMENT_OUTAGE_POLICY="hold", ENRICHMENT_OUTAGE_HOLD_DEADLINE_MINUTES="10")
    pipeline.produce([message(n) for n in range(20)])
    [batch] = pipeline.claim("first")
    outage = Outage("user-profile", 20)
    with pipeline.resources() as r:
        with pytest.raises(OutageHeld, match="user-profile is down, 20 messages wait"):
            hold(r.ledger, r.settings.pipeline, batch, outage)
        [again] = pipeline.claim("second")
        r.postgres.execute("UPDATE enrichment_jobs SET claimed_at = now() - interval '9 min' WHERE run_id = 'first'")
        with pytest.raises(OutageHeld):
            hold(r.ledger, r.settings.pipeline, again, outage)
        r.postgres.execute("UPDATE enrichment_jobs SET claimed_at = now() - interval '11 min' WHERE run_id = 'first'")
        hold(r.ledger, r.settings.pipeline, again, outage)
    user_service.set_fault(status=503)
    assert pipeline.finish(pipeline.stage(again)).counts.partial == 20


def test_task_of_a_held_batch_fails_until_the_source_is_back(
    make_pipeline: MakePipeline, user_service: UserService
) -> None:
    """The look-up's task fails by name and nothing is committed; once the source answers, the next try goes on, and
    every message is enriched. Past the deadline it goes on without."""
    pipeline = make_pipeline(**QUICK, ENRICHMENT_OUTAGE_POLICY="hold", USER_SERVICE_BREAKER_FAILURES="1000")
    pipeline.produce([message(n, user_id="user-1") for n in range(20)])
    [batch] = pipeline.claim()
    drained = pipeline.drain(batch)

    def look_up() -> LookedUp:
        with pipeline.resources() as r:
            return stages.look_up(r, USER, drained.batch)

    user_service.set_fault(status=503)
    for _ in range(2):
        with pytest.raises(OutageHeld, match="user-profile is down"):
            look_up()
    with psycopg.connect(pipeline.dsn) as connection:
        connection.execute("UPDATE enrichment_jobs SET claimed_at = now() - interval '1 hour'")
    assert look_up().outage == Outage("user-profile", 20)
    user_service.end_fault()
    assert look_up().outage is None
    assert pipeline.finish(pipeline.stage(batch)).counts.enriched == 20
    assert due(pipeline) == []


def test_published_batch_holds_nobody(make_pipeline: MakePipeline) -> None:
    """Claims that were published long ago are no part of a later batch's time."""
    pipeline = make_pipeline(**QUICK, ENRICHMENT_OUTAGE_POLICY="hold")
    pipeline.produce([message(n) for n in range(20)])
    [old] = pipeline.claim("old")
    pipeline.finish(pipeline.stage(old))
    pipeline.produce([message(n) for n in range(20)])
    [new] = pipeline.claim("new")
    with pipeline.resources() as r:
        assert 0 <= r.ledger.held_seconds(new) < 60
        assert r.ledger.held_seconds(old) == 0


def test_default_policy_and_dry_runs_hold_nothing(pipeline: Pipeline, make_pipeline: MakePipeline) -> None:
    """Only the declared policy has a batch wait; a dry run counts at once."""
    pipeline.produce([message(1)])
    [batch] = pipeline.claim()
    with pipeline.resources() as r:
        hold(r.ledger, r.settings.pipeline, batch, Outage("user-profile", 1))
    held = make_pipeline(ENRICHMENT_OUTAGE_POLICY="hold")
    held.produce([message(1)])
    [dry] = held.claim(dry_run=True)
    with held.resources() as r:
        hold(r.ledger, r.settings.pipeline, dry, Outage("user-profile", 1))
        assert r.ledger.held_seconds(dry) < 60  # the deadline has not come


def test_value_of_a_partial_message_names_what_failed(pipeline: Pipeline, user_service: UserService) -> None:
    """Consumers see null columns, the error, and the sources that did answer."""
    batch = publish_without_users(pipeline, user_service)
    [publication] = publications(pipeline, batch)
    with closing(read(pipeline.bootstrap_servers, pipeline.environment["KAFKA_OUTPUT_TOPIC"], publication.ranges)) as m:
        values = [json.loads(one.value() or b"") for one in m]
    assert {v["user_subscription_tier"] for v in values} == {None}
    assert {tuple(v["enrichment_sources"]) for v in values} == {("geo-ip", "business-context")}
