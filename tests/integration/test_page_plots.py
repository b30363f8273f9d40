"""The plots of the page in a real browser, over the past of a busy installation: what they show is what the database
has, and what is read for it is little."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect
from psycopg.conninfo import conninfo_to_dict

from benchmarks.history import make_history
from enrichment import sql
from enrichment.page import reading
from enrichment.page.app import make_app
from enrichment.resources import Resources
from enrichment.rollup import held, history
from enrichment.settings import load
from tests.fixtures.browser import PATIENCE_MS
from tests.fixtures.kafka import free_ports
from tests.fixtures.postgres import MakeDatabase
from tests.fixtures.scheduler import eventually

PLOTS = ["throughput", "freshness", "latency", "hit-rates", "errors", "lag", "batch-size", "memory"]
# What a plot's source of data has, without BokehJS's own types; what is not known is NaN, which JSON has not.
DATA = """name => {
    const figure = Bokeh.documents.flatMap((one) => one.roots()).find((root) => root.name === name);
    const data = figure.renderers[0].data_source.data;
    return Object.fromEntries(Object.entries(data).map(([column, values]) =>
        [column, Array.from(values, (value) => (Number.isNaN(value) ? null : value))]));
}"""
FILLS = "[...document.querySelectorAll('.map path')].map((p) => [p.dataset.code, p.getAttribute('fill')])"
RANGES = """() => Bokeh.documents.flatMap((one) => one.roots()).map((root) => [root.x_range.start, root.x_range.end])"""


@pytest.fixture(scope="module")
def past(postgres_server: MakeDatabase) -> str:
    """A database with rollups of thirty days, and batches of an hour and a half."""
    uri = postgres_server()
    with psycopg.connect(uri, autocommit=True) as connection:
        make_history(connection, timedelta(minutes=90), timedelta(days=30))
    return uri


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serves the page over a database, without Airflow around it; returns its address."""
    monkeypatch.setattr(reading, "requires_access_dag", lambda **_: lambda: None)
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(uri: str) -> str:
        def opened() -> Resources:
            return Resources(
                load(), kafka_config=dict, postgres_parameters=lambda: conninfo_to_dict(uri),
                http_endpoint=lambda *_: pytest.fail("asked"), staging_root=lambda: pytest.fail("asked"),
            )  # fmt: skip

        [port] = free_ports(1)
        server = uvicorn.Server(uvicorn.Config(make_app(opened), port=port, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}/"

    yield start
    for server, thread in started:
        server.should_exit = True
        thread.join()


@pytest.fixture
def show(browser: Browser) -> Iterator[Any]:
    """Opens an address, in UTC; whatever the page complains of fails the test."""
    contexts, complaints = [], list[str]()

    def go(address: str, **how: Any) -> Page:
        contexts.append(browser.new_context(timezone_id="UTC", **how))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def test_every_plot_has_the_figures_of_the_database(past: str, serve: Any, show: Any) -> None:
    """Column by column; the same are in the table below it."""
    page = show(serve(past) + "#history?range=7d")
    expect(page.locator(".plot .bk-Figure")).to_have_count(len(PLOTS))
    with psycopg.connect(past) as connection:
        known = history.read_history(connection, "7d", datetime.now(UTC))
    lines = {
        "throughput": [known.messages_per_second],
        "freshness": list(known.freshness.values()),
        "latency": list(known.latency.values()),
        "hit-rates": [[None if v is None else 100 * v for v in column] for column in known.hit_rates.values()],
        "errors": [[None if v is None else 100 * v for v in column] for column in known.error_rates.values()],
        "lag": [known.lag],
        "batch-size": [known.mean_batch, known.largest_batch],
        "memory": [[None if v is None else v / 1e6 for v in column] for column in known.peak_rss_bytes.values()],
    }
    for name in PLOTS:
        data = page.evaluate(DATA, name)
        assert data["x"] == known.at
        columns = [data[f"y{n}"] for n in range(len(lines[name]))]
        assert len(data) == 2 + len(columns)
        for shown, column in zip(columns, lines[name], strict=True):
            assert shown[:-1] == [None if v is None else pytest.approx(v) for v in column[:-1]]
    page.locator("#plot-freshness summary").click()
    rows = page.locator("#plot-freshness tbody tr")
    expect(rows).to_have_count(len(known.at))
    p50 = known.freshness["p50"][-2]
    expect(rows.nth(1).locator("td").first).to_have_text(f"{p50:.2f}")


def test_hours_that_missed_a_level_are_marked(past: str, serve: Any, show: Any) -> None:
    """In the plot of what was missed, and in words below."""
    page = show(serve(past) + "#history?range=30d")
    expect(page.locator("#plot-hit-rates")).to_contain_text("hours that missed it")
    expect(page.locator("#plot-hit-rates")).to_contain_text("wanted: at least 80 %")
    expect(page.locator("#plot-lag")).not_to_contain_text("hours that missed it")
    with psycopg.connect(past) as connection:
        [(count,)] = connection.execute(
            "SELECT count(*) FROM service_level_breaches"
            " WHERE starts_at >= date_trunc('hour', now()) - interval '719 hours'"
        ).fetchall()
    expect(page.locator("#missed tbody tr")).to_have_count(count)
    expect(page.locator("#missed tbody tr").first).to_contain_text("cache hit rate 70.0%, at least 80.0% wanted")


def test_zoom_of_one_plot_is_that_of_all(past: str, serve: Any, show: Any) -> None:
    """By the mouse, by the keyboard, and back."""
    page = show(serve(past) + "#history?range=24h")
    expect(page.locator(".plot .bk-Figure")).to_have_count(len(PLOTS))
    [whole] = {tuple(span) for span in page.evaluate(RANGES)}
    plot = page.locator("#plot-errors .bk-Figure")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 120, steps=5)
    page.mouse.up()
    [dragged] = {tuple(span) for span in page.evaluate(RANGES)}
    assert whole[0] < dragged[0] < dragged[1] < whole[1]
    page.locator("#whole").press("Enter")
    assert {tuple(span) for span in page.evaluate(RANGES)} == {whole}
    page.locator("#zoom-in").press("Enter")
    [[start, end]] = {tuple(span) for span in page.evaluate(RANGES)}
    assert end - start == pytest.approx((whole[1] - whole[0]) / 2)
    page.locator("#zoom-out").press("Enter")
    assert {tuple(span) for span in page.evaluate(RANGES)} == {whole}


@pytest.mark.parametrize("tab", ["history", "content"])
def test_address_keeps_the_range(past: str, serve: Any, show: Any, tab: str) -> None:
    """So that it can be sent to somebody; one that there is not is the usual one."""
    address = serve(past)
    page = show(f"{address}#{tab}?range=6h")
    expect(page.locator(".choices [aria-current]")).to_have_text("6 hours")
    page.get_by_role("link", name="7 days").click()
    expect(page.locator(".choices [aria-current]")).to_have_text("7 days")
    assert page.url.endswith(f"#{tab}?range=7d")
    expect(show(f"{address}#{tab}?range=never").locator(".choices [aria-current]")).to_have_text("24 hours")


def test_content_is_what_the_database_has(past: str, serve: Any, show: Any) -> None:
    """On the map, in the tables, over time."""
    page = show(serve(past) + "#content?range=7d")
    with psycopg.connect(past) as connection:
        known = {c.name: c for c in held.read_held(connection, "7d", datetime.now(UTC)).counted}
    for name, counted in known.items():
        section = page.locator(f'.counted[data-name="{name}"]')
        expect(section.locator("h2").first).to_have_text(counted.title)
        expect(section.locator(".beside tbody tr, .scroll tbody tr").first).to_be_visible()
    countries = {count.values[0]: count.messages for count in known["geo_country_code"].counts}
    fills = dict(
        page.evaluate(
            "[...document.querySelectorAll('.map path')].map((p) => [p.dataset.code, p.getAttribute('fill')])"
        )
    )
    assert fills["SD"] != fills["DE"]
    assert ("SD" in countries, "DE" in countries) == (True, False)
    assert len({fill for code, fill in fills.items() if code and code not in countries}) == 1
    section = page.locator('.counted[data-name="geo_country_code"]')
    section.get_by_label("all of them").check()
    expect(section.locator("tbody tr")).to_have_count(len(countries))
    risks = page.locator('.counted[data-name="business_unit business_risk_level"] tbody tr')
    expect(risks).to_have_count(len({count.values[0] for count in known["business_unit business_risk_level"].counts}))
    data = page.evaluate(DATA, "content-reason")
    first = next(iter(known["errors"].lines.values()))
    assert data["y0"][:-1] == [None if v is None else pytest.approx(v) for v in first[:-1]]


@pytest.mark.parametrize("tab", ["history", "content"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_follow_the_theme_and_fit_a_phone(past: str, serve: Any, show: Any, tab: str, scheme: str) -> None:
    """Nothing is wider than the screen, and the plots have the ground of the page; also when the theme changes."""
    page = show(f"{serve(past)}#{tab}?range=24h", color_scheme=scheme, viewport={"width": 390, "height": 800})
    expect(page.locator(".plot .bk-Figure").first).to_be_visible()
    assert page.evaluate("document.body.scrollWidth <= document.documentElement.clientWidth")
    ground = (
        "() => [Bokeh.documents.at(-1).roots()[0].border_fill_color, getComputedStyle(document.body).backgroundColor]"
    )
    grounds = {"light": ["#ffffff", "rgb(255, 255, 255)"], "dark": ["#111418", "rgb(17, 20, 24)"]}
    assert page.evaluate(ground) == grounds[scheme]
    other = "dark" if scheme == "light" else "light"
    page.emulate_media(color_scheme=other)
    eventually(lambda: page.evaluate(ground) == grounds[other], "the other theme", seconds=30)


def test_nothing_is_left_of_a_tab_that_was_left(past: str, serve: Any, show: Any) -> None:
    """However often somebody comes back, or the theme changes: there are as many plots as are seen."""
    page = show(serve(past) + "#history?range=1h")
    expect(page.locator(".plot .bk-Figure")).to_have_count(len(PLOTS))
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
    page.get_by_role("link", name="6 hours").click()
    expect(page.locator(".choices [aria-current]")).to_have_text("6 hours")
    expect(page.locator(".plot .bk-Figure")).to_have_count(len(PLOTS))
    assert page.evaluate("Bokeh.documents.length") == len(PLOTS)
    page.get_by_role("link", name="Content", exact=True).click()
    expect(page.locator(".counted .bk-Figure").first).to_be_visible()
    are_others = "Bokeh.documents.every((one) => one.roots()[0].name.startsWith('content-'))"
    eventually(lambda: page.evaluate(are_others), "the end of the other tab's plots", seconds=30)


@pytest.mark.parametrize("tab", ["history", "content"])
def test_new_installation_is_told_that_nothing_came_yet(
    postgres_server: MakeDatabase, serve: Any, show: Any, tab: str
) -> None:
    """No figure is made up, and nothing looks broken."""
    page = show(f"{serve(postgres_server())}#{tab}?range=30d")
    expect(page.locator("#summary")).to_contain_text("Nothing was published from")


def test_no_table_of_batches_is_read_as_a_whole(past: str) -> None:
    """However many there are: by its index, and only what came after the last rollup."""
    now = datetime.now(UTC)
    within = {"starts_at": now - timedelta(minutes=1), "ends_at": now, "contents": True}
    with psycopg.connect(past) as connection:
        explained = connection.execute(
            b"EXPLAIN (ANALYZE, FORMAT JSON) " + sql.load("enrichment_rollups/find_batches").encode(), within
        ).fetchall()
        for name in ("find_between", "find_contents"):
            asked = {"period": "minute", "starts_at": now - timedelta(hours=6), "ends_at": now}
            statement = b"EXPLAIN (ANALYZE, FORMAT JSON) " + sql.load(f"enrichment_rollups/{name}").encode()
            explained += connection.execute(statement, asked).fetchall()
    for (plan,), most in zip(explained, (40, 361, 361), strict=True):
        nodes = list(nodes_of(plan[0]["Plan"]))
        assert "Seq Scan" not in {node["Node Type"] for node in nodes}
        assert plan[0]["Plan"]["Actual Rows"] <= most


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan with all that is below it."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes_of(below)
