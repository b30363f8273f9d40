"""How long the page's server takes for each of its requests, over thirty days of a batch every two seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock
from urllib.parse import urlencode

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.history import SECONDS, make_history
from benchmarks.stand import services
from enrichment.kafka.offsets import read_committed
from enrichment.rollup.history import RANGES
from include.local.steps import Steps

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

PAST = timedelta(days=30)
TIMES = 10  # that each request is made, for each repetition
GOAL_MS = 200
MIDDLE = """
SELECT batch_id, topic, ranges FROM enrichment_jobs
WHERE published_at > now() - interval '15 days' AND purpose = '{}'
ORDER BY published_at LIMIT 1
"""


class Request(NamedTuple):
    """The milliseconds that a request took, in order, and the size of its answer."""

    address: str
    milliseconds: list[float]
    size: int


def measure_page(environ: Mapping[str, str], repeat: int, steps: Steps, console: Console) -> list[Request]:
    """Fill a database, and make each request several times; of those that need parameters, the ones about a batch."""
    # Airflow comes with these, and has its say in what is logged: not in the other parts.
    from fastapi.testclient import TestClient

    from enrichment.page import reading
    from enrichment.page.app import make_app

    with services(environ, steps) as stand:
        past = steps.step(f"the past: {PAST.days} days of a batch every {SECONDS} seconds")
        with past, psycopg.connect(stand.dsn, autocommit=True) as connection:
            make_history(connection, PAST, PAST)
            chosen = addresses_of_a_batch(connection)
        with stand.resources(stand.settings) as r, r.clients.offsets_reader() as consumer:
            # Of a new broker the first question about a group takes a second: it makes the topic of offsets.
            read_committed(consumer, r.settings.kafka.input_topic, [0], r.settings.kafka.request_timeout_sec)
        # Who may read what is Airflow's to know, and it is not running.
        with mock.patch.object(reading, "requires_access_dag", return_value=lambda: None):
            app = make_app(lambda: stand.resources(stand.settings))
        with TestClient(app) as client:
            found = [_measure(client, address, TIMES * repeat) for address in (*addresses_of(app), *chosen)]
        app.state.scans.close()
    measured = {address.partition("?")[0] for address in chosen}
    left_out = [request.address for request in found if not request.milliseconds and request.address not in measured]
    if left_out:
        console.print(f"  not measured, they need parameters: {', '.join(left_out)}", highlight=False)
    return [request for request in found if request.milliseconds]


def addresses_of(app: FastAPI) -> Iterator[str]:
    """What the page asks for: its files, and figures of every range."""
    from fastapi.routing import APIRoute

    for route in app.routes:
        if isinstance(route, APIRoute) and "GET" in route.methods and "{" not in route.path:
            ranged = any(parameter.name == "range" for parameter in route.dependant.query_params)
            yield from (f"{route.path}?range={name}" for name in RANGES) if ranged else (route.path,)


def addresses_of_a_batch(connection: psycopg.Connection[Any]) -> list[str]:
    """What the page asks for about one batch of the middle of that past, and about a message that it had."""
    row = connection.execute(MIDDLE).fetchone()
    assert row is not None
    batch_id, topic, (first, *_) = row
    place = {"topic": topic, "partition": first["partition"], "offset": first["start"]}
    return [f"/api/batch?{urlencode({'id': batch_id})}", f"/api/fates?{urlencode(place)}"]


def _measure(client: TestClient, address: str, times: int) -> Request:
    milliseconds, size = list[float](), 0
    for _ in range(times):
        started = time.perf_counter()
        answer = client.get(address)
        milliseconds.append(1000 * (time.perf_counter() - started))
        if answer.status_code != 200:
            return Request(address, [], 0)
        size = len(answer.content)
    return Request(address, milliseconds, size)


def page_summary(found: Sequence[Request]) -> list[dict[str, Any]]:
    """The requests, the slowest first."""
    rows = [
        {
            "request": request.address,
            "median_ms": round(statistics.median(request.milliseconds), 1),
            "largest_ms": round(max(request.milliseconds), 1),
            "first_ms": round(request.milliseconds[0], 1),
            "kilobytes": round(request.size / 1000, 1),
        }
        for request in found
    ]
    return sorted(rows, key=lambda row: -row["median_ms"])


def page_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """All of them, and whether each keeps the goal."""
    title = f"The page's server, {PAST.days} days of a batch every {SECONDS} s; the goal is {GOAL_MS} ms"
    table = Table("request", "median", "largest", "first", "answer", "within", title=title)
    for row in rows:
        within = "[green]yes[/]" if row["median_ms"] <= GOAL_MS else "[red]no[/]"
        times = (f"{row[name]:,.0f} ms" for name in ("median_ms", "largest_ms", "first_ms"))
        table.add_row(row["request"], *times, f"{row['kilobytes']:,.0f} kB", within)
    return table
