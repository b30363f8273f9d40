"""Between Arrow's columns and the frames that enrichers work on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.enrichers.base import batch_of, events_of, frame_of, keys_of

SCHEMA = pa.schema([("text", pa.string()), ("number", pa.float64()), ("whole", pa.int64()), ("flag", pa.bool_())])


@given(keys=st.lists(st.none() | st.text(max_size=3)))
def test_keys_are_the_distinct_ones_and_which_of_them_a_row_has(keys: list[str | None]) -> None:
    """In the order in which they come: a lookup's answers belong to them by their places."""
    found = keys_of(events_of({"field": pa.array(keys, pa.string())}), "field")
    assert found.dictionary.to_pylist() == list(dict.fromkeys(key for key in keys if key is not None))
    assert found.to_pylist() == keys


def test_frame_becomes_the_batch_that_it_was() -> None:
    """Nulls and numbers as they were: no int became a float on the way."""
    batch = pa.RecordBatch.from_pylist(
        [{"text": "a", "number": 1.5, "whole": 2**53 + 1, "flag": True}, {"text": None}], SCHEMA
    )
    assert batch_of(frame_of(dict(zip(SCHEMA.names, batch.columns, strict=True))), SCHEMA) == batch


def test_frame_of_pandas_own_columns_becomes_a_batch() -> None:
    """A derivation may compute as pandas does: NaN and None are null, other columns are left out."""
    frame = pd.DataFrame({
        "flag": [True, None], "number": [np.nan, 2.0], "text": ["a", None], "whole": pd.array([1, None], "Int64"),
        "other": [0, 0],
    })  # fmt: skip
    assert batch_of(frame, SCHEMA).to_pylist() == [
        {"text": "a", "number": None, "whole": 1, "flag": True},
        {"text": None, "number": 2.0, "whole": None, "flag": None},
    ]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (pd.DataFrame({"whole": [1.5, 2.0]}), r"column whole \(int64\): .*1\.5"),
        (pd.DataFrame({"whole": ["a", "b"]}), r"column whole \(int64\): "),
        (pd.DataFrame({"whole": [2**70, 1]}), r"column whole \(int64\): "),
        (pd.DataFrame({"other": [1]}), r"0 columns whole, where an enrichment of \['other'\]"),
        (pd.DataFrame([[1, 2]], columns=["whole", "whole"]), "2 columns whole"),
    ],
)
def test_column_that_does_not_fit_is_named(frame: pd.DataFrame, why: str) -> None:
    """Whoever wrote the derivation reads of it in the log of a task."""
    with pytest.raises(ValueError, match=why):
        batch_of(frame, pa.schema([("whole", pa.int64())]))
