"""How quickly the StackLens page is there, tab by tab, in a real browser on the stack that runs (`make run`).

    PYTHONPATH=plugins:. .venv/bin/python -m benchmarks.first_paint --repeat 5

It loads each tab by its address, as somebody does who has kept it, logged in already. It changes nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from statistics import median
from typing import Any, NamedTuple

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

from include.local import airflow
from include.local.config import recall
from include.local.credentials import load_or_create

ARGUMENTS = ["--disable-gpu", "--disable-background-networking", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
PATIENCE_MS = 30_000
# Whether the tab has made what it shows, and no part of it says that it is still loading.
IS_SHOWN = """() => document.querySelector("main .tab") !== null
    && !document.querySelector("main").textContent.includes("Loading")"""
TIMES = """() => ({
    paint: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN,
    shown: performance.now(),
    answers: performance.getEntriesByType("resource").filter((one) => one.name.includes("/api/")).map((one) => ({
        path: new URL(one.name).pathname, wait: one.responseStart - one.requestStart, bytes: one.decodedBodySize,
    })),
})"""


class Answer(NamedTuple):
    """What the server took for a request, in milliseconds, and the bytes that it sent."""

    path: str
    wait: float
    size: int


class Load(NamedTuple):
    """A load of a tab, in milliseconds from its start: the first paint, and all of it shown."""

    paint: float
    shown: float
    answers: list[Answer]


def main() -> None:
    """Measure, and print a table."""
    chosen = _parse()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        _log_in(page, chosen)
        tabs = _tabs(page, chosen.url)
        found = {tab: [_load(page, f"{chosen.url}/stacklens/#{tab}") for _ in range(chosen.repeat)] for tab in tabs}
        browser.close()
    Console(width=None if sys.stdout.isatty() else 160).print(_table(found))


def _parse() -> argparse.Namespace:
    config = recall(os.environ)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.first_paint", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--url", default=airflow.url(config), help="of Airflow (default %(default)s)")
    parser.add_argument("--user", default=airflow.USER, help="who logs in (default %(default)s)")
    parser.add_argument("--password", help="default: that of the stack that runs")
    parser.add_argument("--repeat", type=int, default=5, help="loads of each tab; medians count (default %(default)s)")
    chosen = parser.parse_args()
    if shutil.which("chromium") is None:
        sys.exit("error: chromium is not installed (Debian: apt-get install chromium)")
    if chosen.password is None:
        if not (config.directory / "secrets.json").exists():
            sys.exit("error: no stack was started here: `make up`, or name another one by --url, --user and --password")
        chosen.password = load_or_create(config.directory).airflow_password
    return chosen


def _log_in(page: Page, chosen: argparse.Namespace) -> None:
    page.goto(f"{chosen.url}/auth/login")
    page.fill("input[name=username]", chosen.user)
    page.fill("input[name=password]", chosen.password)
    page.click("button[type=submit]")
    page.get_by_role("link", name="StackLens", exact=True).wait_for()


def _tabs(page: Page, url: str) -> list[str]:
    page.goto(f"{url}/stacklens/")
    page.wait_for_function(IS_SHOWN)
    tabs: list[str] = page.eval_on_selector_all("#tabs a", "links => links.map(link => link.hash.slice(1))")
    return tabs


def _load(page: Page, address: str) -> Load:
    page.goto("about:blank")  # or only the part behind the # would change
    page.goto(address, wait_until="commit")
    page.wait_for_function(IS_SHOWN, polling="raf")
    times: dict[str, Any] = page.evaluate(TIMES)
    answers = [Answer(one["path"], one["wait"], one["bytes"]) for one in times["answers"]]
    return Load(times["paint"], times["shown"], answers)


def _table(found: dict[str, list[Load]]) -> Table:
    table = Table("tab", "first paint, ms", "shown, ms", "request", "server, ms", "longest", "kB")
    for tab, loads in found.items():
        begin = [tab, f"{median(load.paint for load in loads):,.0f}", f"{median(load.shown for load in loads):,.0f}"]
        answers = [answer for load in loads for answer in load.answers]
        for path in dict.fromkeys(answer.path for answer in answers):
            waits = [answer.wait for answer in answers if answer.path == path]
            size = max(answer.size for answer in answers if answer.path == path)
            table.add_row(*begin, path, f"{median(waits):,.0f}", f"{max(waits):,.0f}", f"{size / 1000:,.1f}")
            begin = ["", "", ""]
        if not answers:
            table.add_row(*begin)
    return table


if __name__ == "__main__":
    main()
