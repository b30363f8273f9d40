"""Contexts from PostgreSQL: the shipped query over the demonstration data, and queries that users might write."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from enrichment import sql
from enrichment.caches.base import Entry, State
from enrichment.caches.entries import Entries
from enrichment.databases import Limits, connect
from enrichment.enrichers.base import JSON, OpenEnricher
from enrichment.enrichers.business import BUSINESS, Context
from enrichment.enrichers.business.query import business_query
from enrichment.enrichers.business.risk import RiskRules
from enrichment.enrichers.business.risk_scorer import RiskScorer
from enrichment.enrichers.geo import GEO, Place
from enrichment.enrichers.testing import FixedLookup, look_up_and_enrich, make_events
from enrichment.enrichers.user import USER, Profile
from enrichment.errors import SettingsError, SourceUnavailable
from enrichment.sources.sql_query import SqlSource
from tests.fixtures.postgres import Server

Connection = psycopg.Connection[Any]
REPOSITORY = Path(__file__).parents[4]
FETCH = sql.load("business_context/fetch")
LIMITS = Limits(5, 5, 5, read_only=True)
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


def fetch(connection: Connection, *request_ids: str, query: str = FETCH) -> Mapping[str, Entry]:
    """Ask a query once."""
    return business_query(lambda: connection, query).fetch_many(request_ids)


def test_documented_request_is_in_the_demonstration_data(demo: Connection) -> None:
    """`req-789` belongs to payments."""
    assert fetch(demo, "req-789")["req-789"].value == Context("payments", "payment", 1250.0, "USD")


def test_documented_message_has_risk_0_15_with_the_demonstration_data(demo: Connection) -> None:
    """The contract's example through the shipped query, data and rules."""
    events = make_events(source_ip=["8.8.8.8"], user_id=["user-123"], request_id=["req-789"])
    place = Place(country="United States", country_code="US", network_type="public")
    added = {
        "geo": look_up_and_enrich(OpenEnricher(GEO, FixedLookup({"8.8.8.8": place})), events, {}),
        "user": look_up_and_enrich(
            OpenEnricher(USER, FixedLookup({"user-123": Profile("premium", 365, "Acme Corp")})), events, {}
        ),
    }
    enricher = OpenEnricher(BUSINESS, FixedLookup(fetch(demo, "req-789")), RiskScorer(RiskRules.load()))
    business = look_up_and_enrich(enricher, events, added)
    written = json.loads(b"{%s}" % business.take(JSON)[0])
    assert (written["business_unit"], written["business_risk_score"]) == ("payments", 0.15)


def test_requests_are_found_or_absent_by_one_statement(demo: Connection) -> None:
    """Every key is answered, in one round for all; what the table lacks is absent."""
    entries = fetch(demo, "req-000000", "nobody", "req-000499", "req-000500")
    assert {key: entry.state for key, entry in entries.items()} == {
        "req-000000": State.FOUND, "nobody": State.ABSENT, "req-000499": State.FOUND, "req-000500": State.ABSENT,
    }  # fmt: skip
    assert (entries["nobody"].value, entries["nobody"].reason) == (None, "business-context-not-found")


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


@given(keys=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), unique=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@pytest.mark.parametrize("form", ["s", "t", "b"])
def test_keys_arrive_as_they_are(postgres_connection: Connection, form: str, keys: list[str]) -> None:
    """Whatever they hold: quotes, backslashes, commas, braces, "NULL", nothing; in each form of a placeholder."""
    query = f"""SELECT key AS request_id, key AS unit, NULL AS transaction_type, 1 AS amount, 'USD' AS currency
                FROM unnest(%(request_ids){form}::text[]) AS key"""
    entries = fetch(postgres_connection, *keys, query=query)
    assert [entry.value.unit for entry in entries.values()] == list(entries) == keys


def test_type_of_the_keys_is_that_of_their_place(numbered: Connection) -> None:
    """Ids that are all numbers are compared with numbers."""
    query = f"{NUMBERED}id = ANY(%(request_ids)s)"
    assert set(business_query(lambda: numbered, query)._ask(["1", "5000", "0"])) == {"1", "5000"}


def test_key_that_postgresql_cannot_hold_is_absent_and_costs_no_other(demo: Connection) -> None:
    """One odd request id must not fail the query for the whole chunk."""
    key = "a\0b"
    entries = fetch(demo, key, "req-789")
    assert (entries[key].state, entries["req-789"].state) == (State.ABSENT, State.FOUND)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT '' AS request_id, 1 AS unit, 1 AS amount WHERE %(request_ids)s::text[] IS NULL",
         "returns no column transaction_type, currency"),
        ("DO $$ BEGIN PERFORM %(request_ids)s; END $$", "syntax error"),
        ("SELEC * FROM demo_requests WHERE request_id = ANY(%(request_ids)s)", "syntax error"),
        (FETCH.replace("FROM demo_requests", "FROM there_is_no_such_table"), "there_is_no_such_table"),
        (FETCH.replace("    unit,", "    no_such_column,"), "no_such_column"),
        (FETCH.replace("    unit,", "    no_such_function(unit) AS unit,"), "no_such_function"),
        (f"{FETCH} AND unit LIKE 'a%'", "placeholders.*percent sign is written as two"),
        (f"{FETCH} AND unit = %(unit)s", "unit.*percent sign is written as two"),
        (FETCH.replace("%(request_ids)s", "%(keys)s"), r"does not use %\(request_ids\)s"),
        (f"{ONE_ROW.format(amount=1).split('WHERE')[0]} -- %(request_ids)s", r"does not use %\(request_ids\)s"),
        (f"SELECT 1; {ONE_ROW.format(amount=1)}", "multiple commands"),
        (ONE_ROW.format(amount="1 / 0"), "whatever it is asked for: division by zero"),
        (f"{FETCH} FOR UPDATE", "read-only transaction"),
        (f"WITH gone AS (DELETE FROM demo_requests RETURNING 1) {FETCH}", "data-modifying"),
        (FETCH.replace("FROM demo_requests", "FROM pg_authid, demo_requests"), "permission denied"),
        (FETCH.replace("ANY(%(request_ids)s)", "ANY(%(request_ids)s::bigint[])"), "operator does not exist"),
    ],
    ids=["columns", "no-query", "syntax", "table", "column", "function", "percent", "other-parameter", "no-parameter",
         "parameter-in-comment", "two-statements", "always-fails", "locks", "writes", "privileges", "types"],
)  # fmt: skip
def test_query_that_is_wrong_is_a_settings_error(reader: str, postgres_uri: str, query: str, said: str) -> None:
    """A query that was adapted wrongly fails the task, whatever it is asked for, and names its file and the database's
    words."""
    with closing(business_query(lambda: open_query(postgres_uri, user=reader), query)) as source:
        for keys in (["req-789"], ["nobody"]):
            with pytest.raises(SettingsError, match=f"business_context/fetch.sql .*{said}"):
                source.fetch_many(keys)


@pytest.fixture
def reader(demo: Connection) -> Iterator[str]:
    """A role that may do what it likes with the demonstration data, and nothing else."""
    demo.execute("CREATE ROLE reader LOGIN")
    demo.execute("GRANT SELECT, UPDATE, DELETE ON demo_requests TO reader")
    yield "reader"
    demo.execute("DROP OWNED BY reader")
    demo.execute("DROP ROLE reader")


NUMBERED = """SELECT id::text AS request_id, unit, kind AS transaction_type, total::numeric AS amount, 'USD' AS currency
              FROM numbered WHERE """
BY_CAST = "id = ANY(%(request_ids)s::bigint[])"


@pytest.fixture
def numbered(postgres_connection: Connection) -> Iterator[Connection]:
    """Orders 1 to 5,000 with numbers as ids; the total of one is no number, the parts of another are none."""
    postgres_connection.execute(
        "CREATE TABLE numbered (id bigint PRIMARY KEY, unit text, kind text, total text, n int)"
    )
    postgres_connection.execute(
        "INSERT INTO numbered SELECT i, 'orders', 'sale', i::text, i FROM generate_series(1, 5000) AS i"
    )
    postgres_connection.execute("UPDATE numbered SET total = 'much' WHERE id = 7")
    postgres_connection.execute("UPDATE numbered SET n = 0 WHERE id = 8")
    yield postgres_connection
    postgres_connection.execute("DROP TABLE numbered")


def states(entries: Mapping[str, Entry]) -> dict[State, int]:
    """How many keys were answered how."""
    return dict(Counter(entry.state for entry in entries.values()))


@pytest.mark.parametrize(
    "bad", ["abc", "1" * 20, "", "7", "Timișoara"], ids=["word", "20-digits", "empty", "row", "word-8"]
)
def test_key_for_which_the_query_fails_costs_itself(numbered: Connection, bad: str) -> None:
    """By a cast of the key, or by what its row holds: it has no context, for a while, and all others have theirs."""
    keys = [str(n) for n in range(1, 1_000) if n != 7]
    keys.insert(500, bad)
    entries = fetch(numbered, *keys, query=NUMBERED + BY_CAST)
    assert states(entries) == {State.FOUND: 998, State.ABSENT: 1}
    assert (entries[bad].state, entries[bad].reason) == (State.ABSENT, "business-context-not-found")
    assert fetch(numbered, bad, query=NUMBERED + BY_CAST)[bad].state is State.ABSENT


def test_fault_of_a_row_costs_its_request(numbered: Connection) -> None:
    """A division by zero in one row of the chunk."""
    keys = [str(n) for n in range(1, 20) if n != 7]
    entries = fetch(numbered, *keys, query=NUMBERED.replace("unit,", "(100 / n)::text AS unit,") + BY_CAST)
    assert [key for key in keys if entries[key].state is State.ABSENT] == ["8"]


def test_many_bad_keys_are_found_among_good_ones(numbered: Connection) -> None:
    """A flood of ids that are none: each is answered, and the good ones are not lost."""
    keys = [str(n) if n % 10 else f"bad-{n}" for n in range(1_000, 4_000)]
    entries = fetch(numbered, *keys, query=NUMBERED + BY_CAST)
    assert states(entries) == {State.FOUND: 2_700, State.ABSENT: 300}


def test_query_that_fails_for_every_key_is_an_outage_soon(numbered: Connection) -> None:
    """It is not the keys then: nothing is taken for an answer, the messages wait for a repair, and nobody asks for each
    key alone."""
    asked = 0

    def connect() -> Connection:
        return numbered

    source = business_query(connect, NUMBERED.replace("unit,", "(n / (n - n))::text AS unit,") + BY_CAST)
    read = source._read

    def counted(connection: Connection, keys: Sequence[str]) -> Entries:
        nonlocal asked
        asked += 1
        return read(connection, keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_read", counted)
        with pytest.raises(SourceUnavailable, match="fails for every key: division by zero") as raised:
            source.fetch_many([str(n) for n in range(1, 5_001) if n != 7])
    assert raised.value.reason == "database-connection-error"
    assert asked < 500


def test_search_ends_when_its_time_is_over(numbered: Connection) -> None:
    """Keys that were not asked for have failed and are repaired later; those that were have their answers. The time is
    that of the whole task."""
    ticks = itertools.count(step=0.05)
    source = business_query(lambda: numbered, NUMBERED + BY_CAST, timeout_seconds=30, clock=lambda: next(ticks))
    keys = [str(n) if n % 3 else f"bad-{n}" for n in range(1_000, 4_000)]
    first, second = source.fetch_many(keys), states_of_unavailable(source, keys)
    assert states(first)[State.FOUND] > 50
    assert states(first)[State.FAILED] > 1_000
    assert {e.reason for e in first.values() if e.state is State.FAILED} == {"database-connection-error"}
    assert all(e.state is not State.ABSENT or key.startswith("bad") for key, e in first.items())
    assert second == "unavailable"


def states_of_unavailable(source: SqlSource, keys: list[str]) -> str:
    """Whether a source gives up at once."""
    try:
        source.fetch_many(keys)
    except SourceUnavailable:
        return "unavailable"
    return "answered"


def test_rows_come_in_portions_and_have_an_end(postgres_connection: Connection) -> None:
    """A query that returns the same request again and again, or everything: the first row counts, far too many are the
    query's fault."""
    query = """SELECT key AS request_id, n::text AS unit, NULL AS transaction_type, 1 AS amount, NULL AS currency
               FROM generate_series(1, {rows}) AS n, unnest(%(request_ids)s::text[]) AS key ORDER BY n"""
    entries = fetch(postgres_connection, "1", query=query.format(rows=90_000))
    assert entries["1"].value.unit == "1"
    with pytest.raises(SettingsError, match="more than 100100 rows for 1 keys"):
        fetch(postgres_connection, "1", query=query.format(rows=3_000_000))


def test_values_that_python_cannot_hold_do_no_harm(postgres_connection: Connection) -> None:
    """Infinite dates, years before the first and odd types, in columns that we read and in others."""
    query = """SELECT 'infinity'::timestamptz AS at, '4713-01-01 BC'::date AS day, '1 year'::interval AS pause,
                      ARRAY[1, NULL] AS list, key AS request_id, '-infinity'::date AS unit, true AS transaction_type,
                      1e300::numeric * 1e300 AS amount, '{"a": 1}'::json AS currency
               FROM unnest(%(request_ids)s::text[]) AS key"""
    assert fetch(postgres_connection, "1", query=query)["1"].value == Context("-infinity", "t", None, '{"a": 1}')


def test_key_that_the_database_cannot_hold_costs_itself(embedded_postgres: Server) -> None:
    """A database of another encoding has no such request."""
    uri = embedded_postgres.make_encoded_database("LATIN1")
    with closing(open_query(uri)) as connection, psycopg.connect(uri, client_encoding="UTF8") as writer:
        load_demo(writer, requests=10)
        writer.execute("UPDATE demo_requests SET unit = 'Zürich' WHERE request_id = 'req-000001'")
        writer.commit()
        entries = fetch(connection, "req-000001", "Timișoara", "日本")
    assert entries["req-000001"].value.unit == "Zürich"
    assert states(entries) == {State.FOUND: 1, State.ABSENT: 2}


def recipe(text: str, after: str) -> str:
    """The SQL that documentation shows after some words."""
    lines = text.partition(after)[2].replace("\n-- ", "\n").replace("\n--", "\n")
    return lines.partition("WHERE ")[2].partition("\n\n")[0]


@pytest.mark.parametrize(
    ("text", "after"),
    [(FETCH, "An id that is a number"), ((REPOSITORY / "docs" / "extend.md").read_text(), "ids are numbers")],
    ids=["fetch.sql", "extend.md"],
)
def test_recipe_for_numeric_ids_takes_any_key(numbered: Connection, text: str, after: str) -> None:
    """As documented: whatever the messages hold, numbers are found by their index and nothing fails, not even once."""
    query = NUMBERED + recipe(text, after).removesuffix("```")
    odd = ["abc", "1" * 20, "", " 1", "1.0", "-5", "00012", "9223372036854775807", "9223372036854775808", "Timișoara"]
    source = business_query(lambda: numbered, query)
    entries = source._ask(["1", "5000", *odd])
    assert set(entries) == {"1", "5000"}
    plan = numbered.execute(b"EXPLAIN " + query.encode(), {"request_ids": ["1", *odd]}).fetchall()
    assert "numbered_pkey" in "\n".join(line for (line,) in plan)


def test_locked_table_costs_a_task_its_time_once(demo: Connection, postgres_uri: str) -> None:
    """`LOCK TABLE` on the users' table: an outage after the query's time; following chunks do not wait again, until the
    pause is over."""
    limits = Limits(2, 2, 1, read_only=True)
    source = business_query(lambda: open_query(postgres_uri, limits), FETCH, timeout_seconds=1)
    with closing(source), psycopg.connect(postgres_uri) as holder:
        holder.execute("LOCK TABLE demo_requests")
        for said in ("lock timeout", "not asked for", "not asked for"):
            with pytest.raises(SourceUnavailable, match=f"database-connection-error: .*{said}"):
                source.fetch_many(["req-789"])
        holder.rollback()
        time.sleep(1)
        assert source.fetch_many(["req-789"])["req-789"].state is State.FOUND


def test_query_that_takes_too_long_is_an_outage(demo: Connection, postgres_uri: str) -> None:
    """Its time is its own, whatever the server allows."""
    limits = Limits(2, 0.5, 0.5, read_only=True)
    query = FETCH.replace("    unit,", "    unit || pg_sleep(30)::text AS unit,")
    with (
        closing(business_query(lambda: open_query(postgres_uri, limits), query)) as source,
        pytest.raises(SourceUnavailable, match="statement timeout"),
    ):
        source.fetch_many(["req-789"])


def open_query(uri: str, limits: Limits = LIMITS, **parameters: str) -> Connection:
    """As tasks open the connection of the query."""
    return connect({**conninfo_to_dict(uri), **parameters}, limits)


@pytest.mark.parametrize("autocommit", [True, False])
def test_no_transaction_is_left_open(postgres_uri: str, demo: Connection, *, autocommit: bool) -> None:
    """After an answer and after a failure the connection is idle and usable, whatever its mode."""
    with psycopg.connect(postgres_uri, autocommit=autocommit) as connection:
        fetch(connection, "req-789")
        assert connection.info.transaction_status == TransactionStatus.IDLE
        with pytest.raises(SettingsError):
            fetch(connection, "req-789", query=FETCH.replace("demo_requests", "there_is_no_such_table"))
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert fetch(connection, "req-789")["req-789"].state is State.FOUND


def test_source_is_unavailable_when_the_database_is(postgres_uri: str) -> None:
    """A connection that is gone, or cannot be made, is the database's failure and named so."""
    closed = psycopg.connect(postgres_uri)
    closed.close()
    with pytest.raises(SourceUnavailable, match="database-connection-error") as raised:
        fetch(closed, "req-789")
    assert raised.value.reason == "database-connection-error"

    def refuse() -> Connection:
        raise psycopg.OperationalError("connection refused")

    with pytest.raises(SourceUnavailable, match="connection refused"):
        business_query(refuse, FETCH).fetch_many(["req-789"])


def test_connection_is_kept_until_it_breaks(postgres_uri: str, demo: Connection) -> None:
    """A task opens one connection; one that the server closed is replaced, without a failure; closing closes it."""
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(psycopg.connect(postgres_uri))
        return opened[-1]

    query = business_query(connect, FETCH)
    query.fetch_many(["req-789"])
    query.fetch_many(["req-789"])
    assert len(opened) == 1
    demo.execute("SELECT pg_terminate_backend(%s)", [opened[0].info.backend_pid])
    assert query.fetch_many(["req-789"])["req-789"].state is State.FOUND
    query.close()
    assert [connection.closed for connection in opened] == [True, True]


def test_version_changes_with_the_query() -> None:
    """Contexts that another query gave are fetched again."""
    same, other = business_query(_never, FETCH), business_query(_never, FETCH + " LIMIT 1")
    assert same.version == business_query(_never, FETCH).version != other.version


def _never() -> Connection:
    raise AssertionError("nothing is asked here")
