"""Batches, dead letters and partials on the StackLens page, and its tabs in Airflow's own pages, in a real browser."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

import psycopg
import pytest
import requests
from playwright.sync_api import FrameLocator, Page, expect

from enrichment.store.jobs import Job
from tests.fixtures.browser import FRAME, frame_of
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)
ROUTES = ["batches", "batch?id=x", "batch/check?id=x", "dead-letters", "partials"]
TABS = ["batches", "dead-letters", "partials"]


@pytest.fixture(scope="module")
def job(airflow: Airflow, stream: Stream) -> Job:
    """A batch of which every tenth message is dead, and more behind it."""
    stream.produce([b"no json" if n % 10 == 0 else message(n) for n in range(200)])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    with psycopg.connect(stream.stack.stacklens_dsn) as connection:
        [(run_id,)] = connection.execute(
            "SELECT run_id FROM enrichment_jobs WHERE messages_dead >= 20 ORDER BY claimed_at DESC LIMIT 1"
        ).fetchall()
    [found] = stream.jobs(run_id)
    return found


def figure(frame: FrameLocator | Page, name: str) -> str:
    """The value beside a name."""
    return frame.locator("#figures div", has=frame.locator("dt", has_text=name)).locator("dd").first.inner_text()


def test_ledger_leads_to_a_batch_and_its_log(airflow: Airflow, job: Job, make_page: Any) -> None:
    """The list is the ledger's; a filter finds a message's batch; the batch says what the ledger says."""
    page = make_page(tab="batches")
    frame = frame_of(page, "tbody tr")
    first = next(r for r in job.ranges if r.span)
    frame.locator("summary").click()
    frame.get_by_label("Partition").fill(str(first.partition))
    frame.get_by_label("Offset").fill(str(first.start))
    frame.get_by_label("Kind").select_option("live")
    frame.get_by_role("button", name="Filter").click()
    expect(frame.locator("tbody tr")).to_have_count(1)
    assert job.run_id in frame.locator("tbody tr").inner_text()
    frame.locator("tbody th a").click()
    expect(frame.locator("#label")).to_have_text(job.batch.label)
    assert figure(frame, "Messages") == str(job.messages_read)
    assert figure(frame, "Dead letters") == str(job.messages_dead)
    for title in ("Stages", "Who answered", "Errors by reason", "Offsets by partition", "Changes, newest first"):
        expect(frame.get_by_role("region", name=title).locator("tbody tr").first).to_be_visible()
    frame.get_by_role("link", name="log").click()
    page.wait_for_url(lambda url: f"/runs/{quote(job.run_id, safe='')}/tasks/claim" in url)


def test_batch_is_checked_at_the_press_of_a_button(job: Job, make_page: Any) -> None:
    """By the independent reader, on the batch's own messages."""
    frame = frame_of(make_page(tab=f"batch?id={quote(job.batch_id, safe='')}"), "#check button")
    frame.get_by_role("button", name="Check conservation").click()
    expect(frame.locator("#checked strong")).to_have_text("holds")
    expect(frame.locator("#checked")).to_contain_text(f"{job.messages_read} messages in")


def test_tabs_of_airflow_open_the_batch(airflow: Airflow, job: Job, make_page: Any) -> None:
    """That of a run and that of a task instance, beside Airflow's own."""
    page = make_page(tab="batches")
    frame_of(page, "tbody tr")
    run = f"{airflow.stack.airflow_url}/dags/{airflow.dag_id}/runs/{quote(job.run_id, safe='')}"
    for address in (run, f"{run}/tasks/claim"):
        page.goto(address)
        page.get_by_role("link", name="StackLens", exact=True).last.click()
        expect(frame_of(page, "#figures dt").locator("#label")).to_have_text(job.batch.label)


def test_dead_letters_are_shown_and_sent_in_again(airflow: Airflow, job: Job, make_page: Any) -> None:
    """By fingerprint, with a sample; the redrive's form is filled in and starts a dry run of these alone."""
    page = make_page(tab="dead-letters")
    group = frame_of(page, ".fingerprint").locator(".fingerprint[data-reason=invalid-json]").first
    group.locator("summary").click()
    expect(group.locator("pre").first).to_have_text("no json")
    group.get_by_role("button", name="Redrive").click()
    dialog = page.frame_locator(FRAME).get_by_role("dialog", name="Start stacklens_dlq_redrive")
    expect(dialog.get_by_label("invalid-json")).to_be_checked()
    expect(dialog.get_by_label("missing-field")).not_to_be_checked()
    expect(dialog.get_by_label("Dry run")).to_be_checked()
    dialog.get_by_role("button", name="Start a dry run").click()
    started = dialog.get_by_role("status").get_by_role("link")
    run_id = started.inner_text()
    redrive = airflow.of("stacklens_dlq_redrive")
    conf = redrive.call("GET", f"/api/v2/dags/{redrive.dag_id}/dagRuns/{run_id}")["conf"]
    assert (conf["reasons"], conf["dry_run"], conf["max_letters"]) == (["invalid-json"], True, 10_000)
    assert redrive.finish(run_id) == "success"
    started.click()
    page.wait_for_url(lambda url: unquote(url).endswith(run_id))


def test_partials_and_what_mends_them(job: Job, stream: Stream, make_page: Any, make_page_as: Any) -> None:
    """None on a good day; one that waits has its repair, which somebody who only looks may not start."""
    frame = frame_of(make_page(tab="partials"), "#said")
    expect(frame.locator("main")).to_contain_text("nothing waits for a repair")
    with psycopg.connect(stream.stack.stacklens_dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO enrichment_pending (batch_id, source, topic, messages, state, next_attempt_at)"
            " VALUES (%s, 'geo-ip', 'out', 3, 'open', now() + interval '1 day')",
            [job.batch_id],
        )
        try:
            viewer = make_page_as("viewer", "partials")
            viewer.get_by_role("button", name="Repair geo-ip").click()
            dialog = viewer.get_by_role("dialog", name="Start stacklens_repair")
            expect(dialog.get_by_label("Source")).to_have_value("1")
            dialog.get_by_role("button", name="Start a dry run").click()
            expect(dialog.get_by_role("status")).to_contain_text("You may not start runs of stacklens_repair")
        finally:
            connection.execute("DELETE FROM enrichment_pending WHERE batch_id = %s", [job.batch_id])


@pytest.mark.parametrize("tab", TABS)
def test_tabs_fit_a_phone(job: Job, make_page: Any, tab: str) -> None:
    """In the dark, too: nothing is wider than the screen."""
    shown = {"dead-letters": ".fingerprint", "batches": "tbody tr"}.get(tab, "#said")
    frame = frame_of(make_page(tab=tab, color_scheme="dark", viewport={"width": 390, "height": 800}), shown)
    assert frame.locator("body").evaluate("body => body.scrollWidth <= document.documentElement.clientWidth")


def test_person_without_rights_gets_nothing(job: Job, make_page_as: Any, airflow: Airflow) -> None:
    """Logged in, with no role: neither the page nor a figure. With the role of a viewer, the same routes answer."""
    nobody, viewer = make_page_as(None), make_page_as("viewer")
    expect(viewer.locator("#figures dt").first).to_be_visible()
    assert "StackLens enrichment" not in nobody.content()
    for route in ("", "main.js", *(f"api/{route}" for route in ["now", *ROUTES])):
        address = f"{airflow.stack.airflow_url}/stacklens/{route}"
        assert nobody.request.get(address).status == 403, route
        assert viewer.request.get(address).status in (200, 404), route


@pytest.mark.parametrize("route", ROUTES)
def test_nobody_sees_it_without_a_login(airflow: Airflow, route: str) -> None:
    """No figures, no messages."""
    assert requests.get(f"{airflow.stack.airflow_url}/stacklens/api/{route}", timeout=30).status_code == 401
