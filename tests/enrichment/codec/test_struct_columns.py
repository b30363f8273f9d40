"""Structs as columns, and columns as JSON."""

from __future__ import annotations

import math

import msgspec
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from enrichment.codec.struct_columns import columns_of, fragments
from enrichment.enrichers.business import Risk
from enrichment.enrichers.geo import Place
from enrichment.enrichers.user import Profile

texts = st.none() | st.text(st.characters(codec="utf-8"))
structs = st.lists(
    st.builds(Place, country=texts, city=texts, latitude=st.none() | st.floats(), longitude=st.just(-0.0)) | st.none()
)
risks = st.lists(
    st.builds(
        Risk,
        risk_score=st.none() | st.floats(0, 1),
        fraud_indicators=st.none() | st.lists(texts.filter(bool)).map(tuple),
    )
)


@given(structs)
def test_fragments_are_the_json_of_the_structs(places: list[Place | None]) -> None:
    """Field by field as msgspec writes the struct, whatever it holds and however often; no struct is all null."""
    written = fragments(columns_of(places, Place)).to_pylist()
    assert [b"{%s}" % fragment for fragment in written] == [msgspec.json.encode(place or Place()) for place in places]


@given(risks)
def test_lists_are_written_too(scored: list[Risk]) -> None:
    """A list of texts is a value like any other."""
    written = fragments(columns_of(scored, Risk)).to_pylist()
    assert [b"{%s}" % fragment for fragment in written] == [msgspec.json.encode(risk) for risk in scored]


class Listed(msgspec.Struct, rename=lambda field: f"threat_{field}"):
    """What an enricher of somebody's own may add."""

    listed: bool | None = None


@given(st.lists(st.builds(Listed, listed=st.none() | st.booleans()) | st.none()))
def test_booleans_are_written_too(answers: list[Listed | None]) -> None:
    """A yes or no is a value like any other."""
    columns = columns_of(answers, Listed)
    assert columns["threat_listed"].type == pa.bool_()
    written = fragments(columns).to_pylist()
    assert [b"{%s}" % fragment for fragment in written] == [msgspec.json.encode(each or Listed()) for each in answers]


def test_what_json_cannot_say_is_null() -> None:
    """NaN and infinities have no place in JSON."""
    [first, second] = fragments({"a": pa.array([math.nan, math.inf])}).to_pylist()
    assert (first, second) == (b'"a":null', b'"a":null')


def test_columns_have_the_types_of_their_fields() -> None:
    """Also where all is null, or nothing is there at all."""
    for none in ([None, Profile()], []):
        types = {name: column.type for name, column in columns_of(none, Profile).items()}
        assert types == {
            "user_subscription_tier": pa.string(), "user_account_age_days": pa.int64(), "user_company": pa.string(),
        }  # fmt: skip
