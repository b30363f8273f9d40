"""Every tab of the page, those to come as well, for everybody: by axe-core, by keyboard, dark and light, on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Frame, Page, Request, expect

from tests.fixtures.browser import FRAME, OURS, frame_of
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)

AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
VIEWPORTS = {"phone": {"width": 390, "height": 800}, "desktop": {"width": 1280, "height": 900}}
MOST_STOPS = 500  # of the tabulator key in one place
LOOK_MS, QUIET_LOOKS = 100, 4  # an answer may lead to the next question
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


def name_of(place: str) -> str:
    """That of a tab, of a place on it: `batch` of `batch?id=7`."""
    return place.partition("?")[0]


class Visitor:
    """Goes from place to place on StackLens, within Airflow's page or by itself, and waits until each is shown."""

    def __init__(self, page: Page, frame: Frame) -> None:
        self._page, self._frame = page, frame
        self._asked: set[Request] = set()  # that the server has not answered
        page.on("request", self._ask)
        page.on("requestfinished", self._answer)
        page.on("requestfailed", self._answer)

    def _ask(self, request: Request) -> None:
        if OURS in request.url:  # Airflow asks all the time
            self._asked.add(request)

    def _answer(self, request: Request) -> None:
        self._asked.discard(request)

    def tabs(self) -> list[str]:
        """The page's tabs, as it lists them itself."""
        self._frame.wait_for_selector("#tabs a")
        return self._links("#tabs a")

    def show(self, place: str) -> None:
        """Go to a place. It is shown when nothing is asked for any more, and no part of it says that it is loading."""
        self._frame.evaluate("place => { window.location.hash = place; }", place)
        expect(self._frame.locator(f"main#tab .tab.{name_of(place)}")).to_be_visible()
        for _ in range(QUIET_LOOKS):
            while self._asked:
                self._page.wait_for_timeout(LOOK_MS)
            self._page.wait_for_timeout(LOOK_MS)
        expect(self._frame.locator("main#tab")).not_to_contain_text("Loading")

    def places(self) -> Iterator[str]:
        """Show all tabs, and one place of each further kind that they lead to, such as a batch."""
        waiting = self.tabs()
        assert "now" in waiting
        seen = {name_of(place) for place in waiting}
        while waiting:
            place = waiting.pop(0)
            self.show(place)
            yield place
            for link in self._links("main a[href^='#']"):
                if name_of(link) not in seen:
                    seen.add(name_of(link))
                    waiting.append(link)

    def _links(self, selector: str) -> list[str]:
        found: list[str] = self._frame.eval_on_selector_all(selector, "links => links.map(link => link.hash.slice(1))")
        return found


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
    for place in Visitor(page, frame).places():
        dark = frame.evaluate("() => document.documentElement.classList.contains('dark')")
        assert dark == (scheme == "dark")
        wide = frame.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found[place] = violations(frame) + ([f"{wide} px wider than the screen"] if wide > 0 else [])
    assert {place: wrong for place, wrong in found.items() if wrong} == {}


def test_keyboard_reaches_everything(with_data: Airflow, make_page: Any) -> None:
    """The link to the content first, then the tabs, then all that can be used on a tab; and out of it again."""
    page = make_page(viewport=VIEWPORTS["desktop"])
    page.goto(f"{with_data.stack.airflow_url}/stacklens/")  # by itself: Airflow's own stops are not ours
    frame, missed = page.main_frame, {}
    visitor = Visitor(page, frame)
    tabs = visitor.tabs()
    for place in visitor.places():
        page.reload()  # the focus is where it is for somebody who comes
        visitor.show(place)
        stops: list[str] = []
        while len(stops) < MOST_STOPS:
            page.keyboard.press("Tab")
            stop = frame.evaluate(FOCUSED)
            if stop is None:
                break
            stops.append(stop)
        assert stops[: 1 + len(tabs)] == ["#tab", *(f"#{name}" for name in tabs)]
        assert len(stops) < MOST_STOPS, f"the keyboard does not leave {place}: {stops[-5:]}"
        missed[place] = frame.evaluate(
            f"() => ({REACHABLE})().filter(one => !('reached' in one.dataset)).map(one => one.outerHTML.slice(0, 200))"
        )
    assert {place: left for place, left in missed.items() if left} == {}


def test_skip_link_leads_to_the_content(with_data: Airflow, make_page: Any) -> None:
    """Past the tabs: the next stop is within it."""
    page = make_page(viewport=VIEWPORTS["desktop"])
    page.goto(f"{with_data.stack.airflow_url}/stacklens/")
    Visitor(page, page.main_frame).show("now")
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main#tab")).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.querySelector('main').contains(document.activeElement)")
    assert page.evaluate("() => window.location.hash") == "#now"  # the link changes no tab
