"""A stack that nobody has sent anything to: what its page says, and what its metrics do; then the first messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.test_page_accessibility import Visitor, document_of
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import DAG_ID, Airflow, Stream, eventually, running_stack
from tests.fixtures.statsd import StatsdServer, statsd_server

pytestmark = pytest.mark.timeout(900)

# What a program says where it has not thought of having nothing.
NONSENSE = ("undefined", "NaN", "null", "Infinity", "[object", "Invalid Date")


@pytest.fixture(scope="module")
def statsd() -> Iterator[StatsdServer]:
    """What Airflow's metrics are sent to."""
    with statsd_server() as server:
        yield server


@pytest.fixture(scope="module")
def airflow(statsd: StatsdServer) -> Iterator[Airflow]:
    """A stack of its own, which sends its metrics."""
    with running_stack(WAKE_UP_ENABLED="false", **statsd.variables) as stack:
        yield Airflow(stack).of(DAG_ID)


def test_every_tab_says_that_there_is_nothing_yet(airflow: Airflow, make_page: Any) -> None:
    """In words, without an error in the page or the browser's console, and without a made-up number."""
    page = make_page()
    frame = document_of(page)
    found = {}
    for place in Visitor(page, frame).places():
        expect(frame.locator("[role=alert]")).to_have_count(0)
        shown = frame.locator("main#tab").inner_text()
        assert len(shown.split()) >= 3, place
        found[place] = [word for word in NONSENSE if word in shown]
    assert {place: words for place, words in found.items() if words} == {}


def test_page_is_healthy_before_the_first_message(airflow: Airflow, make_page: Any) -> None:
    """It says that nothing was published yet, and why that is well."""
    frame = document_of(make_page())
    expect(frame.locator("#health")).to_have_text("healthy")
    expect(frame.locator("#summary")).to_have_text("nothing was published yet; nothing has come in")


def test_metrics_leave_by_the_real_scheduler(airflow: Airflow, statsd: StatsdServer) -> None:
    """The minute's run sends what it finds; a run that publishes sends its batch, once."""
    health = eventually(lambda: statsd.values("stacklens.health") or None, "the run of the minute")
    assert set(health) == {("stacklens.health", "g", 0.0)}
    assert {name for name, _, _ in statsd.values("stacklens.lag.")} == {f"stacklens.lag.{n}" for n in range(4)}
    assert statsd.values("stacklens.messages") == []
    stream = Stream(airflow.stack)
    stream.produce([b"no json", *(message(n) for n in range(1, 20))])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")

    def sums() -> dict[str, float]:
        found: dict[str, float] = {}
        for name, _, value in statsd.values("stacklens.messages."):
            found[name.rpartition(".")[2]] = found.get(name.rpartition(".")[2], 0) + value
        return found

    eventually(lambda: sum(sums().values()) == 20 or None, "the counts of all messages")
    assert sums() == {"enriched": 19, "partial": 0, "dead": 1}
    eventually(lambda: statsd.values("stacklens.since_published") or None, "the next minute's run")
    assert sum(sums().values()) == 20
