"""The StackLens page in Airflow's UI, in a real browser on the stack of `make run`."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import psycopg
import pytest
import requests
from playwright.sync_api import FrameLocator, expect

from tests.fixtures.browser import frame_of
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)


def figure(frame: FrameLocator, name: str) -> str:
    """The value beside a name."""
    return frame.locator("#figures div", has_text=name).locator("dd").inner_text()


def test_page_says_how_enrichment_is(airflow: Airflow, stream: Stream, make_page: Any) -> None:
    """From the navigation; what it says is what the ledger says, and its link leads to the run."""
    stream.produce([b"no json" if n % 10 == 0 else message(n) for n in range(200)])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    page = make_page()
    frame = frame_of(page)
    expect(frame.locator("#health")).to_have_text("degraded")  # a tenth of them is dead, or nearly
    expect(frame.locator("#findings")).to_contain_text("of the messages with an error")

    def recorded() -> tuple[str, str]:
        with psycopg.connect(stream.stack.stacklens_dsn) as connection:
            [found] = connection.execute(
                "SELECT count(*)::text, (array_agg(run_id ORDER BY published_at DESC))[1] FROM enrichment_jobs"
                " WHERE published_at > now() - interval '5 minutes' AND purpose = '{}'"
            ).fetchall()
        return found

    # The page looks every few seconds, and batches of other tests come to be older than five minutes meanwhile.
    eventually(lambda: figure(frame, "Batches") == recorded()[0], "the ledger's count")
    _, run_id = recorded()
    expect(frame.locator("#lag p")).to_have_text("Nothing waits in 4 partitions.")
    expect(frame.locator("#errors")).to_contain_text("invalid-json")
    expect(frame.locator("#caches tbody tr")).to_have_count(3)
    frame.locator("#figures a").click()
    page.wait_for_url(lambda url: "/dags/stacklens_enrichment/runs/" in url)
    assert unquote(page.url).endswith(run_id)


def test_page_follows_the_theme_and_fits_a_phone(make_page: Any) -> None:
    """As Airflow is, dark or light; nothing is wider than the screen."""
    grounds = []
    for scheme in ("light", "dark"):
        frame = frame_of(make_page(color_scheme=scheme, viewport={"width": 390, "height": 800}))
        body = frame.locator("body")
        grounds.append(body.evaluate("body => getComputedStyle(body).backgroundColor"))
        assert body.evaluate("body => body.scrollWidth <= document.documentElement.clientWidth")
    assert grounds == ["rgb(255, 255, 255)", "rgb(17, 20, 24)"]


@pytest.mark.parametrize("route", ["", "main.js", "page.css", "api/now"])
def test_nobody_sees_it_without_a_login(airflow: Airflow, route: str) -> None:
    """Neither figures nor the empty page."""
    answer = requests.get(f"{airflow.stack.airflow_url}/stacklens/{route}", timeout=30)
    assert answer.status_code == 401
