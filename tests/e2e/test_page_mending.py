"""The ways on from what is wrong, on the StackLens page in a real browser: each is gone to its end."""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from playwright.sync_api import expect

from enrichment.settings import load
from tests.fixtures.browser import frame_of
from tests.fixtures.kafka import alter
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)


def test_paused_dag_is_unpaused(airflow: Airflow, make_page: Any, make_page_as: Any) -> None:
    """Somebody has paused it and forgotten: the page says so, and whoever may unpauses it there."""
    path = f"/api/v2/dags/{airflow.dag_id}"
    airflow.call("PATCH", path, {"is_paused": True})
    try:
        frame, viewer = frame_of(make_page()), make_page_as("viewer")
        expect(frame.locator("#health")).to_have_text("down")
        expect(frame.locator("#findings > li").first).to_contain_text("stacklens_enrichment is paused")
        viewer.get_by_role("button", name="Unpause stacklens_enrichment").click()
        expect(viewer.locator("#findings [role=status]")).to_have_text(
            "You may not unpause stacklens_enrichment: ask somebody whose role allows it."
        )
        frame.get_by_role("button", name="Unpause stacklens_enrichment").click()
        expect(frame.locator("#findings")).not_to_contain_text("is paused")
        assert airflow.call("GET", path)["is_paused"] is False
    finally:
        airflow.call("PATCH", path, {"is_paused": False})


def test_runs_that_fail_before_there_is_a_batch_are_told_of(airflow: Airflow, make_page: Any) -> None:
    """The ledger knows nothing of them: a wrong setting, a group that somebody moved. One that succeeds ends it."""
    failed = airflow.trigger(dryrun=True)  # a parameter that the DAG does not have
    assert airflow.finish(failed) == "failed"
    frame = frame_of(make_page())
    told = frame.locator("#findings > li", has_text="the last run of stacklens_enrichment failed")
    expect(told.get_by_role("link", name="its run")).to_have_attribute("href", re.compile(f"/runs/{quote(failed)}$"))
    expect(frame.locator("#health")).not_to_have_text("healthy")
    airflow.run()
    expect(told).to_have_count(0)


def test_missed_level_leads_to_what_mends_it(airflow: Airflow, stream: Stream, make_page: Any) -> None:
    """Dead letters to their redrive, filled in, and to their tab; the run that it starts is a dry one of them. Those
    that are at fault themselves would only fail again."""
    kafka, servers = load().kafka, stream.stack.bootstrap_servers
    alter(servers, kafka.output_topic, max_message_bytes="4000")
    try:
        stream.produce([b"no json" if n % 5 == 0 else message(n) for n in range(400)])
        stream.produce([message(0, message="m" * 5_000)])
        airflow.run()
        eventually(lambda: stream.lag() == 0, "the end of the backlog")
    finally:
        alter(servers, kafka.output_topic, max_message_bytes=str(kafka.max_message_bytes))
    frame = frame_of(make_page())
    missed = frame.locator("#findings > li", has_text="of the messages with an error")
    missed.get_by_role("button", name="Start stacklens_dlq_redrive").click()
    dialog = frame.get_by_role("dialog", name="Start stacklens_dlq_redrive")
    expect(dialog.get_by_label("message-too-large")).to_be_checked()
    expect(dialog.get_by_label("invalid-json")).not_to_be_checked()
    expect(dialog.get_by_label("Dry run")).to_be_checked()
    dialog.get_by_role("button", name="Start a dry run").click()
    run_id = dialog.get_by_role("status").get_by_role("link").inner_text()
    assert airflow.of("stacklens_dlq_redrive").finish(run_id) == "success"
    dialog.get_by_role("button", name="Close").click()
    expect(missed).to_contain_text("fail again as they are")
    missed.get_by_role("link").first.click()
    expect(frame.locator(".fingerprint[data-reason=invalid-json]").first).to_be_visible()


def test_failed_live_batch_says_what_comes_next(airflow: Airflow, stream: Stream, make_page: Any) -> None:
    """Its log, and a run that takes its messages again."""
    stream.produce([message(0)])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    with psycopg.connect(stream.stack.stacklens_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO enrichment_jobs (batch_id, dag_id, run_id, lane, topic, group_id, ranges, state, error,"
            " settings_fingerprint, claimed_at) VALUES ('x/y/0', %s, 'y', 0, %s, %s,"
            """ '[{"partition": 0, "start": 900000000, "end": 900000001}]', 'failed', 'a bug', '0', now())""",
            [airflow.dag_id, load().kafka.input_topic, load().kafka.consumer_group],
        )
        try:
            frame = frame_of(make_page())
            failed = frame.locator("#findings > li", has_text="batch x/y/0 of lane 0 has failed")
            expect(failed).to_contain_text("Nothing needs to be cleared")
            failed.get_by_role("button", name="Start stacklens_enrichment").click()
            dialog = frame.get_by_role("dialog", name="Start stacklens_enrichment")
            dialog.get_by_role("button", name="Start the run").click()
            run_id = dialog.get_by_role("status").get_by_role("link").inner_text()
            assert airflow.finish(run_id) == "success"
        finally:
            connection.execute("DELETE FROM enrichment_jobs WHERE batch_id = 'x/y/0'")


def test_stopped_redrive_is_cleared_and_goes_on(
    airflow: Airflow, stream: Stream, make_page: Any, make_page_as: Any
) -> None:
    """Somebody has stopped it. Its run is cleared on the page, and it is published; the search tells of it before and
    after, by the dead letter."""
    word = uuid.uuid4().hex[:12]
    stream.produce([f"no json, but {word}".encode()])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    redrive = airflow.of("stacklens_dlq_redrive")
    run_id = redrive.trigger(dry_run=False, reasons=["invalid-json"], max_attempts=100)

    def batch_of_run() -> str | None:
        with psycopg.connect(stream.stack.stacklens_dsn) as connection:
            query = "SELECT batch_id FROM enrichment_jobs WHERE run_id = %s AND dag_id = %s"
            found = connection.execute(query, [run_id, redrive.dag_id]).fetchone()
        return None if found is None else str(found[0])

    batch_id = eventually(batch_of_run, "the claim of the redrive", every=0.1)
    redrive.fail(run_id)
    redrive.finish(run_id)  # in whatever state: Airflow goes by the tasks that it has skipped

    search = f"search?by=trace_id&value={word}"
    story = frame_of(make_page(tab=search), ".story[open] .redriven").locator(".redriven").first
    expect(story).to_contain_text("is in a redrive that is not published, as attempt 2: batch")
    story.get_by_role("link", name=batch_id).click()

    tab = f"batch?id={quote(batch_id, safe='')}"
    viewer = make_page_as("viewer", tab)
    viewer.get_by_role("button", name="Clear its run").click()
    expect(viewer.get_by_role("dialog").get_by_role("alert")).to_contain_text("You may not do this")

    frame = frame_of(make_page(tab=tab), "#mending button")
    expect(frame.locator("#mending")).to_contain_text("its run has ended: clear it")
    frame.get_by_role("button", name="Clear its run").click()
    dialog = frame.get_by_role("dialog", name=f"Clear {run_id}")
    expect(dialog.locator(".squares")).to_contain_text("batch.publish")
    expect(dialog.locator(".squares")).to_contain_text("claim: ")
    dialog.get_by_role("button", name="Clear 7 tasks").click()
    expect(dialog.get_by_role("status")).to_contain_text("Cleared: ")
    assert redrive.finish(run_id) == "success"
    dialog.get_by_role("button", name="Close").click()
    expect(frame.locator("#figures .state")).to_have_text("published")
    expect(frame.locator("#mending")).to_be_hidden()
    report = stream.check()
    assert report.ok, report.summary()

    told = frame_of(make_page(tab=search), ".story[open] .redriven").locator(".redriven")
    expect(told.first).to_contain_text("was sent in again")
    expect(told.first).to_contain_text(f"as attempt 2, by batch {batch_id}.")
    expect(told.nth(1)).to_contain_text("was not sent in again")  # it is no JSON still: a dead letter once more
