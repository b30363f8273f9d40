"""The tabs *History* and *Content* within Airflow's UI, of what the real scheduler has run."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import requests
from playwright.sync_api import FrameLocator, expect

from tests.fixtures.browser import frame_of
from tests.fixtures.pipeline import message
from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)

MESSAGES = """() => {
    const figure = Bokeh.documents.flatMap((one) => one.roots()).find((root) => root.name === "batch-size");
    const { y0: mean, x } = figure.renderers[0].data_source.data;
    return [Array.from(mean).filter((value) => value > 0).length, x.length];
}"""


@pytest.fixture
def enriched(airflow: Airflow, stream: Stream) -> None:
    """Some messages have been enriched, a few of them are dead."""
    stream.produce([b"no json" if n % 50 == 0 else message(n) for n in range(200)])
    airflow.run()
    eventually(lambda: stream.lag() == 0, "the end of the backlog")


def plots_of(frame: FrameLocator) -> None:
    """Wait until all are drawn."""
    expect(frame.locator(".plot .bk-Figure")).to_have_count(8)


def test_history_plots_what_was_run(enriched: None, stream: Stream, make_page: Any) -> None:
    """Within Airflow's frame and what its headers allow; as many messages as the ledger has."""
    frame = frame_of(make_page("history?range=1h"), ".plots")
    plots_of(frame)
    steps, all_steps = frame.locator("body").evaluate(MESSAGES)
    assert 0 < steps < all_steps == 60

    def told() -> bool:
        with psycopg.connect(stream.stack.stacklens_dsn) as connection:
            [(messages,)] = connection.execute(
                "SELECT sum(messages_read) FROM enrichment_jobs WHERE state = 'published' AND purpose = '{}'"
                " AND published_at > now() - interval '58 minutes'"
            ).fetchall()
        return f"{messages:,} messages in " in frame.locator("#summary").inner_text()

    eventually(told, "the ledger's count", every=1)


def test_minutes_are_rolled_up_as_runs_go_by(enriched: None, stream: Stream) -> None:
    """By the runs themselves."""

    def rolled_up() -> bool:
        with psycopg.connect(stream.stack.stacklens_dsn) as connection:
            [(found,)] = connection.execute(
                "SELECT coalesce(sum(messages), 0) > 0 FROM enrichment_rollups WHERE period = 'minute'"
            ).fetchall()
        return bool(found)

    eventually(rolled_up, "a rollup of the minute", every=1)


def test_content_counts_what_was_run(enriched: None, make_page: Any) -> None:
    """Where it comes from, on the map too, and what was wrong with it."""
    frame = frame_of(make_page("content?range=1h"), ".map")
    expect(frame.locator('.counted[data-name="geo_country_code"] tbody tr').first).to_contain_text("United States (US)")
    letters = frame.locator('.counted[data-name="dead letters"] tbody tr')  # other tests on this stack have theirs
    expect(letters.filter(has_text="invalid-json").first).to_be_visible()
    expect(frame.locator(".counted .bk-Figure").first).to_be_visible()


@pytest.mark.parametrize("route", ["api/history", "api/content", "api/charts", "world.json"])
def test_nobody_sees_it_without_a_login(airflow: Airflow, route: str) -> None:
    """Neither figures nor shapes."""
    answer = requests.get(f"{airflow.stack.airflow_url}/stacklens/{route}", timeout=30)
    assert answer.status_code == 401
