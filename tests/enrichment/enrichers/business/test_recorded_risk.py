"""The table of risks, in a real database."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from enrichment.caches.base import Entry, State
from enrichment.caches.postgres import MAX_KEY_BYTES, PostgresLayer
from enrichment.enrichers.business import Context
from enrichment.enrichers.business.recorded_risk import RiskTable, record_risks
from enrichment.enrichers.testing import FixedClock
from tests.fixtures.postgres import TABLES, Connection, bounded
from tests.fixtures.risks import request_risks


def test_record_risks_takes_any_names(postgres_connection: Connection) -> None:
    """Indicators are written as PostgreSQL writes arrays: what means something there is a name like any other."""
    names = [["a,b", 'a "quoted" one', "back\\slash", "NULL", "{}", "", " "], None, [], ["Größe", "'"]]
    requests = [f"odd-{number}" for number in range(len(names))]
    record_risks(postgres_connection, request_risks(requests, [0.5] * 4, ["low"] * 4, names))
    found = postgres_connection.execute("SELECT fraud_indicators FROM business_risks ORDER BY request_id").fetchall()
    assert [row[0] for row in found] == names


def test_record_risks_leaves_out_what_no_table_holds(postgres_connection: Connection) -> None:
    """A request or a name that is no text to PostgreSQL costs its own row only."""
    requests = ["with a \0", MAX_KEY_BYTES * "é", "named", "plain"]
    recorded = request_risks(requests, [0.5] * 4, ["low"] * 4, [[], [], ["\0"], ["new-account"]])
    assert record_risks(postgres_connection, recorded) == 1
    assert postgres_connection.execute("SELECT request_id FROM business_risks").fetchall() == [("plain",)]
    assert record_risks(postgres_connection, request_risks(["\0"], [0.5], ["low"], [[]])) == 0


def test_record_risks_writes_only_rows_that_differ(postgres_connection: Connection) -> None:
    """What is unchanged is not written again, nor is its row locked; a request that no table can hold is left out."""
    requests = ["req-0", "req-1", "req-2", "odd\0"]
    scores, levels = [0.15, 0.9, None, 0.5], ["low", "high", None, "medium"]
    indicators = [[], ["new-account", 'with "quotes", commas'], None, []]
    question = "SELECT request_id, risk_score, risk_level, fraud_indicators, xmin, xmax FROM business_risks ORDER BY 1"

    assert record_risks(postgres_connection, request_risks(requests, scores, levels, indicators)) == 3
    rows = postgres_connection.execute(question).fetchall()
    assert [row[:4] for row in rows] == [
        ("req-0", 0.15, "low", []), ("req-1", 0.9, "high", ["new-account", 'with "quotes", commas']),
        ("req-2", None, None, None),
    ]  # fmt: skip

    assert record_risks(postgres_connection, request_risks(requests, scores, levels, indicators)) == 0
    assert postgres_connection.execute(question).fetchall() == rows
    changed = request_risks(["req-0", "req-1"], [0.2, 0.9], ["low", "high"], [[], indicators[1]])
    assert record_risks(postgres_connection, changed) == 1
    again = postgres_connection.execute(question).fetchall()
    assert again[0][:4] == ("req-0", 0.2, "low", [])
    assert again[1:] == rows[1:]


def test_scorers_do_not_deadlock_when_they_score_the_same_requests_in_opposite_order(
    postgres_connection: Connection, postgres_uri: str
) -> None:
    """Two tasks that record risks of the same requests, given in opposite orders, both succeed."""
    requests = [f"req-{n}" for n in range(2_000)]
    start = threading.Barrier(2)
    failures: list[psycopg.Error] = []

    def score(order: list[str], level: str) -> None:
        with psycopg.connect(postgres_uri) as connection:
            start.wait()
            try:
                for number in range(6):
                    scores = [number / 10] * len(order)
                    with connection.transaction():
                        record_risks(connection, request_risks(order, scores, [level] * len(order), [[]] * len(order)))
            except psycopg.Error as error:
                failures.append(error)

    threads = [
        threading.Thread(target=score, args=arguments) for arguments in ((requests, "low"), (requests[::-1], "high"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_risks_of_a_locked_table_are_waited_for_once(
    postgres_connection: Connection, postgres_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are kept for views only: a locked table costs the task one time-out, not one for each chunk."""
    risks = RiskTable(lambda: bounded(postgres_uri), 2)
    with psycopg.connect(postgres_uri) as holder:
        holder.execute("LOCK TABLE business_risks")
        started = time.monotonic()
        for _ in range(10):
            risks.record(request_risks(["req-0"], [0.15], ["low"], [[]]))
        assert time.monotonic() - started < 8  # ten chunks, each a second
        assert caplog.text.count("risks.not_recorded") == 1
        holder.rollback()
        time.sleep(2)
        risks.record(request_risks(["req-0"], [0.15], ["low"], [[]]))
        risks.close()
        assert holder.execute("SELECT risk_score FROM business_risks").fetchall() == [(0.15,)]


def test_risk_stays_when_the_context_is_fetched_again(postgres_connection: Connection, clock: FixedClock) -> None:
    """Writing a context leaves the risk that was computed for it before."""
    layer = PostgresLayer(lambda: postgres_connection, TABLES["business_context_cache"], clock=clock)
    expires_at = clock() + 3_600
    layer.put_many({"req-0": Entry(State.FOUND, Context("payments"), expires_at=expires_at)})
    record_risks(postgres_connection, request_risks(["req-0"], [0.15], ["low"], [[]]))
    layer.put_many({"req-0": Entry(State.FOUND, Context("refunds"), expires_at=expires_at)})
    assert postgres_connection.execute("SELECT unit, average_score FROM v_business_risk_distribution").fetchall() == [
        ("refunds", 0.15)
    ]
