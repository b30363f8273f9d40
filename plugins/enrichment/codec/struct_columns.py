"""Structs in, Arrow columns named as in the output out, and the JSON of such columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

StructType = type[msgspec.Struct]
# The Arrow type of an output field by the type that it has when it is not null. Arrow's own null is the only one: a
# frame of these columns never turns an int into a float or a null into NaN.
ARROW_TYPES = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    tuple[str, ...]: pa.list_(pa.string()),
}
_NULL = pa.scalar(b"null")
_encode_lines = msgspec.json.Encoder().encode_lines


@lru_cache
def fields_of(struct_type: StructType) -> tuple[msgspec.structs.FieldInfo, ...]:
    """The struct's fields, in order. msgspec works out their types anew whenever it is asked."""
    return msgspec.structs.fields(struct_type)


def not_null_type(field: msgspec.structs.FieldInfo) -> Any:
    """The type of an optional field without its None."""
    return get_args(field.type)[0]


@lru_cache
def arrow_types(struct_type: StructType) -> dict[str, pa.DataType]:
    """The type of each field's column, by its name in the output."""
    return {field.encode_name: ARROW_TYPES[not_null_type(field)] for field in fields_of(struct_type)}


def columns_of(structs: Sequence[msgspec.Struct | None], struct_type: StructType) -> dict[str, pa.Array]:
    """A column per field, named as in the output, with a row per struct; all null for None."""
    types = arrow_types(struct_type)
    nothing = (None,) * len(types)
    rows = [nothing if struct is None else msgspec.structs.astuple(struct) for struct in structs]
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return {name: pa.array(column, types[name]) for name, column in zip(types, columns, strict=True)}


def fragments(columns: Mapping[str, pa.Array]) -> pa.Array:
    """For each row the inside of a JSON object of these columns, without braces, as binary. NaN and infinities, which
    JSON does not have, become null."""
    parts: list[pa.Scalar | pa.Array] = []
    for name, column in columns.items():
        parts += [pa.scalar((b"," if parts else b"") + b'"%s":' % name.encode()), _texts(column)]
    return pc.binary_join_element_wise(*parts, pa.scalar(b""))


def _texts(column: pa.Array) -> pa.Array:
    """The JSON of each value; each distinct value is encoded once."""
    if pa.types.is_list(column.type):  # Arrow finds no distinct lists
        return _encoded(column)
    distinct = column.dictionary_encode()
    return pc.fill_null(_encoded(distinct.dictionary).take(distinct.indices), _NULL)


def _encoded(column: pa.Array) -> pa.Array:
    # A JSON text never holds a raw line feed, so one call encodes all and one split takes them apart.
    return pa.array(_encode_lines(column.to_pylist()).split(b"\n")[:-1], pa.binary())
