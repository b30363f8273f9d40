"""Contexts from PostgreSQL: the shipped query over the demonstration data, and queries that users might write."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from enrichment import sql
from enrichment.caches.base import Entry, State
from enrichment.enrichers.base import JSON, look_up_and_enrich
from enrichment.enrichers.business import BusinessEnricher
from enrichment.enrichers.business_query import BusinessQuery, can_be_text
from enrichment.enrichers.geo import GeoEnricher
from enrichment.enrichers.risk import RiskRules
from enrichment.enrichers.user import UserEnricher
from enrichment.errors import SettingsError, SourceUnavailable
from enrichment.messages import Context, Place, Profile, Reason
from enrichment.testing import FixedLookup, make_events

Connection = psycopg.Connection[Any]
FETCH = sql.load("business_context/fetch")
ONE_ROW = """SELECT '1' AS request_id, 'payments' AS unit, 'payment' AS transaction_type, {amount} AS amount,
                    'USD' AS currency
             WHERE '1' = ANY(%(request_ids)s)"""


@pytest.fixture
def demo(postgres_connection: Connection) -> Connection:
    """A database with 500 demonstration requests."""
    load_demo(postgres_connection, requests=500)
    return postgres_connection


def load_demo(connection: Connection, requests: int) -> None:
    """As `make run` does."""
    connection.execute("SELECT set_config('demo.requests', %s, false)", [str(requests)])
    connection.execute(sql.load("demo/business").encode())


def fetch(connection: Connection, *request_ids: str, query: str = FETCH) -> dict[str, Entry]:
    """Ask a query once."""
    return BusinessQuery(lambda: connection, query).fetch_many(request_ids)


def test_documented_request_is_in_the_demonstration_data(demo: Connection) -> None:
    """`req-789` belongs to payments."""
    assert fetch(demo, "req-789")["req-789"].value == Context("payments", "payment", 1250.0, "USD")


def test_documented_message_has_risk_0_15_with_the_demonstration_data(demo: Connection) -> None:
    """The contract's example through the shipped query, data and rules."""
    events = make_events(source_ip=["8.8.8.8"], user_id=["user-123"], request_id=["req-789"])
    place = Place(country="United States", country_code="US", network_type="public")
    added = {
        "geo-ip": look_up_and_enrich(GeoEnricher(FixedLookup({"8.8.8.8": place})), events, {}),
        "user-profile": look_up_and_enrich(
            UserEnricher(FixedLookup({"user-123": Profile("premium", 365, "Acme Corp")})), events, {}
        ),
    }
    enricher = BusinessEnricher(FixedLookup(fetch(demo, "req-789")), RiskRules.load())
    business = look_up_and_enrich(enricher, events, added)
    written = json.loads(b"{%s}" % business.take(JSON)[0])
    assert (written["business_unit"], written["business_risk_score"]) == ("payments", 0.15)


def test_requests_are_found_or_absent_by_one_statement(demo: Connection) -> None:
    """Every key is answered, in one round for all; what the table lacks is absent."""
    entries = fetch(demo, "req-000000", "nobody", "req-000499", "req-000500")
    assert [entry.state for entry in entries.values()] == [State.FOUND, State.ABSENT, State.FOUND, State.ABSENT]
    assert (entries["nobody"].value, entries["nobody"].reason) == (None, Reason.BUSINESS_NOT_FOUND)


def test_demonstration_data_is_the_same_however_often_and_many_are_loaded(demo: Connection) -> None:
    """Loading again adds what is missing, changes nothing, and repairs the documented request."""
    before = demo.execute("SELECT * FROM demo_requests ORDER BY request_id").fetchall()
    demo.execute("UPDATE demo_requests SET amount = 0 WHERE request_id = 'req-789'")
    load_demo(demo, requests=500)
    assert demo.execute("SELECT * FROM demo_requests ORDER BY request_id").fetchall() == before
    load_demo(demo, requests=600)
    assert demo.execute("SELECT count(*) FROM demo_requests").fetchall() == [(601,)]


def test_demonstration_data_has_something_of_everything(demo: Connection) -> None:
    """All units, risky types, high and unknown amounts occur, so that every rule about them can fire."""
    units, types, low, high, unknown = demo.execute(
        """SELECT count(DISTINCT unit), count(DISTINCT transaction_type), min(amount), max(amount),
                  count(*) FILTER (WHERE amount IS NULL) FROM demo_requests"""
    ).fetchall()[0]
    assert (units, types, unknown) == (7, 7, 2)
    assert 0 <= low < 500
    assert high >= 10_000


def test_shipped_query_uses_the_primary_key(demo: Connection) -> None:
    """Requests are found by index, not by reading the table."""
    load_demo(demo, requests=20_000)
    plan = demo.execute(b"EXPLAIN " + FETCH.encode(), {"request_ids": ["req-789", "req-000001"]}).fetchall()
    assert "demo_requests_pkey" in "\n".join(line for (line,) in plan)


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("12.50::numeric(14, 2)", 12.5), ("7::bigint", 7.0), ("1.5::real", 1.5), ("'12.5'::text", 12.5),
        ("NULL::numeric", None), ("'NaN'::numeric", None), ("'Infinity'::float8", None), ("'much'::text", None),
        ("now()", None),
    ],
)  # fmt: skip
def test_amount_is_a_finite_number_or_null(
    postgres_connection: Connection, amount: str, expected: float | None
) -> None:
    """Whatever type a query gives, the output is strict JSON."""
    entry = fetch(postgres_connection, "1", query=ONE_ROW.format(amount=amount))["1"]
    assert entry.value == Context("payments", "payment", expected, "USD")


def test_other_types_become_text_when_the_query_gives_them(postgres_connection: Connection) -> None:
    """Numbers as ids and units are taken as text; more columns, in another order, do not matter."""
    query = """SELECT 1 AS extra, 'EUR' AS currency, 5 AS amount, NULL AS transaction_type, 7 AS unit, n AS request_id
               FROM unnest(%(request_ids)s::bigint[]) AS n"""
    assert fetch(postgres_connection, "42", query=query)["42"].value == Context("7", None, 5.0, "EUR")


def test_first_row_counts_when_a_request_has_several(postgres_connection: Connection) -> None:
    """The query's ORDER BY decides which row is the request's."""
    query = """SELECT '1' AS request_id, unit, NULL AS transaction_type, NULL AS amount, NULL AS currency
               FROM (VALUES ('old', 1), ('new', 2)) AS v (unit, n) WHERE '1' = ANY(%(request_ids)s) ORDER BY n DESC"""
    assert fetch(postgres_connection, "1", query=query)["1"].value.unit == "new"


def test_rows_that_nobody_asked_for_are_left_out(postgres_connection: Connection) -> None:
    """A query that returns more than it should does not invent keys."""
    query = ONE_ROW.format(amount="1").replace("'1' = ANY(%(request_ids)s)", "%(request_ids)s::text[] IS NOT NULL")
    assert list(fetch(postgres_connection, "2", query=query)) == ["2"]


@pytest.mark.parametrize("key", ["a\0b", "\ud800"], ids=["nul", "lone-surrogate"])
def test_key_that_postgresql_cannot_hold_is_absent_and_costs_no_other(demo: Connection, key: str) -> None:
    """One odd request id must not fail the query for the whole chunk."""
    assert not can_be_text(key)
    entries = fetch(demo, key, "req-789")
    assert (entries[key].state, entries["req-789"].state) == (State.ABSENT, State.FOUND)


@pytest.mark.parametrize(
    ("query", "missing"),
    [
        ("SELECT '' AS request_id, 1 AS unit, 1 AS amount WHERE %(request_ids)s::text[] IS NULL",
         "transaction_type, currency"),
        ("DO $$ BEGIN PERFORM 1; END $$", "request_id, unit"),
    ],
    ids=["columns", "no-result"],
)  # fmt: skip
def test_query_is_refused_when_it_lacks_columns(postgres_connection: Connection, query: str, missing: str) -> None:
    """A query that was adapted wrongly fails the task and names the columns, even where it finds no rows."""
    with pytest.raises(SettingsError, match=f"no column {missing}"):
        fetch(postgres_connection, "1", query=query)


@pytest.mark.parametrize("autocommit", [True, False])
def test_no_transaction_is_left_open(postgres_uri: str, demo: Connection, *, autocommit: bool) -> None:
    """After an answer and after a failure the connection is idle and usable, whatever its mode."""
    with psycopg.connect(postgres_uri, autocommit=autocommit) as connection:
        fetch(connection, "req-789")
        assert connection.info.transaction_status == TransactionStatus.IDLE
        with pytest.raises(SourceUnavailable):
            fetch(connection, "req-789", query="SELECT * FROM there_is_no_such_table")
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert fetch(connection, "req-789")["req-789"].state is State.FOUND


def test_source_is_unavailable_when_the_database_is(postgres_uri: str) -> None:
    """A connection that is gone, or cannot be made, is the database's failure and named so."""
    closed = psycopg.connect(postgres_uri)
    closed.close()
    with pytest.raises(SourceUnavailable, match="database-connection-error") as raised:
        fetch(closed, "req-789")
    assert raised.value.reason == Reason.DATABASE_ERROR

    def refuse() -> Connection:
        raise psycopg.OperationalError("connection refused")

    with pytest.raises(SourceUnavailable, match="connection refused"):
        BusinessQuery(refuse, FETCH).fetch_many(["req-789"])


def test_connection_is_kept_until_it_breaks(postgres_uri: str, demo: Connection) -> None:
    """A task opens one connection; after a break the next call opens another; closing closes it."""
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(psycopg.connect(postgres_uri))
        return opened[-1]

    query = BusinessQuery(connect, FETCH)
    query.fetch_many(["req-789"])
    query.fetch_many(["req-789"])
    assert len(opened) == 1
    demo.execute("SELECT pg_terminate_backend(%s)", [opened[0].info.backend_pid])
    with pytest.raises(SourceUnavailable):
        query.fetch_many(["req-789"])
    assert query.fetch_many(["req-789"])["req-789"].state is State.FOUND
    query.close()
    assert [connection.closed for connection in opened] == [True, True]


def test_version_changes_with_the_query() -> None:
    """Contexts that another query gave are fetched again."""
    same, other = BusinessQuery(_never, FETCH), BusinessQuery(_never, FETCH + " LIMIT 1")
    assert same.version == BusinessQuery(_never, FETCH).version != other.version


def _never() -> Connection:
    raise AssertionError("nothing is asked here")
