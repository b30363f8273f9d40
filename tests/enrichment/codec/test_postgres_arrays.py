"""PostgreSQL's binary arrays, as the real one sends them."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enrichment.codec.postgres_arrays import ArrayParameter, array_cursor, array_of, column_of
from tests.fixtures.postgres import Connection

COLUMNS = {
    "text": pa.string(),
    "double precision": pa.float64(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
}
storable = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
columns = st.one_of(
    st.tuples(st.just("text"), st.lists(st.none() | storable, min_size=1)),
    st.tuples(st.just("double precision"), st.lists(st.none() | st.floats(allow_nan=False), min_size=1)),
    st.tuples(st.just("bigint"), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=1)),
    st.tuples(st.just("boolean"), st.lists(st.none() | st.booleans(), min_size=1)),
)


def sent(connection: Connection, expression: str, *parameters: Any) -> bytes:
    """What PostgreSQL sends for an expression."""
    result = connection.cursor(binary=True).execute(f"SELECT {expression}".encode(), parameters).pgresult
    assert result is not None
    value = result.get_value(0, 0)
    assert value is not None
    return value


@given(column=columns)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_elements_come_back_when_they_were_sent(postgres_connection: Connection, column: tuple[str, list[Any]]) -> None:
    """Any elements, nulls among them, in their order and type."""
    kind, elements = column
    found = column_of(sent(postgres_connection, f"%s::{kind}[]", elements))
    assert found.type == COLUMNS[kind]
    assert found.to_pylist() == elements


@given(column=columns, cut=st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_columns_arrive_as_they_are(postgres_connection: Connection, column: tuple[str, list[Any]], cut: int) -> None:
    """Any elements, nulls among them, of a part of a column and of an empty one, too."""
    kind, elements = column
    given_column = pa.array(elements, COLUMNS[kind]).slice(cut)
    with array_cursor(postgres_connection) as cursor:
        question = f"SELECT %(c)s::{kind}[], pg_typeof(%(c)s::{kind}[])::text"
        found = cursor.execute(question.encode(), {"c": ArrayParameter(given_column)}).fetchone()
    assert found == (elements[cut:], f"{kind}[]")


def test_column_of_another_type_is_refused() -> None:
    """There are four types of cache columns; another one is a mistake of ours."""
    with pytest.raises(TypeError, match="type int32"):
        array_of(pa.array([1], pa.int32()))


def test_numbers_that_are_none_come_back(postgres_connection: Connection) -> None:
    """NaN and infinities are values of a double."""
    nan, *others = column_of(sent(postgres_connection, "'{NaN,Infinity,-Infinity}'::float8[]")).to_pylist()
    assert math.isnan(nan)
    assert others == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [("'{1,2}'::numeric[]", "type 1700"), ("'{{a,b},{c,d}}'::text[]", "2 dimensions"), ("'{}'::text[]", "no array"),
     ("'abc'::text", "no array")],
    ids=["of another type", "of two dimensions", "empty", "text"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(postgres_connection: Connection, expression: str, complaint: str) -> None:
    """An array that is none of the kinds that are read is named, not misread."""
    with pytest.raises(ValueError, match=complaint):
        column_of(sent(postgres_connection, expression))


def test_array_that_ends_early_is_refused(postgres_connection: Connection) -> None:
    """Wherever it ends: nothing behind its bytes is read."""
    whole = sent(postgres_connection, "ARRAY['one', NULL, 'three']")
    assert column_of(whole).to_pylist() == ["one", None, "three"]
    for size in range(len(whole)):
        with pytest.raises(ValueError, match=r"no array|ends before"):
            column_of(whole[:size])
