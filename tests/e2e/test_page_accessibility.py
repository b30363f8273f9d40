"""Every tab of the page, those to come as well, for everybody: by axe-core, by keyboard, dark and light, on a phone."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Frame, Page, expect

from tests.fixtures.browser import FRAME, frame_of
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
VIEWPORTS = {"phone": {"width": 390, "height": 800}, "desktop": {"width": 1280, "height": 900}}
MOST_STOPS = 500  # of the tabulator key on one tab of the page
# Every element that the keyboard must reach. Of radio buttons it reaches one, and what is hidden or off it does not.
REACHABLE = """() => [...document.querySelectorAll(
    "a[href], button, input, select, textarea, summary, [tabindex='0']"
)].filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled && one.type !== "radio")"""
# What has the focus, the first time that it has: its place in the document, and what a person would call it.
FOCUSED = """() => {
    const one = document.activeElement;
    if (one === null || one === document.body) return null;
    one.dataset.reached = "";
    return one.getAttribute("href") ?? one.getAttribute("aria-label") ?? one.textContent.slice(0, 40);
}"""


@pytest.fixture(scope="module")
def with_data(airflow: Airflow, stream: Stream) -> Airflow:
    """A stack whose page has something to show: enriched messages, partial ones, and dead letters."""
    odd = [b"no json", message(1, source_ip="nonsense"), message(2, user_id="nobody")]
    stream.produce([*(message(n) for n in range(97)), *odd])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    return airflow


def document_of(page: Page) -> Frame:
    """The document within Airflow's."""
    frame_of(page, "#tabs a")
    frame = page.locator(FRAME).element_handle().content_frame()
    assert frame is not None
    return frame


def tabs_of(frame: Frame) -> list[str]:
    """The page's tabs, as it lists them itself."""
    names: list[str] = frame.eval_on_selector_all("#tabs a", "links => links.map(link => link.hash.slice(1))")
    assert "now" in names
    return names


def show(page: Page, frame: Frame, tab: str) -> None:
    """Go to a tab, and wait until it has loaded what it shows."""
    frame.evaluate("tab => { window.location.hash = tab; }", tab)
    expect(frame.locator(f"#tabs a[href='#{tab}']")).to_have_attribute("aria-current", "page")
    page.wait_for_load_state("networkidle")
    expect(frame.locator("main#tab .tab")).to_be_visible()
    expect(frame.locator("main#tab")).not_to_contain_text("Loading")


def violations(frame: Frame) -> list[str]:
    """What axe-core finds, in words: the rule, where, and what to do."""
    frame.evaluate(AXE)
    found = frame.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", VIEWPORTS)
def test_tabs_are_accessible_and_fit(with_data: Airflow, make_page: Any, scheme: str, viewport: str) -> None:
    """No rule of axe-core's is broken, contrast included; nothing is wider than the screen but what scrolls by itself.

    One page for all tabs: what a tab leaves behind is found, too.
    """
    page = make_page(color_scheme=scheme, viewport=VIEWPORTS[viewport])
    frame = document_of(page)
    found: dict[str, list[str]] = {}
    for tab in tabs_of(frame):
        show(page, frame, tab)
        dark = frame.evaluate("() => document.documentElement.classList.contains('dark')")
        assert dark == (scheme == "dark")
        wide = frame.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found[tab] = violations(frame) + ([f"{wide} px wider than the screen"] if wide > 0 else [])
    assert {tab: wrong for tab, wrong in found.items() if wrong} == {}


def test_keyboard_reaches_everything(with_data: Airflow, make_page: Any) -> None:
    """The link to the content first, then the tabs, then all that can be used on a tab; and out of it again."""
    page = make_page(viewport=VIEWPORTS["desktop"])
    tabs = tabs_of(document_of(page))
    missed = {}
    for tab in tabs:
        page.goto(f"{with_data.stack.airflow_url}/stacklens/#{tab}")  # by itself: Airflow's own stops are not ours
        page.reload()
        frame = page.main_frame
        show(page, frame, tab)
        stops: list[str] = []
        while len(stops) < MOST_STOPS:
            page.keyboard.press("Tab")
            stop = frame.evaluate(FOCUSED)
            if stop is None:
                break
            stops.append(stop)
        assert stops[: 1 + len(tabs)] == ["#tab", *(f"#{name}" for name in tabs)]
        assert len(stops) < MOST_STOPS, f"the keyboard does not leave {tab}: {stops[-5:]}"
        missed[tab] = frame.evaluate(
            f"() => ({REACHABLE})().filter(one => !('reached' in one.dataset)).map(one => one.outerHTML.slice(0, 200))"
        )
    assert {tab: left for tab, left in missed.items() if left} == {}


def test_skip_link_leads_to_the_content(with_data: Airflow, make_page: Any) -> None:
    """Past the tabs: the next stop is within it."""
    page = make_page(viewport=VIEWPORTS["desktop"])
    page.goto(f"{with_data.stack.airflow_url}/stacklens/")
    show(page, page.main_frame, "now")
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main#tab")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.querySelector('main').contains(document.activeElement)")
    assert page.evaluate("() => window.location.hash") == "#now"  # the link changes no tab
