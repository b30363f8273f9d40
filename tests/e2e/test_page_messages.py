"""Messages, search and preview on the StackLens page, in a real browser on the stack of `make run`."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import requests
from playwright.sync_api import FrameLocator, expect

from enrichment.settings import load
from tests.fixtures.browser import frame_of
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def mark(airflow: Airflow, stream: Stream) -> str:
    """A word that is in the trace ids of twenty messages, which are published; one of them is dead, as it is no
    JSON."""
    word = uuid.uuid4().hex[:12]
    broken = f"no json, but trace-{word}-7".encode()
    stream.produce([broken if n == 7 else message(n, trace_id=f"trace-{word}-{n}") for n in range(20)])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    return word


def fits(frame: FrameLocator) -> bool:
    """Nothing is wider than the screen."""
    fitting: bool = frame.locator("body").evaluate("body => body.scrollWidth <= document.documentElement.clientWidth")
    return fitting


def test_messages_are_browsed(mark: str, make_page: Any) -> None:
    """From the navigation: filtered, laid out, copied as the line that came in; and on to older ones and back."""
    page = make_page("messages", permissions=["clipboard-read", "clipboard-write"])
    frame = frame_of(page, "#messages details")
    frame.get_by_label("With this text, or name=value").fill(f"trace_id=trace-{mark}-3")
    frame.get_by_role("button", name="Show").click()
    expect(frame.locator("#looked")).to_contain_text("1 fit")
    frame.locator("#messages summary").click()
    expect(frame.locator("#messages pre")).to_contain_text(f'"trace_id": "trace-{mark}-3"')
    frame.get_by_role("button", name="Copy as a line").click()
    expect(frame.locator("#messages .buttons [role=status]")).to_contain_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == message(3, trace_id=f"trace-{mark}-3").decode() + "\n"
    frame.get_by_label("With this text, or name=value").fill("")
    frame.get_by_role("button", name="Show").click()
    expect(frame.locator("#looked")).to_contain_text("shown; looked at")
    expect(frame.locator("#messages details").nth(19)).to_be_visible()


def test_message_is_followed(mark: str, make_page: Any) -> None:
    """By a field to what became of it, its batch and its sources; the link leads to its run."""
    page = make_page(f"search?by=trace_id&value=trace-{mark}-4")
    frame = frame_of(page, "#stories .compared")
    expect(frame.locator("#searched")).to_contain_text("2 messages found")
    compared = frame.locator("#stories .compared tbody tr")
    expect(compared.filter(has_text="trace_id").locator("td")).to_have_text([f'"trace-{mark}-4"'] * 2)
    expect(compared.filter(has_text="geo_country_code").locator("td").nth(1)).to_contain_text('"US"')
    sources = frame.get_by_role("region", name="What the sources said").locator("tbody tr")
    expect(sources).to_have_count(3)
    expect(sources.first).to_contain_text("answered")
    expect(sources.first).not_to_contain_text("not known")
    expect(frame.locator("#tab")).to_contain_text("all of it")
    frame.get_by_role("region", name="Batches").get_by_role("link").click()
    page.wait_for_url(lambda url: "/dags/stacklens_enrichment/runs/" in url)


def test_dead_letter_is_found_by_what_is_left_of_it(mark: str, make_page: Any) -> None:
    """Its message is no JSON, and holds the trace id all the same; the story says why it is dead, and its message is
    the one that a preview makes the same of."""
    page = make_page(f"search?by=trace_id&value=trace-{mark}-7")
    frame = frame_of(page, "#stories details.story[open]")
    expect(frame.locator("#stories")).to_contain_text("dead letter: invalid-json")
    letter = frame.locator("#stories details details", has_text="dead letter")
    letter.locator("summary").click()
    expect(letter.get_by_role("region", name="The message that it holds")).to_have_text(f"no json, but trace-{mark}-7")
    letter.get_by_role("link", name="Preview").click()
    expect(frame.locator("#outcome")).to_contain_text("invalid-json")
    expect(frame.locator("#pasted")).to_have_value(f"no json, but trace-{mark}-7")


def test_search_says_how_far_it_came(mark: str, make_page: Any) -> None:
    """Also where there is nothing to be found, and what is wrong with what was asked."""
    page = make_page("search?by=trace_id&value=never-heard-of")
    frame = frame_of(page, "#searched")
    said = frame.locator("#searched")
    expect(said).to_have_text("0 messages found. All that can hold more was searched.")
    rows = frame.get_by_role("region", name="How far it was searched").locator("tbody tr")
    expect(rows).to_have_count(5)
    frame.get_by_label("Search by").select_option("position")
    frame.get_by_label("Value").fill("somewhere")
    frame.get_by_role("button", name="Search").click()
    expect(said).to_contain_text("a position is topic/partition/offset")


def test_search_is_stopped_and_goes_on(mark: str, make_page: Any) -> None:
    """Where it was; the server is not asked again until then."""
    page = make_page("search")
    frame = frame_of(page, "form.asked")
    page.route("**/api/search?*", lambda _: None)  # an answer that does not come
    frame.get_by_label("Value").fill(f"trace-{mark}-5")
    frame.get_by_role("button", name="Search").click()
    expect(frame.locator("#searched")).to_contain_text("Searching")
    frame.get_by_role("button", name="Stop").click()
    expect(frame.locator("#searched")).to_have_text("Stopped. 0 messages found. Older messages were not searched yet.")
    page.unroute("**/api/search?*")
    frame.get_by_role("button", name="Go on").click()
    expect(frame.locator("#searched")).to_contain_text("2 messages found")
    expect(frame.locator("#stories details.story")).to_have_count(1)


def test_message_is_followed_from_its_position(mark: str, make_page: Any) -> None:
    """From an enriched message, by what it says about itself, to its input and back."""
    page = make_page(f"messages?topic={load().kafka.output_topic}&text=trace_id%3Dtrace-{mark}-6")
    frame = frame_of(page, "#messages details")
    frame.locator("#messages summary").click()
    frame.locator("#messages").get_by_role("link", name="What happened to it").click()
    expect(frame.locator("#stories .compared")).to_be_visible()
    expect(frame.locator("#searched")).to_have_text("2 messages found. All that can hold more was searched.")


def test_pasted_message_is_tried_out(mark: str, make_page: Any) -> None:
    """What it would become, who says what, and which rules fire; a mistake is a dead letter with its reason."""
    page = make_page("preview")
    frame = frame_of(page, "#pasted")
    frame.locator("#pasted").fill(message(1, trace_id=f"tried-{mark}", user_id="nobody").decode())
    frame.get_by_role("button", name="Preview").click()
    expect(frame.locator("#outcome")).to_contain_text("partial")
    expect(frame.get_by_role("region", name="What the sources say")).to_contain_text("user-not-found")
    shown = json.loads(frame.get_by_role("region", name="The enriched message").inner_text())
    fired = frame.get_by_role("region", name="Risk rules").locator("tbody tr", has_text="yes").locator("th")
    assert sorted(fired.all_inner_texts()) == sorted(shown["business_fraud_indicators"])
    assert fired.all_inner_texts()
    frame.locator("#pasted").fill('{"service": "s"}')
    frame.get_by_role("button", name="Preview").click()
    expect(frame.locator("#outcome")).to_contain_text("missing-field")


def test_tabs_fit_a_phone_in_the_dark(mark: str, make_page: Any) -> None:
    """Whatever is opened in them; every field has a name, and nothing has failed in the browser."""
    page = make_page("messages", color_scheme="dark", viewport={"width": 390, "height": 800})
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    dlq = load().kafka.dlq_topic
    for tab, there in (
        (f"messages?topic={dlq}", "#messages details"),
        (f"search?by=trace_id&value=trace-{mark}-4", "#stories .compared"),
        ("preview", "#pasted"),
    ):
        page.locator("iframe[title=StackLens]").evaluate(
            "(frame, tab) => { frame.contentWindow.location.hash = tab; }", tab
        )
        frame = frame_of(page, there)
        if there == "#messages details":
            frame.locator("#messages summary").first.click()
            expect(frame.locator("#messages pre").first).to_be_visible()
        assert fits(frame)
        nameless = "inputs => inputs.filter(input => !input.labels.length).map(input => input.outerHTML)"
        assert frame.locator("input, select, textarea").evaluate_all(nameless) == []
    assert failures == []


@pytest.mark.parametrize("route", ["topics", "messages?topic=t", "message", "search", "fates", "redriven"])
def test_nobody_sees_messages_without_a_login(airflow: Airflow, route: str) -> None:
    """Nor tries one out."""
    base = f"{airflow.stack.airflow_url}/stacklens/api"
    assert requests.get(f"{base}/{route}", timeout=30).status_code == 401
    assert requests.post(f"{base}/preview", data=b"x", timeout=30).status_code == 401
