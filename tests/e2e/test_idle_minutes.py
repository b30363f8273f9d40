"""A minute in which nothing waits, as it looks in Airflow's own pages."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Locator, expect

from tests.fixtures.scheduler import Airflow, Stream, eventually

pytestmark = pytest.mark.timeout(600)

# The colour behind an element, as red, green and blue.
GROUND = """(element) => {
  const context = document.createElement("canvas").getContext("2d");
  context.fillStyle = getComputedStyle(element).backgroundColor;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""


def is_grey(badge: Locator) -> bool:
    """Whether there is as good as no colour behind it."""
    expect(badge).to_be_visible()
    red, green, blue = badge.evaluate(GROUND)
    return bool(max(red, green, blue) - min(red, green, blue) <= 3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_skipped_tasks_are_grey(airflow: Airflow, stream: Stream, make_page: Any, scheme: str) -> None:
    """In the grid, the graph, and the list of a run's tasks; what went well is green as ever."""
    eventually(lambda: stream.lag() == 0, "the end of the backlog")
    run_id = airflow.run()
    assert airflow.tasks(run_id)["batch.publish"]["state"] == "skipped"
    page = make_page(color_scheme=scheme, viewport={"width": 1600, "height": 1000})
    page.goto(f"{airflow.stack.airflow_url}/dags/{airflow.dag_id}/runs/{quote(run_id, safe='')}/")
    listed = page.get_by_role("cell", name="Skipped", exact=True).first
    assert is_grey(listed.locator(".chakra-badge"))

    squares = {task: page.get_by_test_id(f"grid-{run_id}-{task}") for task in ("claim", "batch")}
    grid = {task: square.get_by_test_id("task-state-badge") for task, square in squares.items()}
    if not grid["batch"].count():
        page.get_by_label("Show Grid").click()
    assert (is_grey(grid["claim"]), is_grey(grid["batch"])) == (False, True)
    page.get_by_label("Show Graph").click()
    shown = page.locator(".react-flow__node").locator(".chakra-badge")
    assert is_grey(shown.filter(has_text="skipped").first)
    assert not is_grey(shown.filter(has_text="success").first)
