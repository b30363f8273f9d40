"""The whole road through the real scheduler: what a user of the UI does, and what goes wrong in the middle of it.

The DAG's own schedule goes on meanwhile, as it does for users: a scheduled run may take what a test has sent.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from enrichment.settings import load
from enrichment.store.jobs import Job, JobState
from include.local.generate import Options, messages
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import AT_ONCE, Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)


def drained(airflow: Airflow, stream: Stream) -> str:
    """Have everything enriched that waits; returns the test's own run."""
    run_id = airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    return run_id


def test_contract_example_holds_literally(airflow: Airflow, stream: Stream) -> None:
    """The example of the contract: country, tier, age, unit, risk, all three sources, and no error."""
    stream.produce([message(1, source_ip="8.8.8.8", user_id="user-123", request_id="req-789", message="the example")])
    drained(airflow, stream)
    [found] = [output for output in stream.outputs() if output["message"] == "the example"]
    expected = {
        "geo_country": "United States",
        "user_subscription_tier": "premium",
        "user_account_age_days": 365,
        "user_company": "Acme Corp",
        "business_unit": "payments",
        "business_risk_score": 0.15,
        "enrichment_sources": ["geo-ip", "user-profile", "business-context"],
        "enrichment_errors": None,
        "source_ip": "8.8.8.8",
    }
    assert {name: found[name] for name in expected} == expected


def test_generated_stream_is_conserved(airflow: Airflow, stream: Stream) -> None:
    """Thousands of messages, malformed ones among them: each has one output, and the ledger says the same."""
    stream.produce([record.value for record in messages(Options(count=3000, seed=1, malformed=0.05))])
    drained(airflow, stream)
    report = stream.check()
    assert report.ok, report.summary()
    assert report.dead > 0


def claimed_by_hand(airflow: Airflow, stream: Stream, **conf: Any) -> list[Job]:
    """The ledger rows of a run by hand that had something to do; a scheduled one may be quicker, then once more."""
    for _ in range(5):
        stream.produce([message(n) for n in range(100)])
        if jobs := stream.jobs(airflow.run(**conf)):
            return jobs
    raise AssertionError("a scheduled run was quicker five times in a row")


def test_dry_run_by_hand_commits_nothing(airflow: Airflow, stream: Stream) -> None:
    """The form's dry run counts what would come out, and leaves the messages to the next run."""
    drained(airflow, stream)
    jobs = claimed_by_hand(airflow, stream, dry_run=True, max_messages=10, partitions=[0])
    assert [(job.state, job.messages_read, [r.partition for r in job.ranges]) for job in jobs] == [
        (JobState.DRY_RUN, 10, [0])
    ]
    drained(airflow, stream)
    report = stream.check()
    assert report.ok, report.summary()


def test_killed_publish_is_retried_by_airflow(airflow: Airflow, stream: Stream) -> None:
    """`kill -9` of the publish task: Airflow tries again, and every message is out once."""
    # Enough that the task is still at it when it is found.
    stream.produce([message(n) for n in range(150_000)])
    asked_for = airflow.trigger()
    run_id = airflow.kill_running("batch.publish")
    assert [airflow.finish(each) for each in (run_id, asked_for)] == ["success"] * 2
    assert airflow.tasks(run_id)["batch.publish"]["try_number"] == 2
    report = stream.check()
    assert report.ok, report.summary()


def test_killed_claim_enriches_at_its_next_try(airflow: Airflow, stream: Stream) -> None:
    """A small batch is enriched by the task that claims it: wherever that is killed, every message is out once."""
    stream.produce([message(n) for n in range(AT_ONCE)])
    asked_for = airflow.trigger()
    run_id = airflow.kill_running("claim")
    assert [airflow.finish(each) for each in (run_id, asked_for)] == ["success"] * 2
    assert airflow.tasks(run_id)["claim"]["try_number"] == 2
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    report = stream.check()
    assert report.ok, report.summary()


@pytest.mark.parametrize(
    ("count", "task_ids"),
    [
        (500, ["claim"]),
        (2 * AT_ONCE, ["claim", "batch.drain", "batch.geo", "batch.business", "batch.publish", "batch.clean"]),
    ],
    ids=["at once", "by tasks"],
)
def test_cleared_run_publishes_nothing_twice(airflow: Airflow, stream: Stream, count: int, task_ids: list[str]) -> None:
    """Clearing all tasks of a run that succeeded, and each of them alone, changes nothing outside."""
    stream.produce([message(n) for n in range(count)])
    run_id = airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    before = stream.check()
    airflow.clear(run_id)
    assert airflow.finish(run_id) == "success"
    for task_id in task_ids:
        airflow.clear(run_id, task_id)
        assert airflow.finish(run_id) == "success", task_id
    report = stream.check()
    assert report.ok, report.summary()
    assert (report.analytics, report.dead) == (before.analytics, before.dead)


def test_stopped_run_leaves_its_messages_to_the_next(airflow: Airflow, stream: Stream) -> None:
    """A run that is marked as failed in the middle of its work ends within seconds, and nothing is lost."""
    stream.produce([message(n) for n in range(60_000)])
    run_id = airflow.trigger()
    eventually(
        lambda: airflow.tasks(run_id).get("batch.drain", {}).get("state") in ("running", "success") or None, "drain"
    )
    airflow.fail(run_id)
    drained(airflow, stream)
    report = stream.check()
    assert report.ok, report.summary()


def test_staging_is_empty_when_all_is_done(airflow: Airflow, stream: Stream) -> None:
    """The teardown has removed every batch's files, those of the failed and cleared runs too."""
    drained(airflow, stream)
    folder = stream.stack.directory / "staging"
    eventually(lambda: not list(folder.iterdir()) or None, "the clean-up")


def test_ledger_tells_every_run(airflow: Airflow, stream: Stream) -> None:
    """A published batch has its counts, its caches and its durations in the ledger."""
    jobs = claimed_by_hand(airflow, stream)
    for job in jobs:
        assert job.state is JobState.PUBLISHED
        assert set(job.cache_counts) == {"geo", "user", "business"}
        assert {"geo", "user", "business", "publish"} <= set(job.durations)


def test_warnings_stand_in_the_note_of_the_run(airflow: Airflow, stream: Stream) -> None:
    """A backlog that is older than what the dead letters' topic keeps: whichever run claims it says so where people
    look."""
    kafka, years = load().kafka, 365 * 86_400_000
    admin = AdminClient({"bootstrap.servers": stream.stack.bootstrap_servers})

    def keep(milliseconds: int) -> None:
        entry = ConfigEntry("retention.ms", str(milliseconds), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, kafka.dlq_topic, incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result()

    drained(airflow, stream)  # what other tests have left is younger, and would stand before it
    keep(20 * years)  # longer ago than any message of the other tests
    try:
        producer = Producer({"bootstrap.servers": stream.stack.bootstrap_servers})
        producer.produce(kafka.input_topic, message(1), b"k", 0, timestamp=25 * years)
        assert producer.flush(20) == 0
        producer.close()
        drained(airflow, stream)
        with psycopg.connect(stream.stack.stacklens_dsn) as connection:
            [(run_id, warnings)] = connection.execute(
                "SELECT run_id, warnings FROM enrichment_jobs WHERE warnings::text LIKE %s ORDER BY claimed_at LIMIT 1",
                [f"%{kafka.dlq_topic}%"],
            ).fetchall()
    finally:
        keep(-1)
    [text] = warnings
    assert text.startswith(f"topic {kafka.dlq_topic} deletes what is older than 7300 days")
    assert airflow.call("GET", f"/api/v2/dags/{airflow.dag_id}/dagRuns/{quote(run_id)}")["note"] == text
